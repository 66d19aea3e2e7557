//! Looks through a layer before containerd unpacks it: is it what its digests
//! say, does it stay within bounds once unpacked, and does it name only what
//! lies in its own tree.
//!
//! Reads only, and must never keep more of a layer in memory than a buffer.

use std::{
    io::{self, Read},
    path::{Component, Path},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use sha2::{Digest as _, Sha256};

use super::{
    archive::{ArchiveError, bad},
    blob::Place,
    manifest::{Layer, Unusable, digest_text},
};
use crate::engine::ImageLimits;

const GZIP: [u8; 2] = [0x1f, 0x8b];
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// How a layer's tar is packed, by its first bytes: what its media type claims
/// decides nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Packing {
    Plain,
    Gzip,
    Zstd,
}

impl Packing {
    pub(super) fn of(place: &Place) -> io::Result<Self> {
        let head = place.head::<4>()?;
        Ok(if head.starts_with(&GZIP) {
            Self::Gzip
        } else if head.starts_with(&ZSTD) {
            Self::Zstd
        } else {
            Self::Plain
        })
    }
}

/// What may still be unpacked of an image.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    bytes: u64,
    files: u64,
    limits: ImageLimits,
}

impl Budget {
    pub(super) fn new(limits: ImageLimits) -> Self {
        Self { bytes: limits.unpacked_bytes, files: limits.files, limits }
    }

    fn take(&mut self, size: u64) -> Result<(), Unusable> {
        let Some(bytes) = self.bytes.checked_sub(size) else {
            return Err(Unusable(format!(
                "it unpacks to more than {} bytes (rule image_store.max_unpacked_size)",
                self.limits.unpacked_bytes
            )));
        };
        let Some(files) = self.files.checked_sub(1) else {
            return Err(Unusable(format!(
                "it unpacks to more than {} files (rule image_store.max_files)",
                self.limits.files
            )));
        };
        (self.bytes, self.files) = (bytes, files);
        Ok(())
    }
}

/// Hashes what passes, and counts it for whoever shows progress.
struct Hashing<R> {
    inner: R,
    hash: Sha256,
    read: u64,
    seen: Option<Arc<AtomicU64>>,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hash.update(&buffer[..count]);
        self.read += count as u64;
        if let Some(seen) = &self.seen {
            seen.fetch_add(count as u64, Ordering::Relaxed);
        }
        Ok(count)
    }
}

/// Ends a bomb while it unpacks, not after it.
struct Bounded<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.left = self.left.checked_sub(count as u64).ok_or(io::ErrorKind::FileTooLarge)?;
        Ok(count)
    }
}

/// Looks through one layer; blocking. `seen` counts the bytes of the blob.
pub(super) fn inspect(
    place: &Place,
    layer: &Layer,
    budget: &mut Budget,
    seen: &Arc<AtomicU64>,
) -> Result<(), ArchiveError> {
    let packing = Packing::of(place)?;
    let mut packed = Hashing {
        inner: place.open_blocking()?,
        hash: Sha256::new(),
        read: 0,
        seen: Some(Arc::clone(seen)),
    };
    let looked = match packing {
        Packing::Plain => look(&mut packed, budget).map(|_| None),
        Packing::Gzip => {
            look(&mut flate2::bufread::MultiGzDecoder::new(io::BufReader::new(&mut packed)), budget)
                .map(Some)
        }
        Packing::Zstd => match zstd::Decoder::new(&mut packed) {
            Ok(mut decoder) => look(&mut decoder, budget).map(Some),
            Err(error) => Err(error.into()),
        },
    };
    // A bomb need not be read to its end.
    if let Err(ArchiveError::Unusable(reason)) = looked {
        return Err(ArchiveError::Unusable(reason));
    }
    io::copy(&mut packed, &mut io::sink())?;
    let digest = digest_text(&packed.hash.finalize());
    if digest != layer.blob.digest().to_string() {
        return bad(format!("the blob {} has another digest", layer.blob.digest()));
    }
    let unpacked = match looked {
        Ok(unpacked) => unpacked.unwrap_or(digest),
        Err(ArchiveError::Io(error)) => {
            return bad(format!("the layer {} is no whole tar: {error}", layer.blob.digest()));
        }
        Err(error) => return Err(error),
    };
    if unpacked != layer.diff_id {
        return bad(format!(
            "the layer {} unpacks to {unpacked} instead of {}",
            layer.blob.digest(),
            layer.diff_id
        ));
    }
    Ok(())
}

/// Goes through a tar to its very end; answers its digest.
fn look(tar: &mut dyn Read, budget: &mut Budget) -> Result<String, ArchiveError> {
    // Headers and padding count, too: a tar of nothing else is a bomb as well.
    let left = budget.bytes.saturating_add(budget.files.saturating_mul(4096));
    let mut reader =
        Hashing { inner: Bounded { inner: tar, left }, hash: Sha256::new(), read: 0, seen: None };
    let looked = look_at_entries(&mut reader, budget)
        .and_then(|()| Ok(io::copy(&mut reader, &mut io::sink()).map(|_| ())?));
    match looked {
        Ok(()) => Ok(digest_text(&reader.hash.finalize())),
        Err(ArchiveError::Io(error)) if error.kind() == io::ErrorKind::FileTooLarge => {
            bad(format!(
                "it unpacks to more than {} bytes (rule image_store.max_unpacked_size)",
                budget.limits.unpacked_bytes
            ))
        }
        Err(error) => Err(error),
    }
}

fn look_at_entries(reader: &mut dyn Read, budget: &mut Budget) -> Result<(), ArchiveError> {
    let mut archive = tar::Archive::new(reader);
    for entry in archive.entries()? {
        let entry = entry?;
        budget.take(entry.size())?;
        let name = entry.path_bytes();
        if !stays_inside(&name) {
            return bad(format!("a layer names `{}`", name.escape_ascii()));
        }
        if entry.header().entry_type().is_hard_link() {
            let target = entry.link_name_bytes().unwrap_or_default();
            if !stays_inside(&target) {
                return bad(format!("a layer links to `{}`", target.escape_ascii()));
            }
        }
    }
    Ok(())
}

/// No `..` on the way. (A symbolic link may lead anywhere: it is only followed
/// inside, by the sandbox itself.)
fn stays_inside(name: &[u8]) -> bool {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt as _};
    !name.contains(&0)
        && !Path::new(OsStr::from_bytes(name))
            .components()
            .any(|part| matches!(part, Component::ParentDir))
}

#[cfg(test)]
#[path = "layer_tests.rs"]
mod tests;
