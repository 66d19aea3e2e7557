//! Reads a file system of layers as overlayfs would show it, without mounting it.
//!
//! Links are followed inside only, one name at a time; nothing of an image is
//! run, and nothing outside of its layers is ever opened.

use std::{
    collections::{BTreeMap, VecDeque},
    fs::{self, File, Metadata},
    io::Read as _,
    os::unix::{
        ffi::OsStrExt as _,
        fs::{FileTypeExt as _, MetadataExt as _},
    },
    path::{Component, Path, PathBuf},
};

use crate::host::attributes::is_opaque;

const MOST_LINKS: usize = 40;

/// The layers of one image, topmost first.
pub struct Layers(Vec<PathBuf>);

/// What a name inside leads to.
pub struct Found {
    /// The name without links.
    pub inside: PathBuf,
    /// Where it lies on the host.
    pub path: PathBuf,
    pub metadata: Metadata,
}

fn is_whiteout(metadata: &Metadata) -> bool {
    metadata.file_type().is_char_device() && metadata.rdev() == 0
}

impl Layers {
    pub fn new(directories: Vec<PathBuf>) -> Self {
        Self(directories)
    }

    /// What lies at a name without links.
    fn at(&self, inside: &Path) -> Option<(PathBuf, Metadata)> {
        let relative = inside.strip_prefix("/").ok()?;
        for layer in &self.0 {
            let (path, step) = walk(layer, relative);
            match step {
                Step::There(metadata) if is_whiteout(&metadata) => return None,
                Step::There(metadata) => return Some((path, metadata)),
                Step::Hidden => return None,
                Step::Absent => {}
            }
        }
        None
    }

    /// What a name leads to, its links followed.
    pub fn find(&self, name: impl AsRef<Path>) -> Option<Found> {
        let mut todo: VecDeque<PathBuf> = parts(name.as_ref());
        let mut inside = PathBuf::from("/");
        let mut links = 0;
        while let Some(part) = todo.pop_front() {
            if part.as_os_str() == ".." {
                inside.pop();
                continue;
            }
            let next = inside.join(part);
            let (path, metadata) = self.at(&next)?;
            if !metadata.file_type().is_symlink() {
                inside = next;
                continue;
            }
            links += 1;
            if links > MOST_LINKS {
                return None;
            }
            let target = fs::read_link(path).ok()?;
            if target.is_absolute() {
                inside = PathBuf::from("/");
            }
            let mut rest = parts(&target);
            rest.append(&mut todo);
            todo = rest;
        }
        let (path, metadata) = self.at(&inside)?;
        Some(Found { inside, path, metadata })
    }

    /// A file's beginning, at most so many bytes.
    pub fn read(&self, name: impl AsRef<Path>, most: u64) -> Option<Vec<u8>> {
        let found = self.find(name).filter(|found| found.metadata.is_file())?;
        let mut bytes = Vec::new();
        File::open(found.path).ok()?.take(most).read_to_end(&mut bytes).ok()?;
        Some(bytes)
    }

    pub fn text(&self, name: impl AsRef<Path>) -> Option<String> {
        Some(String::from_utf8_lossy(&self.read(name, 1 << 20)?).into_owned())
    }

    /// The names in a directory, with what is there; links are not followed.
    pub fn list(&self, name: impl AsRef<Path>) -> BTreeMap<String, (PathBuf, Metadata)> {
        let mut entries = BTreeMap::new();
        let Some(found) = self.find(name).filter(|found| found.metadata.is_dir()) else {
            return entries;
        };
        let Ok(relative) = found.inside.strip_prefix("/") else { return entries };
        for layer in &self.0 {
            let (directory, step) = walk(layer, relative);
            let opaque = match step {
                Step::There(metadata) if metadata.is_dir() => is_opaque(&directory),
                Step::There(_) | Step::Hidden => break,
                Step::Absent => continue,
            };
            for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                if let (false, Ok(metadata)) =
                    (entries.contains_key(&name), fs::symlink_metadata(entry.path()))
                {
                    entries.insert(name, (entry.path(), metadata));
                }
            }
            if opaque || hides_below(layer, relative) {
                break;
            }
        }
        entries.retain(|_, (_, metadata)| !is_whiteout(metadata));
        entries
    }
}

