//! What an image's JSON says, checked: pure code over untrusted text.
//!
//! Must never trust an annotation or a label: nothing here reads them.

use oci_spec::image::{
    Descriptor, DigestAlgorithm, ImageConfiguration, ImageIndex, ImageManifest, MediaType,
};
use sha2::{Digest, Sha256};

use crate::engine::ImageDescription;

/// No index, manifest or configuration is honestly larger.
pub(super) const JSON_LIMIT: u64 = 8 << 20;
/// What overlayfs can stack, and more than any image has.
const LAYER_LIMIT: usize = 128;
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_LAYERS: [&str; 2] = [
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
];

/// Why an image is of no use, in words.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0}")]
pub(super) struct Unusable(pub(super) String);

pub(super) fn unusable<T>(reason: impl Into<String>) -> Result<T, Unusable> {
    Err(Unusable(reason.into()))
}

/// One image for this host's platform.
#[derive(Clone, Debug)]
pub(super) struct ImageFacts {
    pub(super) manifest: Descriptor,
    pub(super) configuration: Descriptor,
    pub(super) layers: Vec<Layer>,
    pub(super) environment: Vec<(String, String)>,
    /// For people only.
    pub(super) description: ImageDescription,
}

/// One layer, bottom ones first.
#[derive(Clone, Debug)]
pub(super) struct Layer {
    pub(super) blob: Descriptor,
    /// Digest of the uncompressed tar.
    pub(super) diff_id: String,
    /// Names the snapshot of this layer on top of all below it.
    pub(super) chain_id: String,
}

impl ImageFacts {
    pub(super) fn chain_id(&self) -> &str {
        self.layers.last().map_or("", |layer| layer.chain_id.as_str())
    }

    pub(super) fn size_bytes(&self) -> u64 {
        let layers: u64 = self.layers.iter().map(|layer| layer.blob.size()).sum();
        self.manifest.size() + self.configuration.size() + layers
    }

    /// From the verified bytes of manifest and configuration.
    pub(super) fn new(
        manifest: Descriptor,
        parsed: &ImageManifest,
        configuration: &ImageConfiguration,
    ) -> Result<Self, Unusable> {
        let (os, architecture) =
            (configuration.os().to_string(), configuration.architecture().to_string());
        if os != "linux" || architecture != host_architecture() {
            return unusable(format!(
                "it is made for {os}/{architecture}, this node is linux/{}",
                host_architecture()
            ));
        }
        let diff_ids = configuration.rootfs().diff_ids();
        let blobs = parsed.layers();
        if blobs.is_empty() || blobs.len() > LAYER_LIMIT {
            return unusable(format!("it has {} layers, not 1 to {LAYER_LIMIT}", blobs.len()));
        }
        if blobs.len() != diff_ids.len() {
            return unusable(format!(
                "its manifest has {} layers and its configuration {}",
                blobs.len(),
                diff_ids.len()
            ));
        }
        let mut layers: Vec<Layer> = Vec::with_capacity(blobs.len());
        for (blob, diff_id) in blobs.iter().zip(diff_ids) {
            sha256_hex(blob)?;
            if !is_layer(blob.media_type()) {
                return unusable(format!("a layer has the media type {}", blob.media_type()));
            }
            if !is_sha256(diff_id) {
                return unusable("its configuration has a diff id that is no sha256 digest");
            }
            let chain_id = match layers.last() {
                None => diff_id.clone(),
                Some(below) => sha256(format!("{} {diff_id}", below.chain_id).as_bytes()),
            };
            layers.push(Layer { blob: blob.clone(), diff_id: diff_id.clone(), chain_id });
        }
        Ok(Self {
            manifest,
            configuration: parsed.config().clone(),
            layers,
            environment: environment(configuration),
            description: description(configuration),
        })
    }
}

fn description(configuration: &ImageConfiguration) -> ImageDescription {
    let Some(config) = configuration.config() else { return ImageDescription::default() };
    ImageDescription {
        user: config.user().clone().unwrap_or_default(),
        entry_point: config.entrypoint().clone().unwrap_or_default(),
        command: config.cmd().clone().unwrap_or_default(),
        volumes: config.volumes().clone().unwrap_or_default(),
    }
}

