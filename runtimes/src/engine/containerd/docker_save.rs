//! What `docker save` writes (before Docker 25, and podman's `docker-archive`
//! still), as an OCI layout: its `manifest.json` names a configuration and the
//! tars of the layers; the manifest is written here.
//!
//! The archive is untrusted: names are looked up among the archive's own
//! entries, never on disk. A link is followed once, to another entry.

use std::{collections::HashMap, io, sync::Arc};

use oci_spec::image::ImageConfiguration;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::{
    archive::{ArchiveError, Entries, bad, read_json},
    blob::Place,
    layer::Packing,
    manifest::{Unusable, digest_text, is_sha256, parse, sha256},
};

const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// The layout of the one image in it; blocking, because layers may have to be hashed.
pub(super) fn as_layout(
    entries: &Entries,
    links: &HashMap<String, Vec<u8>>,
) -> Result<Entries, ArchiveError> {
    let listed = entries.get("manifest.json").map_or_else(|| Ok(Vec::new()), read_json)?;
    let images: Vec<Value> = serde_json::from_slice(&listed)
        .map_err(|error| Unusable(format!("its manifest.json cannot be read: {error}")))?;
    let [image] = images.as_slice() else {
        return bad(format!("it holds {} images instead of one", images.len()));
    };
    let find = |name: &Value| {
        let name = name.as_str().unwrap_or_default();
        follow(name, entries, links)
            .ok_or_else(|| Unusable(format!("`{}` is not in it", name.escape_default())))
    };
    let configuration = find(&image["Config"])?;
    let bytes = read_json(configuration)?;
    let parsed = parse("configuration", &bytes, |bytes| ImageConfiguration::from_reader(bytes))?;
    let mut layout = Entries::new();
    let mut blob = |media_type: &str, digest: String, place: Place| {
        let entry = json!({"mediaType": media_type, "digest": digest, "size": place.size()});
        layout.insert(format!("blobs/sha256/{}", digest.trim_start_matches("sha256:")), place);
        entry
    };
    let mut layers = Vec::new();
    let diff_ids = parsed.rootfs().diff_ids();
    let named = image["Layers"].as_array().map(Vec::as_slice).unwrap_or_default();
    for (number, name) in named.iter().enumerate() {
        let place = find(name)?;
        let (media_type, digest) = match (Packing::of(place)?, diff_ids.get(number)) {
            // Whether it is true is seen when it is stored.
            (Packing::Plain, Some(diff_id)) if is_sha256(diff_id) => {
                (LAYER.to_owned(), diff_id.clone())
            }
            (Packing::Plain, _) => return bad("its configuration does not name every layer"),
            (Packing::Gzip, _) => (format!("{LAYER}+gzip"), digest(place)?),
            (Packing::Zstd, _) => (format!("{LAYER}+zstd"), digest(place)?),
        };
        layers.push(blob(&media_type, digest, place.clone()));
    }
    let configuration = blob(
        "application/vnd.oci.image.config.v1+json",
        sha256(&bytes),
        Place::Memory(bytes.into()),
    );
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({"schemaVersion": 2, "mediaType": media_type,
        "config": configuration, "layers": layers});
    let manifest: Arc<[u8]> = manifest.to_string().into_bytes().into();
    let manifest = blob(media_type, sha256(&manifest), Place::Memory(manifest));
    let mut small = |name: &str, value: &Value| {
        layout.insert(name.to_owned(), Place::Memory(value.to_string().into_bytes().into()))
    };
    small("index.json", &json!({"schemaVersion": 2, "manifests": [manifest]}));
    small("oci-layout", &json!({"imageLayoutVersion": "1.0.0"}));
    Ok(layout)
}

/// An entry by its name. Layers that occur twice are links to the first one.
fn follow<'entries>(
    name: &str,
    entries: &'entries Entries,
    links: &HashMap<String, Vec<u8>>,
) -> Option<&'entries Place> {
    if let Some(place) = entries.get(name) {
        return Some(place);
    }
    let target = std::str::from_utf8(links.get(name)?).ok()?;
    let mut path: Vec<&str> = name.split('/').collect();
    path.pop();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                path.pop()?;
            }
            part => path.push(part),
        }
    }
    entries.get(&path.join("/"))
}

fn digest(place: &Place) -> io::Result<String> {
    let mut hash = Sha256::new();
    io::copy(&mut place.open_blocking()?, &mut hash)?;
    Ok(digest_text(&hash.finalize()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn file(content: &[u8]) -> Place {
        Place::Memory(content.into())
    }

    #[test]
    fn links_lead_to_other_entries_and_nowhere_else() {
        let entries = Entries::from([("aa/layer.tar".to_owned(), file(b"x"))]);
        let links = [
            ("bb/layer.tar", "../aa/layer.tar", true),
            ("cc/layer.tar", "../../aa/layer.tar", false),
            ("dd/layer.tar", "/etc/passwd", false),
            ("ee/layer.tar", "../bb/layer.tar", false),
        ];
        let known: HashMap<_, _> = links
            .iter()
            .map(|(name, target, _)| ((*name).to_owned(), target.as_bytes().to_vec()))
            .collect();
        for (name, _, found) in links {
            assert_eq!(follow(name, &entries, &known).is_some(), found, "{name}");
        }
    }

    #[test]
    fn what_is_no_list_of_one_image_is_refused() {
        for manifest in ["", "{}", "[]", "[{}]", "[{},{}]", r#"[{"Config":"/etc/passwd"}]"#] {
            let entries = Entries::from([("manifest.json".to_owned(), file(manifest.as_bytes()))]);
            assert!(as_layout(&entries, &HashMap::new()).is_err(), "{manifest}");
        }
    }
}