/// How a name goes on in one layer.
enum Step {
    There(Metadata),
    /// Not here, and nothing from below shows either.
    Hidden,
    /// Not here; a layer below may have it.
    Absent,
}

/// Goes down one layer, through directories only: what is a link on the way is
/// never followed, because it would lead into the host.
fn walk(layer: &Path, relative: &Path) -> (PathBuf, Step) {
    let mut path = layer.to_owned();
    let mut opaque = false;
    let mut parts = relative.components().peekable();
    while let Some(part) = parts.next() {
        path.push(part);
        match fs::symlink_metadata(&path) {
            Ok(found) if parts.peek().is_none() => return (path, Step::There(found)),
            Ok(found) if found.is_dir() => opaque |= is_opaque(&path),
            Ok(_) => return (path, Step::Hidden),
            Err(_) => return (path, if opaque { Step::Hidden } else { Step::Absent }),
        }
    }
    // The layer itself.
    let step = fs::symlink_metadata(&path).map_or(Step::Absent, Step::There);
    (path, step)
}

/// True if a directory on the way hides what lies below this layer.
fn hides_below(layer: &Path, relative: &Path) -> bool {
    let mut path = layer.to_owned();
    relative.components().any(|part| {
        path.push(part);
        is_opaque(&path)
    })
}

fn parts(name: &Path) -> VecDeque<PathBuf> {
    name.components()
        .filter(|part| !matches!(part, Component::RootDir | Component::CurDir))
        .filter(|part| !part.as_os_str().as_bytes().is_empty())
        .map(|part| PathBuf::from(part.as_os_str()))
        .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn write(layer: &Path, name: &str, content: &str) {
        let path = layer.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    #[test]
    fn the_topmost_wins_and_links_stay_inside() {
        let directory = tempfile::tempdir().unwrap();
        let (top, bottom) = (directory.path().join("top"), directory.path().join("bottom"));
        write(&bottom, "etc/a", "bottom");
        write(&bottom, "etc/b", "b");
        write(&top, "etc/a", "top");
        write(directory.path(), "secret", "of the host");
        for (link, target) in [
            ("out", "../../../../../../secret".to_owned()),
            ("absolute", directory.path().join("secret").display().to_string()),
            ("etc/again", "/etc/a".to_owned()),
            ("etc/up", "../etc/./b".to_owned()),
            ("round", "round".to_owned()),
        ] {
            symlink(target, top.join(link)).unwrap();
        }
        let layers = Layers::new(vec![top, bottom]);
        assert_eq!(layers.text("/etc/a").unwrap(), "top");
        assert_eq!(layers.text("/etc/again").unwrap(), "top");
        assert_eq!(layers.text("/etc/up").unwrap(), "b");
        for name in ["/out", "/absolute", "/round", "/etc/absent"] {
            assert!(layers.find(name).is_none(), "{name}");
        }
        // A link of a lower layer, under a directory of an upper one, is not gone through.
        let (upper, lower) = (directory.path().join("upper"), directory.path().join("lower"));
        write(&upper, "lib/own", "own");
        fs::create_dir_all(&lower).unwrap();
        symlink(directory.path(), lower.join("lib")).unwrap();
        let linked = Layers::new(vec![upper, lower]);
        assert!(linked.find("/lib/secret").is_none());
        assert_eq!(linked.list("/lib").into_keys().collect::<Vec<_>>(), ["own"]);

        let names: Vec<_> = layers.list("/etc").into_keys().collect();
        assert_eq!(names, ["a", "again", "b", "up"]);
    }
}
