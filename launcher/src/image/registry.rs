//! Fetches an image from a registry into a directory of downloads, as an OCI layout.
//!
//! What is there already is not fetched again: whole blobs are taken as they
//! are, half ones are continued. Every byte is verified before a blob gets its
//! name. Must never speak without encryption to a registry that is neither on
//! this host nor named in the configuration.

use std::{io, net::IpAddr, time::Duration};

use oci_client::{
    Client, Reference, RegistryOperation,
    client::{BlobResponse, ClientConfig, ClientProtocol},
    errors::OciDistributionError,
    secrets::RegistryAuth,
};
use oci_spec::image::{Arch, Descriptor, ImageIndex, ImageManifest, Os};
use sha2::{Digest as _, Sha256};

use super::{credentials::CredentialsError, download::digest_text};
use crate::{config_images::ImageStoreConfig, host::HostError, image::credentials};

/// An index may point to an index.
const INDEX_DEPTH: usize = 4;
const CONNECT: Duration = Duration::from_secs(15);
/// Without a byte for so long, the connection counts as broken.
const SILENCE: Duration = Duration::from_secs(60);
const ACCEPTED: [&str; 4] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];

#[derive(Debug, thiserror::Error)]
pub enum PullError {
    #[error("`{reference}` is no image reference: {why}")]
    Reference { reference: String, why: String },
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    #[error("failed to ask `{registry}` for `{image}`: {why}")]
    Registry { registry: String, image: String, why: String },
    #[error("`{registry}` asks for a user and a password for `{image}`")]
    Denied { registry: String, image: String },
    #[error("`{image}` has no image for linux/{architecture}")]
    Platform { image: String, architecture: &'static str },
    #[error("what the registry sent for `{what}` is not what its digest says")]
    Digest { what: String },
    #[error("`{image}` is a download of {size} bytes (rule image_store.max_download_size)")]
    TooLarge { image: String, size: u64 },
    #[error(transparent)]
    Host(#[from] HostError),
}

/// An image in a registry, its manifest verified.
pub struct Found {
    pub digest: String,
    pub manifest: Vec<u8>,
    /// Configuration and layers.
    pub blobs: Vec<Descriptor>,
}

/// A conversation with one registry about one image.
pub struct Registry {
    client: Client,
    image: Reference,
    auth: RegistryAuth,
    max_download: u64,
}

/// The images' name for this host's processor.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn is_loopback(registry: &str) -> bool {
    let host = match registry.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => registry.split(':').next().unwrap_or_default(),
    };
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn sha256(bytes: &[u8]) -> String {
    digest_text(Sha256::new_with_prefix(bytes))
}

/// An address may carry a signature that is as good as a password.
fn without_addresses(text: &str) -> String {
    let mut rest = text;
    let mut clean = String::new();
    while let Some((before, after)) = rest.split_once(" for url (") {
        clean += before;
        rest = after.split_once(')').map_or("", |(_, rest)| rest);
    }
    clean + rest
}

impl Registry {
    pub fn new(settings: &ImageStoreConfig, reference: &str) -> Result<Self, PullError> {
        let image: Reference = reference.parse().map_err(|error: oci_client::ParseError| {
            PullError::Reference { reference: reference.to_owned(), why: error.to_string() }
        })?;
        if image.digest().is_some_and(|digest| !digest.starts_with("sha256:")) {
            let why = "only sha256 digests are known".to_owned();
            return Err(PullError::Reference { reference: reference.to_owned(), why });
        }
        let auth = match &settings.credentials {
            Some(path) => credentials::for_registry(path, image.registry())?,
            None => RegistryAuth::Anonymous,
        };
        let asked = image.resolve_registry().to_owned();
        let plain = is_loopback(&asked) || settings.insecure_registries.contains(&asked);
        // Fails only if another part of the process has chosen one: then that one counts.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let config = ClientConfig {
            protocol: if plain { ClientProtocol::Http } else { ClientProtocol::Https },
            connect_timeout: Some(CONNECT),
            read_timeout: Some(SILENCE),
            user_agent: concat!("adrastea/", env!("CARGO_PKG_VERSION")),
            ..ClientConfig::default()
        };
        let client = Client::try_from(config).map_err(|error| PullError::Registry {
            registry: asked,
            image: image.to_string(),
            why: without_addresses(&error.to_string()),
        })?;
        let max_download = settings.max_download_size.bytes();
        Ok(Self { client, image, auth, max_download })
    }

