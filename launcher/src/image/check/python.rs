//! Finds the Python that an image's single-user server runs in, what is installed
//! there, and whether it is compiled.

use std::{
    collections::BTreeMap,
    fs::{self, File, Metadata},
    io::Read as _,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use adrastea_init::script;

use super::layers::{Found, Layers};

/// How deep packages are nested.
const DEPTH: usize = 24;

#[derive(Clone, Debug)]
pub struct Python {
    /// Where the server's program lies.
    pub program: PathBuf,
    /// A program of another kind that comes before it on the path: it is what a start runs.
    pub own: Option<PathBuf>,
    /// The interpreter that it names.
    pub interpreter: PathBuf,
    /// Major and minor.
    pub version: (u32, u32),
    /// Where its packages lie.
    pub site_packages: PathBuf,
    /// Where the standard library lies.
    pub library: Option<PathBuf>,
    /// Whether the init of a waiting sandbox finds the interpreter in the program's head, too.
    pub can_wait: bool,
}

/// Why there is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Missing {
    Program,
    Interpreter(String),
    Version(String),
    /// It is a program of another kind: what Python that comes to, if any, is not read.
    Other(PathBuf),
}

/// The files of this name on the path that may be run.
fn all_on_path<'a>(
    layers: &'a Layers,
    path: &'a str,
    name: &'a str,
) -> impl Iterator<Item = Found> + 'a {
    path.split(':').filter(|directory| directory.starts_with('/')).filter_map(move |directory| {
        let found = layers.find(Path::new(directory).join(name))?;
        (found.metadata.is_file() && found.metadata.permissions().mode() & 0o111 != 0)
            .then_some(found)
    })
}

/// The first of them.
pub fn on_path(layers: &Layers, path: &str, name: &str) -> Option<Found> {
    all_on_path(layers, path, name).next()
}

pub fn find(layers: &Layers, path: &str) -> Result<Python, Missing> {
    let mut own = None;
    for program in all_on_path(layers, path, "jupyterhub-singleuser") {
        let head = layers.read(&program.inside, 4096).unwrap_or_default();
        let head = String::from_utf8_lossy(&head);
        match interpreter(&head) {
            Some(named) if is_python(&named) => {
                let found = of_script(layers, path, program.inside, &head, named);
                return match (found, own) {
                    (found, None) => found,
                    (Ok(python), own) => Ok(Python { own, can_wait: false, ..python }),
                    (Err(_), Some(own)) => Err(Missing::Other(own)),
                };
            }
            Some(named) if own.is_none() && find_interpreter(layers, path, &named).is_none() => {
                return Err(Missing::Interpreter(named));
            }
            _ => own = own.or(Some(program.inside)),
        }
    }
    Err(own.map_or(Missing::Program, Missing::Other))
}

fn is_python(named: &str) -> bool {
    let name = named.rsplit(['/', ' ']).next().unwrap_or_default();
    name.starts_with("python")
}

/// Where an interpreter lies, as [`interpreter`] names it. Its last link is not followed.
fn find_interpreter(layers: &Layers, path: &str, named: &str) -> Option<PathBuf> {
    let interpreter = match named.strip_prefix("env ") {
        Some(name) => on_path(layers, path, name)?.inside,
        None => PathBuf::from(named),
    };
    layers.find(&interpreter).map(|_| interpreter)
}

fn of_script(
    layers: &Layers,
    path: &str,
    program: PathBuf,
    head: &str,
    named: String,
) -> Result<Python, Missing> {
    let interpreter = find_interpreter(layers, path, &named)
        .ok_or_else(|| Missing::Interpreter(named.clone()))?;
    let real = layers.find(&interpreter).ok_or(Missing::Interpreter(named))?;
    // An environment's interpreter is a link: its packages lie beside the link, not behind it.
    let prefix = interpreter.parent().and_then(Path::parent).unwrap_or(Path::new("/"));
    let base = real.inside.parent().and_then(Path::parent).unwrap_or(Path::new("/")).to_owned();
    let version = version_in_name(&real.inside)
        .or_else(|| version_below(layers, prefix))
        .ok_or_else(|| Missing::Version(real.inside.display().to_string()))?;
    let folder = format!("lib/python{}.{}", version.0, version.1);
    let library = [prefix, base.as_path()]
        .into_iter()
        .map(|prefix| prefix.join(&folder))
        .find(|folder| layers.find(folder.join("os.py")).is_some());
    Ok(Python {
        program,
        own: None,
        site_packages: packages(layers, prefix, &folder),
        interpreter,
        version,
        library,
        can_wait: script::interpreter(head).is_some(),
    })
}

/// Where the server's package lies. Debian's own Python has other places than anybody else's.
fn packages(layers: &Layers, prefix: &Path, folder: &str) -> PathBuf {
    let usual = prefix.join(folder).join("site-packages");
    let debian = [
        Path::new("/usr/local").join(folder).join("dist-packages"),
        PathBuf::from("/usr/lib/python3/dist-packages"),
    ];
    let has_server = |place: &PathBuf| layers.find(place.join("jupyterhub")).is_some();
    if prefix != Path::new("/usr") || has_server(&usual) {
        return usual;
    }
    debian.into_iter().find(has_server).unwrap_or(usual)
}

