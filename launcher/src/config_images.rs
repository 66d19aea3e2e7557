//! How images come to this node: the table `[image_store]`.
//!
//! Only names and bounds; the credentials themselves are in a file of their own,
//! and never here.

use std::{path::PathBuf, time::Duration};

use serde::Deserialize;

use crate::quantity::ByteSize;

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ImageStoreConfig {
    /// A file in the format of docker's `config.json`. Must be root's, and readable by root alone.
    pub credentials: Option<PathBuf>,
    /// Registries, as `host` or `host:port`, that are asked over HTTP without
    /// encryption. Those on a loopback address always are.
    pub insecure_registries: Vec<String>,
    /// The most a layer's download may bring, all layers of an image together.
    pub max_download_size: ByteSize,
    /// The most an image may unpack to.
    pub max_unpacked_size: ByteSize,
    /// The most files, directories and links an image may have.
    pub max_files: u64,
    /// An image that neither the configuration names nor a sandbox uses is removed
    /// after so many days; 0: never.
    pub remove_unused_after_days: u32,
}

impl Default for ImageStoreConfig {
    fn default() -> Self {
        Self {
            credentials: None,
            insecure_registries: Vec::new(),
            max_download_size: ByteSize::mebibytes(32 << 10),
            max_unpacked_size: ByteSize::mebibytes(64 << 10),
            max_files: 4_000_000,
            remove_unused_after_days: 30,
        }
    }
}

impl ImageStoreConfig {
    /// How long an unused image is kept; nothing: for ever.
    pub fn unused_for(&self) -> Option<Duration> {
        let days = self.remove_unused_after_days;
        (days > 0).then(|| Duration::from_secs(u64::from(days) * 24 * 60 * 60))
    }

    /// What contradicts itself in it.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.credentials.as_ref().is_some_and(|path| !path.is_absolute()) {
            problems.push("image_store.credentials is no absolute path".into());
        }
        for registry in &self.insecure_registries {
            if registry.is_empty() || registry.contains(['/', '@', ' ']) {
                problems.push(format!(
                    "image_store.insecure_registries: `{registry}` is no `host` or `host:port`"
                ));
            }
        }
        if self.max_files == 0 {
            problems.push("image_store.max_files is 0: no image would fit".into());
        }
        problems
    }
}