fn environment(configuration: &ImageConfiguration) -> Vec<(String, String)> {
    let lines = configuration.config().as_ref().and_then(|config| config.env().clone());
    lines
        .unwrap_or_default()
        .iter()
        .filter_map(|line| line.split_once('='))
        .filter(|(name, value)| !name.is_empty() && !name.contains('\0') && !value.contains('\0'))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

/// The index's entries that may be an image for this host: its platform says
/// so, or it has none (then the configuration decides).
pub(super) fn candidates(index: &ImageIndex) -> Vec<Descriptor> {
    let fits = |descriptor: &&Descriptor| {
        descriptor.platform().as_ref().is_none_or(|platform| {
            platform.os().to_string() == "linux"
                && platform.architecture().to_string() == host_architecture()
        })
    };
    index.manifests().iter().filter(fits).cloned().collect()
}

pub(super) fn is_manifest(media_type: &MediaType) -> bool {
    *media_type == MediaType::ImageManifest || media_type.as_ref() == DOCKER_MANIFEST
}

pub(super) fn is_index(media_type: &MediaType) -> bool {
    *media_type == MediaType::ImageIndex || media_type.as_ref() == DOCKER_INDEX
}

fn is_layer(media_type: &MediaType) -> bool {
    matches!(
        media_type,
        MediaType::ImageLayer | MediaType::ImageLayerGzip | MediaType::ImageLayerZstd
    ) || DOCKER_LAYERS.contains(&media_type.as_ref())
}

/// The architecture's name as images know it.
pub(super) fn host_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// `sha256:…` of some bytes.
pub(super) fn sha256(bytes: &[u8]) -> String {
    digest_text(Sha256::digest(bytes).as_slice())
}

pub(super) fn digest_text(hash: &[u8]) -> String {
    hash.iter().fold("sha256:".to_owned(), |text, byte| text + &format!("{byte:02x}"))
}

pub(super) fn is_sha256(text: &str) -> bool {
    text.strip_prefix("sha256:").is_some_and(|hex| {
        hex.len() == 64 && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    })
}

/// The hexadecimal part of a descriptor's digest; only sha256 is known here.
pub(super) fn sha256_hex(descriptor: &Descriptor) -> Result<&str, Unusable> {
    let digest = descriptor.digest();
    if *digest.algorithm() == DigestAlgorithm::Sha256 && is_sha256(digest.as_ref()) {
        Ok(digest.digest())
    } else {
        unusable(format!("`{digest}` is no sha256 digest"))
    }
}

/// Untrusted JSON of a verified blob.
pub(super) fn parse<T>(
    what: &str,
    bytes: &[u8],
    parser: impl FnOnce(&[u8]) -> oci_spec::Result<T>,
) -> Result<T, Unusable> {
    parser(bytes).map_err(|error| Unusable(format!("its {what} cannot be read: {error}")))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::str::FromStr;

    use oci_spec::image::{Digest as ImageDigest, MediaType};
    use serde_json::json;

    use super::*;

    fn descriptor(media_type: MediaType, fill: char) -> Descriptor {
        let digest = format!("sha256:{}", fill.to_string().repeat(64));
        Descriptor::new(media_type, 10, ImageDigest::from_str(&digest).unwrap())
    }

    fn configuration(architecture: &str, diff_ids: &[&str]) -> ImageConfiguration {
        let text = json!({
            "architecture": architecture, "os": "linux",
            "config": {"Env": ["A=1", "B=x=y", "broken"], "Labels": {"containerd.io/gc.root": "1"}},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            "history": [],
        });
        ImageConfiguration::from_reader(text.to_string().as_bytes()).unwrap()
    }

    fn manifest(layers: &[Descriptor]) -> ImageManifest {
        let text = json!({
            "schemaVersion": 2,
            "config": descriptor(MediaType::ImageConfig, 'c'),
            "layers": layers,
        });
        ImageManifest::from_reader(text.to_string().as_bytes()).unwrap()
    }

    fn facts(layers: &[Descriptor], diff_ids: &[&str]) -> Result<ImageFacts, Unusable> {
        ImageFacts::new(
            descriptor(MediaType::ImageManifest, 'e'),
            &manifest(layers),
            &configuration(host_architecture(), diff_ids),
        )
    }

    #[test]
    fn chain_ids_follow_the_image_specification() {
        let (first, second) = (sha256(b"1"), sha256(b"2"));
        let layers =
            [descriptor(MediaType::ImageLayer, 'a'), descriptor(MediaType::ImageLayer, 'b')];
        let facts = facts(&layers, &[&first, &second]).unwrap();
        assert_eq!(facts.layers[0].chain_id, first);
        assert_eq!(facts.chain_id(), sha256(format!("{first} {second}").as_bytes()));
        let environment = [("A", "1"), ("B", "x=y")].map(|(a, b)| (a.to_owned(), b.to_owned()));
        assert_eq!(facts.environment, environment);
    }

    #[test]
    fn an_image_must_be_whole_and_for_this_host() {
        let layer = descriptor(MediaType::ImageLayer, 'a');
        let good = sha256(b"1");
        assert!(facts(&[], &[]).is_err());
        assert!(facts(std::slice::from_ref(&layer), &[&good, &good]).is_err());
        assert!(facts(std::slice::from_ref(&layer), &["sha256:../../x"]).is_err());
        let foreign = descriptor(MediaType::ImageLayerNonDistributable, 'a');
        assert!(facts(&[foreign], &[&good]).is_err());
        let error = ImageFacts::new(
            descriptor(MediaType::ImageManifest, 'e'),
            &manifest(&[layer]),
            &configuration("s390x", &[&good]),
        );
        assert!(error.unwrap_err().0.contains("made for linux/s390x"));
    }
}