/// From the first lines of a script: `#!/opt/conda/bin/python3.12`, `#!/usr/bin/env
/// python3`, or the form for long paths (`#!/bin/sh` and `'''exec' /path "$0" …`).
fn interpreter(head: &str) -> Option<String> {
    let mut lines = head.lines();
    let first = lines.next()?.strip_prefix("#!")?.trim();
    let mut words = first.split_whitespace();
    let program = words.next()?;
    if program.ends_with("/env") {
        let name = words.find(|word| !word.starts_with('-') && !word.contains('='))?;
        return Some(format!("env {name}"));
    }
    if program.ends_with("/sh") {
        let rest = lines.next()?.split_once("exec'")?.1.trim();
        let path = match rest.strip_prefix('"') {
            Some(quoted) => quoted.split('"').next()?,
            None => rest.split(' ').next()?,
        };
        return Some(path.to_owned());
    }
    Some(program.to_owned())
}

fn version_in_name(path: &Path) -> Option<(u32, u32)> {
    let name = path.file_name()?.to_str()?.strip_prefix("python")?;
    let (major, minor) = name.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

fn version_below(layers: &Layers, prefix: &Path) -> Option<(u32, u32)> {
    let names = layers.list(prefix.join("lib")).into_keys();
    names.filter_map(|name| version_in_name(Path::new(&name))).max()
}

/// Installed distributions and their versions, by normalised name.
pub fn distributions(layers: &Layers, python: &Python) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for name in layers.list(&python.site_packages).into_keys() {
        if let Some((name, version)) =
            name.strip_suffix(".dist-info").and_then(|name| name.rsplit_once('-'))
        {
            found.insert(name.to_lowercase().replace(['_', '.'], "-"), version.to_owned());
        }
    }
    found
}

/// How well an image's Python is compiled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compiled {
    pub modules: usize,
    /// Without a `.pyc`.
    pub missing: usize,
    /// Whose `.pyc` Python would throw away, because of the source's time or size.
    pub stale: usize,
}

impl Compiled {
    /// Modules that every start compiles again, because it cannot keep the result.
    pub const fn wasted(self) -> usize {
        self.missing + self.stale
    }
}

pub fn compiled(layers: &Layers, python: &Python) -> Compiled {
    let mut result = Compiled::default();
    let tag = format!("cpython-{}{}", python.version.0, python.version.1);
    look(layers, &python.site_packages, &tag, DEPTH, &mut result);
    if let Some(library) = &python.library {
        look(layers, library, &tag, DEPTH, &mut result);
    }
    result
}

fn look(layers: &Layers, folder: &Path, tag: &str, depth: usize, result: &mut Compiled) {
    // Files that nothing imports at a start.
    const ELSEWHERE: [&str; 6] =
        ["__pycache__", "site-packages", "tests", "test", "idlelib", "lib2to3"];
    if depth == 0 {
        return;
    }
    let entries = layers.list(folder);
    let mut cache = None;
    for (name, (_, metadata)) in &entries {
        if metadata.is_dir() && !ELSEWHERE.contains(&name.as_str()) {
            // Only packages: templates and data hold Python that nobody imports.
            if entries.contains_key("__init__.py") || depth == DEPTH {
                look(layers, &folder.join(name), tag, depth - 1, result);
            }
        }
        let Some(module) = name.strip_suffix(".py").filter(|_| metadata.is_file()) else {
            continue;
        };
        result.modules += 1;
        let cache = cache.get_or_insert_with(|| layers.list(folder.join("__pycache__")));
        match cache.get(&format!("{module}.{tag}.pyc")) {
            None => result.missing += 1,
            Some((path, _)) if is_stale(path, metadata) => result.stale += 1,
            Some(_) => {}
        }
    }
}

/// A `.pyc` begins with a magic, flags, and then a hash, or the source's time and size.
fn is_stale(compiled: &Path, source: &Metadata) -> bool {
    let mut head = [0; 16];
    let is_file = fs::symlink_metadata(compiled).is_ok_and(|metadata| metadata.is_file());
    if !is_file || File::open(compiled).and_then(|mut file| file.read_exact(&mut head)).is_err() {
        return true;
    }
    let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    // By hash: never thrown away because of a time.
    if word(4) & 1 == 1 {
        return false;
    }
    let low = |number: u64| u32::try_from(number & 0xffff_ffff).unwrap_or_default();
    word(8) != low(source.mtime().cast_unsigned()) || word(12) != low(source.size())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interpreters_are_found_in_every_form() {
        for (head, expected) in [
            ("#!/opt/conda/bin/python3.12\nimport x", Some("/opt/conda/bin/python3.12")),
            ("#!/usr/bin/env python3\n", Some("env python3")),
            ("#!/usr/bin/env -S python3 -I\n", Some("env python3")),
            (
                "#!/bin/sh\n'''exec' \"/a long/bin/python\" \"$0\" \"$@\"\n",
                Some("/a long/bin/python"),
            ),
            ("#!/bin/sh\n'''exec' /long/bin/python \"$0\" \"$@\"\n", Some("/long/bin/python")),
            ("\u{7f}ELF", None),
        ] {
            assert_eq!(interpreter(head).as_deref(), expected, "{head}");
        }
        assert!(is_python("env python3") && is_python("/a long/bin/python"));
        assert!(!is_python("/bin/bash") && !is_python("env bash") && !is_python("/python/bin/sh"));
        assert_eq!(version_in_name(Path::new("/usr/bin/python3.11")), Some((3, 11)));
        assert_eq!(version_in_name(Path::new("/usr/bin/python3")), None);
    }
}
