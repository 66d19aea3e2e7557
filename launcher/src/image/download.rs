//! The directory of downloads: an OCI layout that fills up, blob by blob.
//!
//! ```text
//! blobs/sha256/<digest>        whole, and verified
//! blobs/sha256/<digest>.part   what has arrived so far; survives whoever fetched it
//! ```
//!
//! A blob gets its name only when its digest is right. One pull at a time uses it.

use std::{
    fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
    time::Duration,
};

use futures_util::TryStreamExt as _;
use oci_client::client::BlobResponse;
use oci_spec::image::Descriptor;
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncWriteExt as _;

use super::registry::{PullError, Registry, broken};
use crate::host::{Attempt as _, HostError, tolerate_absence};

/// Attempts in a row that bring nothing.
const PATIENCE: u32 = 6;

pub struct Downloads {
    directory: PathBuf,
}

impl Downloads {
    pub fn new(directory: PathBuf) -> Result<Self, HostError> {
        let blobs = directory.join("blobs/sha256");
        fs::create_dir_all(&blobs).attempt("create", &blobs)?;
        Ok(Self { directory })
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    fn blob(&self, digest: &str) -> PathBuf {
        self.directory.join("blobs/sha256").join(digest.trim_start_matches("sha256:"))
    }

    /// Makes a layout of what is there: this manifest and no other image.
    pub fn name(&self, digest: &str, manifest: &[u8]) -> Result<(), HostError> {
        let write =
            |path: PathBuf, content: &[u8]| fs::write(&path, content).attempt("write", &path);
        write(self.blob(digest), manifest)?;
        write(self.directory.join("oci-layout"), br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        let index = serde_json::json!({"schemaVersion": 2, "manifests": [{
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": digest, "size": manifest.len(),
        }]});
        write(self.directory.join("index.json"), index.to_string().as_bytes())
    }

    /// Forgets blobs that have arrived elsewhere.
    pub fn forget<'digests>(
        &self,
        digests: impl IntoIterator<Item = &'digests str>,
    ) -> Result<(), HostError> {
        for digest in digests {
            let path = self.blob(digest);
            tolerate_absence(fs::remove_file(&path)).attempt("remove", &path)?;
        }
        Ok(())
    }

    /// Everything that is there, whole or half.
    pub fn clear(directory: &Path) -> Result<(), HostError> {
        tolerate_absence(fs::remove_dir_all(directory)).attempt("remove", directory)
    }

    /// Fetches one blob, going on from what is there of it; a broken stream is asked for again.
    pub async fn fetch(
        &self,
        registry: &Registry,
        blob: &Descriptor,
        arrived: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<PathBuf, PullError> {
        let digest = blob.digest().to_string();
        if !is_sha256(&digest) {
            return Err(PullError::Digest { what: digest });
        }
        let (whole, part) = (self.blob(&digest), self.blob(&digest).with_extension("part"));
        if fs::metadata(&whole).is_ok_and(|metadata| metadata.len() == blob.size()) {
            arrived(blob.size());
            return Ok(whole);
        }
        let mut state = resume(&part, blob.size())?;
        let mut fruitless = 0;
        while state.length < blob.size() {
            arrived(state.length);
            let before = state.length;
            let why = match registry.open(&digest, before).await {
                Ok(answer) => {
                    match receive(&part, &mut state, blob.size(), answer, arrived).await {
                        Ok(()) if state.length == blob.size() => break,
                        Ok(()) => "the connection ended early".to_owned(),
                        Err(Broken::Stream(why)) => why,
                        Err(Broken::Host(error)) => return Err(error.into()),
                    }
                }
                Err(error @ PullError::Registry { .. }) => error.to_string(),
                Err(error) => return Err(error),
            };
            fruitless = if state.length > before { 0 } else { fruitless + 1 };
            if fruitless >= PATIENCE {
                return Err(PullError::Registry {
                    registry: "the registry".into(),
                    image: digest,
                    why,
                });
            }
            tracing::info!(digest, why, at = state.length, "the download broke off; going on");
            tokio::time::sleep(Duration::from_millis(200 << fruitless.min(4))).await;
        }
        if digest_text(state.hash) != digest {
            fs::remove_file(&part).attempt("remove", &part)?;
            return Err(PullError::Digest { what: digest });
        }
        if blob.size() == 0 {
            fs::write(&part, []).attempt("write", &part)?;
        }
        fs::rename(&part, &whole).attempt("rename", &whole)?;
        arrived(blob.size());
        Ok(whole)
    }
}

/// What has arrived of a blob.
struct State {
    length: u64,
    hash: Sha256,
}

enum Broken {
    Stream(String),
    Host(HostError),
}

/// Hashes what an earlier attempt has left.
fn resume(part: &Path, size: u64) -> Result<State, HostError> {
    let mut state = State { length: 0, hash: Sha256::new() };
    let mut file = match fs::File::open(part) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(state),
        Err(error) => return Err(HostError::new("open", part, error)),
    };
    let mut buffer = vec![0; 1 << 18];
    loop {
        let count = file.read(&mut buffer).attempt("read", part)?;
        if count == 0 {
            return Ok(state);
        }
        state.length += count as u64;
        if state.length > size {
            fs::remove_file(part).attempt("remove", part)?;
            return Ok(State { length: 0, hash: Sha256::new() });
        }
        state.hash.update(&buffer[..count]);
    }
}

async fn receive(
    part: &Path,
    state: &mut State,
    size: u64,
    answer: BlobResponse,
    arrived: &(dyn Fn(u64) + Send + Sync),
) -> Result<(), Broken> {
    let (mut stream, whole) = match answer {
        BlobResponse::Full(stream) => (stream, true),
        BlobResponse::Partial(stream) => (stream, false),
    };
    let host = |error| Broken::Host(HostError::new("write", part, error));
    let mut options = tokio::fs::OpenOptions::new();
    options.create(true).mode(0o600);
    if whole {
        // It does not know ranges: from the start again.
        (state.length, state.hash) = (0, Sha256::new());
        options.write(true).truncate(true);
    } else {
        options.append(true);
    }
    let mut file = options.open(part).await.map_err(host)?;
    let received = async {
        while let Some(chunk) =
            stream.try_next().await.map_err(|error| Broken::Stream(broken(&error)))?
        {
            if state.length + chunk.len() as u64 > size {
                return Err(Broken::Stream("it sent more than it announced".into()));
            }
            file.write_all(&chunk).await.map_err(host)?;
            state.hash.update(&chunk);
            state.length += chunk.len() as u64;
            arrived(state.length);
        }
        Ok(())
    }
    .await;
    // What was counted must be in the file before anybody goes on from it.
    file.flush().await.map_err(host)?;
    received
}

fn is_sha256(text: &str) -> bool {
    text.strip_prefix("sha256:").is_some_and(|hex| {
        hex.len() == 64 && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    })
}

pub(super) fn digest_text(hash: Sha256) -> String {
    hash.finalize().iter().fold("sha256:".to_owned(), |text, byte| text + &format!("{byte:02x}"))
}
