//! Archives whole and broken: what is found, what is refused.

#![allow(clippy::unwrap_used, clippy::panic)]

use serde_json::json;
use tar::{Builder, Header};

use super::{super::manifest::host_architecture, *};

fn add(builder: &mut Builder<Vec<u8>>, name: &str, kind: EntryType, content: &[u8]) {
    let mut header = Header::new_gnu();
    // Written raw: `set_path` refuses what we want to try.
    header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_size(content.len() as u64);
    header.set_cksum();
    builder.append(&header, content).unwrap();
}

/// A whole image of one layer; `blob` changes its blobs on the way in.
fn archive(
    extra: impl FnOnce(&mut Builder<Vec<u8>>),
    blob: impl Fn(&str, Vec<u8>) -> Option<Vec<u8>>,
    platforms: &[Option<&str>],
) -> Result<ImageFacts, String> {
    let mut builder = Builder::new(Vec::new());
    add(&mut builder, "./oci-layout", EntryType::Regular, br#"{"imageLayoutVersion":"1.0.0"}"#);
    let mut put = |kind: &str, media_type: &str, content: Vec<u8>| {
        let digest = sha256(&content);
        let size = content.len();
        if let Some(content) = blob(kind, content) {
            let name = format!("blobs/sha256/{}", &digest[7..]);
            add(&mut builder, &name, EntryType::Regular, &content);
        }
        json!({"mediaType": media_type, "digest": digest, "size": size})
    };
    let mut manifests = Vec::new();
    for (number, platform) in platforms.iter().enumerate() {
        let content = format!("layer {number}").into_bytes();
        let diff_id = sha256(&content);
        let layer = put("layer", "application/vnd.oci.image.layer.v1.tar", content);
        let architecture = platform.unwrap_or(host_architecture());
        let configuration = json!({"architecture": architecture, "os": "linux", "history": [],
            "rootfs": {"type": "layers", "diff_ids": [diff_id]}});
        let configuration = put(
            "configuration",
            "application/vnd.oci.image.config.v1+json",
            configuration.to_string().into_bytes(),
        );
        let manifest = json!({"schemaVersion": 2, "config": configuration, "layers": [layer]});
        let mut entry = put(
            "manifest",
            "application/vnd.oci.image.manifest.v1+json",
            manifest.to_string().into_bytes(),
        );
        if let Some(architecture) = platform {
            entry["platform"] = json!({"architecture": architecture, "os": "linux"});
        }
        manifests.push(entry);
    }
    let index = json!({"schemaVersion": 2, "manifests": manifests}).to_string();
    add(&mut builder, "index.json", EntryType::Regular, index.as_bytes());
    extra(&mut builder);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), builder.into_inner().unwrap()).unwrap();
    let selected = Archive::open(file.path()).and_then(|archive| archive.select());
    selected.map_err(|error| match error.into_engine(file.path()) {
        EngineError::BadArchive { reason, .. } => reason,
        other => panic!("{other}"),
    })
}

#[allow(clippy::unnecessary_wraps)] // the shape of the parameter
fn as_is(_: &str, content: Vec<u8>) -> Option<Vec<u8>> {
    Some(content)
}

#[test]
fn a_whole_image_is_found_also_without_a_platform() {
    assert_eq!(archive(|_| (), as_is, &[None]).unwrap().layers.len(), 1);
}

#[test]
fn of_several_platforms_the_host_s_is_taken() {
    let own = Some(host_architecture());
    archive(|_| (), as_is, &[Some("s390x"), own, Some("riscv64")]).unwrap();
    let reason = archive(|_| (), as_is, &[own, own]).unwrap_err();
    assert_eq!(reason, "it holds 2 images for this platform instead of one");
    let reason = archive(|_| (), as_is, &[Some("s390x")]).unwrap_err();
    assert!(reason.starts_with("it holds no image for linux/"), "{reason}");
}

#[test]
fn missing_and_changed_blobs_are_refused() {
    for kind in ["layer", "configuration", "manifest"] {
        let without = |this: &str, content| (this != kind).then_some(content);
        let reason = archive(|_| (), without, &[None]).unwrap_err();
        assert!(reason.ends_with("is missing"), "{kind}: {reason}");
        let longer = |this: &str, mut content: Vec<u8>| {
            content.extend(if this == kind { b" ".as_slice() } else { b"" });
            Some(content)
        };
        let reason = archive(|_| (), longer, &[None]).unwrap_err();
        assert!(reason.contains("bytes instead of"), "{kind}: {reason}");
    }
    for kind in ["configuration", "manifest"] {
        let other = |this: &str, mut content: Vec<u8>| {
            content[0] ^= u8::from(this == kind);
            Some(content)
        };
        let reason = archive(|_| (), other, &[None]).unwrap_err();
        assert!(reason.ends_with("has another digest"), "{kind}: {reason}");
    }
}

#[test]
fn tricks_with_names_and_links_are_refused() {
    for name in ["../oci-layout", "/etc/passwd", "blobs/../../x", "blobs/./x"] {
        let extra = |builder: &mut Builder<_>| add(builder, name, EntryType::Regular, b"x");
        let reason = archive(extra, as_is, &[None]).unwrap_err();
        assert!(reason.ends_with("is no plain name"), "{name}: {reason}");
    }
    for kind in [EntryType::Symlink, EntryType::Link, EntryType::Char, EntryType::Fifo] {
        let extra = |builder: &mut Builder<_>| add(builder, "x", kind, b"");
        let reason = archive(extra, as_is, &[None]).unwrap_err();
        assert!(reason.contains("is of the type"), "{kind:?}: {reason}");
    }
    let twice = |builder: &mut Builder<_>| {
        add(builder, "././index.json", EntryType::Regular, b"{}");
    };
    assert_eq!(archive(twice, as_is, &[None]).unwrap_err(), "`index.json` is in it twice");
}

#[test]
fn no_tar_is_a_bad_archive_and_no_crash() {
    let file = tempfile::NamedTempFile::new().unwrap();
    for content in [b"".as_slice(), b"not a tar", &[0xff; 2048]] {
        std::fs::write(file.path(), content).unwrap();
        let outcome = Archive::open(file.path()).and_then(|archive| archive.select());
        let error = outcome.err().unwrap().into_engine(file.path());
        assert!(matches!(error, EngineError::BadArchive { .. }), "{error}");
    }
}
