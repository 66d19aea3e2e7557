//! What a registry is shown: from a file in the format of docker's `config.json`.
//!
//! Read at every pull, so that a changed one counts at once. A credential must
//! never reach a log, an error or a `Debug`.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use oci_client::secrets::RegistryAuth;
use serde::Deserialize;

/// Docker's own name for its registry, from before registries had one.
const DOCKER_HUB: [&str; 3] = ["https://index.docker.io/v1/", "index.docker.io", "docker.io"];

#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    #[error("failed to read `{path}`")]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("`{path}` is not safe: {why}")]
    Unsafe { path: PathBuf, why: &'static str },
    /// Without the parser's words: they may quote the content.
    #[error("`{path}` is no credentials file: {why}")]
    Format { path: PathBuf, why: String },
}

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
}

#[derive(Deserialize)]
struct Entry {
    /// Base64 of `user:password`.
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    registrytoken: Option<String>,
}

/// What to show to `registry`; anonymous if the file does not name it.
pub fn for_registry(path: &Path, registry: &str) -> Result<RegistryAuth, CredentialsError> {
    let refuse = |why| CredentialsError::Unsafe { path: path.to_owned(), why };
    let read = |source| CredentialsError::Read { path: path.to_owned(), source };
    let metadata = fs::symlink_metadata(path).map_err(read)?;
    if !metadata.is_file() {
        return Err(refuse("it is not a regular file"));
    }
    if metadata.uid() != 0 {
        return Err(refuse("it does not belong to root"));
    }
    if metadata.mode() & 0o077 != 0 {
        return Err(refuse("others than root may read it"));
    }
    let text = fs::read_to_string(path).map_err(read)?;
    parse(&text, registry).map_err(|why| CredentialsError::Format { path: path.to_owned(), why })
}

fn parse(text: &str, registry: &str) -> Result<RegistryAuth, String> {
    let file: File = serde_json::from_str(text)
        .map_err(|error| format!("line {} is not as docker writes it", error.line()))?;
    let same = |name: &str| {
        let host = name.trim_start_matches("https://").trim_start_matches("http://");
        let host = host.split('/').next().unwrap_or_default();
        host == registry || (registry == "docker.io" && DOCKER_HUB.contains(&name))
    };
    let Some((name, entry)) = file.auths.into_iter().find(|(name, _)| same(name)) else {
        return Ok(RegistryAuth::Anonymous);
    };
    if let Some(token) = entry.registrytoken {
        return Ok(RegistryAuth::Bearer(token));
    }
    if let (Some(user), Some(password)) = (entry.username, entry.password) {
        return Ok(RegistryAuth::Basic(user, password));
    }
    let decoded = entry
        .auth
        .and_then(|auth| STANDARD.decode(auth.trim()).ok())
        .and_then(|bytes| String::from_utf8(bytes).ok());
    match decoded.as_deref().and_then(|text| text.split_once(':')) {
        Some((user, password)) => Ok(RegistryAuth::Basic(user.into(), password.into())),
        None => Err(format!(
            "the entry for `{name}` holds no user and password (a credential helper is not asked)"
        )),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn entries_are_found_as_docker_writes_them() {
        let text = r#"{"auths": {
            "registry.example": {"auth": "YW5hOnBhc3M6d29yZA=="},
            "https://other.example/v2/": {"username": "bob", "password": "b"},
            "https://index.docker.io/v1/": {"registrytoken": "t"},
            "helped.example": {}
        }, "credsStore": "desktop"}"#;
        let basic = |user: &str, password: &str| RegistryAuth::Basic(user.into(), password.into());
        assert_eq!(parse(text, "registry.example"), Ok(basic("ana", "pass:word")));
        assert_eq!(parse(text, "other.example"), Ok(basic("bob", "b")));
        assert_eq!(parse(text, "docker.io"), Ok(RegistryAuth::Bearer("t".into())));
        assert_eq!(parse(text, "unknown.example"), Ok(RegistryAuth::Anonymous));
        assert!(parse(text, "helped.example").unwrap_err().contains("helped.example"));
    }

    #[test]
    fn no_error_quotes_the_file() {
        for text in [
            r#"{"auths": {"r": {"auth": {"secret": 1}}}}"#,
            r#"{"auths": {"r": {"auth": "c2VjcmV0"}}}"#,
            "secret",
        ] {
            assert!(!parse(text, "r").unwrap_err().contains("secret"));
        }
    }

    #[test]
    fn a_file_that_others_may_read_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.json");
        fs::write(&path, "{}").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let error = for_registry(&path, "r").unwrap_err();
        assert!(matches!(error, CredentialsError::Unsafe { .. }), "{error}");
        let error = for_registry(&directory.path().join("absent"), "r").unwrap_err();
        assert!(matches!(error, CredentialsError::Read { .. }), "{error}");
    }
}
