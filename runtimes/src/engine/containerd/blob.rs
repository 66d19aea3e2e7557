//! Where the bytes of a blob are, outside of containerd, and how they are read.
//!
//! Must never read beyond the place.

use std::{
    fs,
    io::{self, Read, Seek as _, SeekFrom},
    path::PathBuf,
    sync::Arc,
};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncSeekExt as _};

#[derive(Clone, Debug)]
pub(super) enum Place {
    /// A part of a file, or all of it.
    File { path: PathBuf, offset: u64, size: u64 },
    /// Written by us, of what the archive says in another form.
    Memory(Arc<[u8]>),
}

impl Place {
    pub(super) fn size(&self) -> u64 {
        match self {
            Self::File { size, .. } => *size,
            Self::Memory(bytes) => bytes.len() as u64,
        }
    }

    pub(super) async fn open(&self) -> io::Result<Box<dyn AsyncRead + Send + Unpin>> {
        match self {
            Self::File { path, offset, size } => {
                let mut file = tokio::fs::File::open(path).await?;
                file.seek(SeekFrom::Start(*offset)).await?;
                Ok(Box::new(file.take(*size)))
            }
            Self::Memory(bytes) => Ok(Box::new(io::Cursor::new(Arc::clone(bytes)))),
        }
    }

    pub(super) fn open_blocking(&self) -> io::Result<Box<dyn Read + Send>> {
        match self {
            Self::File { path, offset, size } => {
                let mut file = fs::File::open(path)?;
                file.seek(SeekFrom::Start(*offset))?;
                Ok(Box::new(io::BufReader::with_capacity(1 << 18, file.take(*size))))
            }
            Self::Memory(bytes) => Ok(Box::new(io::Cursor::new(Arc::clone(bytes)))),
        }
    }

    /// For small ones, whose size was looked at.
    pub(super) fn read_whole(&self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.open_blocking()?.read_to_end(&mut bytes)?;
        if bytes.len() as u64 == self.size() {
            Ok(bytes)
        } else {
            Err(io::ErrorKind::UnexpectedEof.into())
        }
    }

    /// The first bytes, as many as there are.
    pub(super) fn head<const LENGTH: usize>(&self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(LENGTH);
        self.open_blocking()?.take(LENGTH as u64).read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}
