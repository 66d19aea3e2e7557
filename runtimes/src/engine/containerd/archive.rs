//! An image outside of containerd: what lies where in it, and which image of it
//! fits this host. It is an OCI layout, in a tar or as a directory, or what
//! `docker save` writes ([`docker_save`](super::docker_save) makes a layout of it).
//!
//! The archive is untrusted. Nothing is unpacked here: entries are only read
//! at their place, and only by digest. Must never return bytes that do not
//! match their digest, and never follow a link in an OCI layout.

use std::{
    collections::HashMap,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use oci_spec::image::{Descriptor, ImageConfiguration, ImageIndex, ImageManifest};
use tar::EntryType;

use super::{
    blob::Place,
    docker_save,
    manifest::{
        ImageFacts, JSON_LIMIT, Unusable, candidates, is_index, is_manifest, parse, sha256,
        sha256_hex, unusable,
    },
};
use crate::engine::EngineError;

/// Enough for every image, and a bound on the memory an archive can take.
const ENTRY_LIMIT: usize = 4096;
/// An index may point to an index (as multi-platform builds write it).
const INDEX_DEPTH: u32 = 3;

/// What lies where, by name.
pub(super) type Entries = HashMap<String, Place>;

/// An archive whose table of contents has been read.
pub(super) struct Archive {
    path: PathBuf,
    entries: Entries,
}

/// Unusable, or not readable at all.
pub(super) enum ArchiveError {
    Unusable(Unusable),
    Io(io::Error),
}

impl From<Unusable> for ArchiveError {
    fn from(unusable: Unusable) -> Self {
        Self::Unusable(unusable)
    }
}

impl From<io::Error> for ArchiveError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

pub(super) fn bad<T>(reason: impl Into<String>) -> Result<T, ArchiveError> {
    Err(Unusable(reason.into()).into())
}

impl ArchiveError {
    pub(super) fn into_engine(self, path: &Path) -> EngineError {
        match self {
            Self::Unusable(Unusable(reason)) => {
                EngineError::BadArchive { path: path.to_owned(), reason }
            }
            Self::Io(error) => EngineError::Failed {
                verb: "read",
                thing: path.display().to_string(),
                source: Box::new(error),
            },
        }
    }
}

impl Archive {
    /// Reads the table of contents; blocking.
    pub(super) fn open(path: &Path) -> Result<Self, ArchiveError> {
        let entries = if fs::metadata(path)?.is_dir() { layout(path)? } else { tar(path)? };
        Ok(Self { path: path.to_owned(), entries })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Where a blob lies; its size is checked, its digest is not.
    pub(super) fn place(&self, blob: &Descriptor) -> Result<&Place, Unusable> {
        match self.find(blob)? {
            Some(place) => Ok(place),
            None => unusable(format!("the blob {} is missing", blob.digest())),
        }
    }

    /// As [`Archive::place`]; `None` if the archive does not hold the blob.
    pub(super) fn find(&self, blob: &Descriptor) -> Result<Option<&Place>, Unusable> {
        let name = format!("blobs/sha256/{}", sha256_hex(blob)?);
        match self.entries.get(&name) {
            Some(place) if place.size() != blob.size() => unusable(format!(
                "the blob {} has {} bytes instead of {}",
                blob.digest(),
                place.size(),
                blob.size()
            )),
            place => Ok(place),
        }
    }

    /// A small blob, verified; blocking.
    pub(super) fn json(&self, blob: &Descriptor) -> Result<Vec<u8>, ArchiveError> {
        let bytes = read_json(self.place(blob)?)?;
        if sha256(&bytes) != blob.digest().to_string() {
            return bad(format!("the blob {} has another digest", blob.digest()));
        }
        Ok(bytes)
    }

    /// The one image in it that fits this host; blocking.
    pub(super) fn select(&self) -> Result<ImageFacts, ArchiveError> {
        if !self.entries.contains_key("oci-layout") {
            return bad("it has no file `oci-layout`");
        }
        let Some(place) = self.entries.get("index.json") else {
            return bad("it has no file `index.json`");
        };
        let index =
            parse("index.json", &read_json(place)?, |bytes| ImageIndex::from_reader(bytes))?;
        let mut found: Vec<ImageFacts> = Vec::new();
        let mut refused = None;
        let mut budget = ENTRY_LIMIT;
        for descriptor in self.manifests(&index, INDEX_DEPTH, &mut budget)? {
            match self.facts(descriptor) {
                Ok(facts) => found.push(facts),
                Err(ArchiveError::Unusable(reason)) => refused = refused.or(Some(reason)),
                Err(error) => return Err(error),
            }
        }
        // The same image under two names is one image.
        found.dedup_by(|left, right| left.manifest.digest() == right.manifest.digest());
        match (found.pop(), refused) {
            (Some(facts), _) if found.is_empty() => Ok(facts),
            (Some(_), _) => {
                bad(format!("it holds {} images for this platform instead of one", found.len() + 1))
            }
            (None, Some(reason)) => Err(reason.into()),
            (None, None) => {
                bad(format!("it holds no image for linux/{}", super::manifest::host_architecture()))
            }
        }
    }

    /// `budget` bounds the work: indexes that name each other often would
    /// multiply it.
    fn manifests(
        &self,
        index: &ImageIndex,
        depth: u32,
        budget: &mut usize,
    ) -> Result<Vec<Descriptor>, ArchiveError> {
        let mut manifests = Vec::new();
        for descriptor in candidates(index) {
            *budget = match budget.checked_sub(1) {
                Some(rest) => rest,
                None => return bad("its indexes name too many images"),
            };
            if is_manifest(descriptor.media_type()) {
                manifests.push(descriptor);
            } else if is_index(descriptor.media_type()) {
                if depth == 0 {
                    return bad("its indexes are nested too deeply");
                }
                let nested = parse("index", &self.json(&descriptor)?, |bytes| {
                    ImageIndex::from_reader(bytes)
                })?;
                manifests.extend(self.manifests(&nested, depth - 1, budget)?);
            }
        }
        Ok(manifests)
    }

    fn facts(&self, descriptor: Descriptor) -> Result<ImageFacts, ArchiveError> {
        let manifest =
            parse("manifest", &self.json(&descriptor)?, |bytes| ImageManifest::from_reader(bytes))?;
        let configuration = parse("configuration", &self.json(manifest.config())?, |bytes| {
            ImageConfiguration::from_reader(bytes)
        })?;
        let facts = ImageFacts::new(descriptor, &manifest, &configuration)?;
        for layer in &facts.layers {
            // What a directory lacks may be in containerd already.
            if self.find(&layer.blob)?.is_none() && !self.path.is_dir() {
                self.place(&layer.blob)?;
            }
        }
        Ok(facts)
    }
}

/// A file of JSON, of an honest size; blocking.
pub(super) fn read_json(place: &Place) -> Result<Vec<u8>, ArchiveError> {
    if place.size() > JSON_LIMIT {
        return bad(format!("a JSON file in it has {} bytes", place.size()));
    }
    Ok(place.read_whole()?)
}

/// The table of contents of a directory.
fn layout(directory: &Path) -> Result<Entries, ArchiveError> {
    let mut entries = Entries::new();
    let mut add = |name: String| -> Result<(), ArchiveError> {
        let path = directory.join(&name);
        match fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.is_file() => {
                entries.insert(name, Place::File { path, offset: 0, size: metadata.len() });
                Ok(())
            }
            Ok(_) => bad(format!("`{name}` is no file")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error.into()),
        }
    };
    add("oci-layout".to_owned())?;
    add("index.json".to_owned())?;
    for (number, entry) in fs::read_dir(directory.join("blobs/sha256"))?.enumerate() {
        if number == ENTRY_LIMIT {
            return bad(format!("it has more than {ENTRY_LIMIT} blobs"));
        }
        let name = entry?.file_name();
        // What is not named by a digest (a download under way) is no blob.
        if let Some(name) = name.to_str().filter(|name| name.len() == 64) {
            add(format!("blobs/sha256/{name}"))?;
        }
    }
    Ok(entries)
}

/// The table of contents of a tar.
fn tar(path: &Path) -> Result<Entries, ArchiveError> {
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    let mut entries = Entries::new();
    let mut links = HashMap::new();
    let mut archive = tar::Archive::new(&file);
    let damaged = |error: io::Error| Unusable(format!("it is no whole tar: {error}"));
    for entry in archive.entries_with_seek().map_err(damaged)? {
        let entry = entry.map_err(damaged)?;
        let name = plain_name(&entry.path_bytes())?;
        if entries.len() + links.len() == ENTRY_LIMIT {
            return bad(format!("it has more than {ENTRY_LIMIT} entries"));
        }
        match entry.header().entry_type() {
            EntryType::Directory | EntryType::XGlobalHeader => continue,
            EntryType::Regular | EntryType::Continuous => {}
            EntryType::Symlink => {
                let target = entry.link_name_bytes().unwrap_or_default().into_owned();
                links.insert(name, target);
                continue;
            }
            other => return bad(format!("`{name}` is of the type {other:?}")),
        }
        let (offset, size) = (entry.raw_file_position(), entry.size());
        if offset.checked_add(size).is_none_or(|end| end > length) {
            return bad(format!("`{name}` is cut off"));
        }
        let place = Place::File { path: path.to_owned(), offset, size };
        if entries.insert(name.clone(), place).is_some() {
            return bad(format!("`{name}` is in it twice"));
        }
    }
    if entries.contains_key("oci-layout") || !entries.contains_key("manifest.json") {
        return match links.into_keys().next() {
            Some(name) => bad(format!("`{name}` is of the type Symlink")),
            None => Ok(entries),
        };
    }
    docker_save::as_layout(&entries, &links)
}

/// A name without tricks, `./` taken off. Nothing is ever written under it;
/// an archive that tries is not what it says it is.
fn plain_name(raw: &[u8]) -> Result<String, Unusable> {
    let Ok(mut name) = std::str::from_utf8(raw) else {
        return unusable("a name in it is no UTF-8");
    };
    while let Some(rest) = name.strip_prefix("./") {
        name = rest;
    }
    let name = name.trim_end_matches('/');
    let tricky = name.starts_with('/')
        || name.contains('\0')
        || name.split('/').any(|part| part == ".." || (part == "." && name != "."));
    if tricky {
        return unusable(format!("`{}` is no plain name", name.escape_default()));
    }
    Ok(name.to_owned())
}

#[cfg(test)]
mod tests;