    fn failed(&self, error: &OciDistributionError) -> PullError {
        let registry = self.image.registry().to_owned();
        let image = self.image.to_string();
        match error {
            OciDistributionError::UnauthorizedError { .. }
            | OciDistributionError::AuthenticationFailure(_) => {
                PullError::Denied { registry, image }
            }
            error => PullError::Registry { registry, image, why: reason(error) },
        }
    }

    /// Asks what the reference names, and takes this host's platform of it.
    pub async fn find(&self) -> Result<Found, PullError> {
        let pull = RegistryOperation::Pull;
        self.client
            .auth(&self.image, &self.auth, pull)
            .await
            .map_err(|error| self.failed(&error))?;
        let mut image = self.image.clone();
        for _ in 0..INDEX_DEPTH {
            let (bytes, _) = self
                .client
                .pull_manifest_raw(&image, &self.auth, &ACCEPTED)
                .await
                .map_err(|error| self.failed(&error))?;
            let digest = sha256(&bytes);
            if image.digest().is_some_and(|wanted| wanted != digest) {
                return Err(PullError::Digest { what: image.to_string() });
            }
            // What it claims to be decides nothing: its content does.
            let Ok(manifest) = ImageManifest::from_reader(&bytes[..]) else {
                image = image.clone_with_digest(self.platform(&bytes)?);
                continue;
            };
            let mut blobs = vec![manifest.config().clone()];
            blobs.extend_from_slice(manifest.layers());
            let size = blobs
                .iter()
                .try_fold(0_u64, |sum, blob| sum.checked_add(blob.size()))
                .unwrap_or(u64::MAX);
            if size > self.max_download {
                return Err(PullError::TooLarge { image: self.image.to_string(), size });
            }
            return Ok(Found { digest, manifest: bytes.to_vec(), blobs });
        }
        Err(PullError::Platform { image: self.image.to_string(), architecture: architecture() })
    }

    /// The digest that an index names for this host.
    fn platform(&self, bytes: &[u8]) -> Result<String, PullError> {
        let index = ImageIndex::from_reader(bytes).map_err(|error| PullError::Registry {
            registry: self.image.registry().to_owned(),
            image: self.image.to_string(),
            why: format!("it sent neither a manifest nor an index: {error}"),
        })?;
        let own = index.manifests().iter().find(|manifest| {
            manifest.platform().as_ref().is_none_or(|platform| {
                *platform.os() == Os::Linux
                    && *platform.architecture() == Arch::from(architecture())
            })
        });
        match own {
            Some(manifest) => Ok(manifest.digest().to_string()),
            None => Err(PullError::Platform {
                image: self.image.to_string(),
                architecture: architecture(),
            }),
        }
    }

    /// Opens a blob at an offset; a registry that knows no ranges sends all of it.
    pub(super) async fn open(&self, digest: &str, offset: u64) -> Result<BlobResponse, PullError> {
        self.client
            .pull_blob_stream_partial(&self.image, digest, offset, None)
            .await
            .map_err(|error| self.failed(&error))
    }
}

/// A stream's error, in words without addresses.
pub fn broken(error: &io::Error) -> String {
    without_addresses(&crate::host::chain(error))
}

fn reason(error: &OciDistributionError) -> String {
    without_addresses(&crate::host::chain(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_host_is_asked_without_encryption() {
        for host in ["localhost", "localhost:5000", "127.0.0.1:5000", "127.8.9.1", "[::1]:5000"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["localhost.example", "127.0.0.1.example:80", "10.0.0.1:5000", "docker.io"] {
            assert!(!is_loopback(host), "{host}");
        }
    }

    #[test]
    fn addresses_stay_out_of_errors() {
        let text = "error sending request for url (https://r/x?sig=secret): broken";
        assert_eq!(without_addresses(text), "error sending request: broken");
    }
}
