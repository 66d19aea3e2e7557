//! Layers that are bombs, that lie, or that name what is not theirs.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::{io::Write as _, str::FromStr as _};

use oci_spec::image::{Descriptor, Digest, MediaType};
use tar::{Builder, EntryType, Header};

use super::{super::manifest::sha256, *};

const LIMITS: ImageLimits = ImageLimits { unpacked_bytes: 1 << 20, files: 16 };

fn tar(entries: &[(&str, EntryType, &str, usize)]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for (name, kind, target, size) in entries {
        let mut header = Header::new_gnu();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.as_mut_bytes()[157..157 + target.len()].copy_from_slice(target.as_bytes());
        header.set_entry_type(*kind);
        header.set_size(*size as u64);
        header.set_cksum();
        builder.append(&header, &vec![0; *size][..]).unwrap();
    }
    builder.into_inner().unwrap()
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

fn look_through(blob: &[u8], diff_id: String) -> Result<(), String> {
    let digest = Digest::from_str(&sha256(blob)).unwrap();
    let layer = Layer {
        blob: Descriptor::new(MediaType::ImageLayer, blob.len() as u64, digest),
        diff_id,
        chain_id: String::new(),
    };
    let place = Place::Memory(blob.into());
    inspect(&place, &layer, &mut Budget::new(LIMITS), &Arc::default()).map_err(
        |error| match error {
            ArchiveError::Unusable(Unusable(reason)) => reason,
            ArchiveError::Io(error) => panic!("{error}"),
        },
    )
}

#[test]
fn an_honest_layer_passes_however_it_is_packed() {
    let content = tar(&[
        ("./usr/", EntryType::Directory, "", 0),
        ("usr/a", EntryType::Regular, "", 700),
        ("usr/..b", EntryType::Link, "usr/a", 0),
        ("usr/c", EntryType::Symlink, "../../etc/passwd", 0),
    ]);
    let diff_id = sha256(&content);
    look_through(&content, diff_id.clone()).unwrap();
    look_through(&gzip(&content), diff_id.clone()).unwrap();
    look_through(&zstd::encode_all(&content[..], 1).unwrap(), diff_id).unwrap();
}

#[test]
fn names_that_lead_outside_are_refused() {
    for (name, kind, target) in [
        ("../x", EntryType::Regular, ""),
        ("a/../../x", EntryType::Directory, ""),
        ("x", EntryType::Link, "../../etc/shadow"),
    ] {
        let content = tar(&[(name, kind, target, 0)]);
        let reason = look_through(&content, sha256(&content)).unwrap_err();
        assert!(reason.starts_with("a layer "), "{reason}");
    }
}

#[test]
fn bombs_are_refused_before_they_are_unpacked() {
    let large = tar(&[("zeros", EntryType::Regular, "", 2 << 20)]);
    let many: Vec<_> = (0..20).map(|_| ("x", EntryType::Regular, "", 0)).collect();
    let many = tar(&many);
    // Nothing but padding behind a small tar.
    let mut padded = tar(&[("x", EntryType::Regular, "", 1)]);
    padded.resize(4 << 20, 0);
    for (content, rule) in [
        (large, "image_store.max_unpacked_size"),
        (many, "image_store.max_files"),
        (padded, "image_store.max_unpacked_size"),
    ] {
        for blob in [content.clone(), gzip(&content), zstd::encode_all(&content[..], 1).unwrap()] {
            let reason = look_through(&blob, sha256(&content)).unwrap_err();
            assert!(reason.contains(rule), "{reason}");
        }
    }
}

#[test]
fn a_layer_that_lies_is_refused() {
    let content = tar(&[("x", EntryType::Regular, "", 1)]);
    let reason = look_through(&gzip(&content), sha256(b"other")).unwrap_err();
    assert!(reason.contains("unpacks to"), "{reason}");
    let cut = gzip(&content);
    let reason = look_through(&cut[..cut.len() / 2], sha256(&content)).unwrap_err();
    assert!(reason.contains("is no whole tar"), "{reason}");
}
