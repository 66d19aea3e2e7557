//! An OCI image archive (a tar of an OCI layout): what lies where in it, and
//! which image of it fits this host.
//!
//! The archive is untrusted. Nothing is unpacked here: entries are only read
//! at their place, and only by digest. Must never return bytes that do not
//! match their digest, and never follow a link in an archive.

use std::{
    collections::HashMap,
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use oci_spec::image::{Descriptor, ImageConfiguration, ImageIndex, ImageManifest};
use tar::EntryType;

use super::manifest::{
    ImageFacts, JSON_LIMIT, Unusable, candidates, is_index, is_manifest, parse, sha256, sha256_hex,
    unusable,
};
use crate::engine::EngineError;

/// Enough for every image, and a bound on the memory an archive can take.
const ENTRY_LIMIT: usize = 4096;
/// An index may point to an index (as multi-platform builds write it).
const INDEX_DEPTH: u32 = 3;

/// Where a file's content lies in the archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) offset: u64,
    pub(super) size: u64,
}

/// An archive whose table of contents has been read.
pub(super) struct Archive {
    path: PathBuf,
    file: File,
    entries: HashMap<String, Extent>,
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

fn bad<T>(reason: impl Into<String>) -> Result<T, ArchiveError> {
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
        let file = File::open(path)?;
        let length = file.metadata()?.len();
        let mut entries = HashMap::new();
        let mut archive = tar::Archive::new(&file);
        let damaged = |error: io::Error| Unusable(format!("it is no whole tar: {error}"));
        for entry in archive.entries_with_seek().map_err(damaged)? {
            let entry = entry.map_err(damaged)?;
            let name = plain_name(&entry.path_bytes())?;
            match entry.header().entry_type() {
                EntryType::Directory | EntryType::XGlobalHeader => continue,
                EntryType::Regular | EntryType::Continuous => {}
                other => return bad(format!("`{name}` is of the type {other:?}")),
            }
            let extent = Extent { offset: entry.raw_file_position(), size: entry.size() };
            if extent.offset.checked_add(extent.size).is_none_or(|end| end > length) {
                return bad(format!("`{name}` is cut off"));
            }
            if entries.len() == ENTRY_LIMIT {
                return bad(format!("it has more than {ENTRY_LIMIT} entries"));
            }
            if entries.insert(name.clone(), extent).is_some() {
                return bad(format!("`{name}` is in it twice"));
            }
        }
        Ok(Self { path: path.to_owned(), file, entries })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Where a blob lies; its size is checked, its digest is not.
    pub(super) fn extent(&self, blob: &Descriptor) -> Result<Extent, Unusable> {
        let name = format!("blobs/sha256/{}", sha256_hex(blob)?);
        match self.entries.get(&name) {
            None => unusable(format!("the blob {} is missing", blob.digest())),
            Some(extent) if extent.size != blob.size() => unusable(format!(
                "the blob {} has {} bytes instead of {}",
                blob.digest(),
                extent.size,
                blob.size()
            )),
            Some(extent) => Ok(*extent),
        }
    }

    /// A small blob, verified; blocking.
    pub(super) fn json(&self, blob: &Descriptor) -> Result<Vec<u8>, ArchiveError> {
        let bytes = self.read(self.extent(blob)?)?;
        if sha256(&bytes) != blob.digest().to_string() {
            return bad(format!("the blob {} has another digest", blob.digest()));
        }
        Ok(bytes)
    }

    fn read(&self, extent: Extent) -> Result<Vec<u8>, ArchiveError> {
        let length = match usize::try_from(extent.size) {
            Ok(length) if extent.size <= JSON_LIMIT => length,
            _ => return bad(format!("a JSON file in it has {} bytes", extent.size)),
        };
        let mut bytes = vec![0; length];
        self.file.read_exact_at(&mut bytes, extent.offset)?;
        Ok(bytes)
    }

    /// The one image in it that fits this host; blocking.
    pub(super) fn select(&self) -> Result<ImageFacts, ArchiveError> {
        if !self.entries.contains_key("oci-layout") {
            return bad("it has no file `oci-layout`");
        }
        let Some(extent) = self.entries.get("index.json") else {
            return bad("it has no file `index.json`");
        };
        let index =
            parse("index.json", &self.read(*extent)?, |bytes| ImageIndex::from_reader(bytes))?;
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
            self.extent(&layer.blob)?;
        }
        Ok(facts)
    }
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
