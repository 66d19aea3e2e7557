//! Keeps the shape of the source: who may know what, and that documents name
//! what exists. Reads the tree; needs nothing else.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    fs,
    path::{Path, PathBuf},
};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Every file below `folder` with this ending.
fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in
        fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
    {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir()
            && !["target", ".git", "node_modules", "__pycache__"].contains(&name.as_str())
        {
            found.extend(files(&path, ending));
        } else if name.ends_with(ending) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The lines of code that name `word`, outside of the allowed places.
fn outside(folder: &str, word: &str, allowed: &[&str]) -> Vec<String> {
    let root = root();
    files(&root.join(folder), ".rs")
        .into_iter()
        .filter(|path| {
            let relative = path.strip_prefix(&root).unwrap().display().to_string();
            !allowed.iter().any(|place| relative.starts_with(place))
        })
        .flat_map(|path| {
            let text = fs::read_to_string(&path).unwrap();
            let named = |line: &&str| line.contains(word) && !line.trim_start().starts_with("//");
            text.lines()
                .filter(named)
                .map(|line| format!("{}: {line}", path.display()))
                .collect::<Vec<_>>()
        })
        .collect()
}

#[test]
fn only_the_wire_knows_its_transport() {
    let allowed = ["launcher/src/api/", "launcher/src/cli/"];
    assert_eq!(outside("launcher/src", "tonic::", &allowed), Vec::<String>::new());
    assert_eq!(
        outside("runtimes/src", "tonic::", &["runtimes/src/engine/containerd/"]),
        Vec::<String>::new()
    );
}

#[test]
fn only_the_engine_knows_containerd() {
    for folder in ["launcher/src", "runtimes/src", "runtimes/init/src"] {
        assert_eq!(
            outside(folder, "containerd_client", &["runtimes/src/engine/containerd/"]),
            Vec::<String>::new()
        );
    }
}

#[test]
fn system_calls_live_in_one_place() {
    let host = ["launcher/src/host/"];
    for word in ["unsafe ", "libc::syscall", "Command::new"] {
        assert_eq!(outside("launcher/src", word, &host), Vec::<String>::new(), "{word}");
    }
    assert_eq!(
        outside("runtimes/init/src", "unsafe ", &["runtimes/init/src/sys.rs"]),
        Vec::<String>::new()
    );
}

#[test]
fn siblings_do_not_call_each_other() {
    let siblings = ["audit", "bench", "home", "network", "image", "store", "policy"];
    for room in siblings {
        for other in siblings.iter().filter(|other| **other != room) {
            let folder = format!("launcher/src/{room}");
            let path = root().join(&folder);
            if path.is_dir() {
                let calls = outside(&folder, &format!("crate::{other}::"), &[]);
                assert_eq!(calls, Vec::<String>::new(), "{room} calls {other}");
            }
        }
        for upper in ["api", "cli", "launch", "boot"] {
            let path = root().join("launcher/src").join(room);
            if path.is_dir() {
                let calls =
                    outside(&format!("launcher/src/{room}"), &format!("crate::{upper}"), &[]);
                assert_eq!(calls, Vec::<String>::new(), "{room} calls {upper}");
            }
        }
    }
}

#[test]
fn every_file_says_what_it_is_for() {
    for folder in ["launcher/src", "runtimes/src", "runtimes/init/src", "proto/src", "tests"] {
        for path in files(&root().join(folder), ".rs") {
            let text = fs::read_to_string(&path).unwrap();
            assert!(text.starts_with("//!"), "{} has no head", path.display());
        }
    }
}

#[test]
fn files_stay_small() {
    for folder in ["launcher", "runtimes", "proto", "tests", "python-shim/adrastea", "demo"] {
        for ending in [".rs", ".py"] {
            for path in files(&root().join(folder), ending) {
                let generated = path.display().to_string().contains("/_proto/");
                let lines = fs::read_to_string(&path).unwrap().lines().count();
                assert!(generated || lines <= 600, "{} has {lines} lines", path.display());
            }
        }
    }
}

/// Links of the documents, and where they lead.
fn links(text: &str) -> Vec<&str> {
    text.split("](")
        .skip(1)
        .filter_map(|rest| rest.split(')').next())
        .filter(|link| {
            !link.contains("://") && !link.starts_with('#') && !link.starts_with("mailto:")
        })
        .map(|link| link.split('#').next().unwrap_or(link))
        .collect()
}

#[test]
fn links_of_documents_lead_somewhere() {
    let mut broken = Vec::new();
    for document in files(&root(), ".md") {
        for link in links(&fs::read_to_string(&document).unwrap()) {
            if !document.parent().unwrap().join(link).exists() {
                broken.push(format!("{}: {link}", document.display()));
            }
        }
    }
    assert_eq!(broken, Vec::<String>::new());
}

/// Without what stands in parentheses: those are rows of the probe's table, not tests.
fn without_parentheses(text: &str) -> String {
    let mut depth = 0;
    let keep = |character: &char| {
        depth += i32::from(*character == '(') - i32::from(*character == ')');
        depth == 0 && *character != ')'
    };
    text.chars().filter(keep).collect()
}

/// The tests a row of the specification names, each with the short name of its file.
fn proofs(row: &str) -> Vec<(String, String)> {
    let mut proofs = Vec::new();
    for part in without_parentheses(row).split('[').skip(1) {
        let Some((file, rest)) = part.split_once(']') else { continue };
        let names = rest.split('`').skip(1).step_by(2);
        proofs.extend(names.map(|name| (file.to_owned(), name.to_owned())));
    }
    proofs
}

#[test]
fn tests_named_as_proofs_exist() {
    let docs = root().join("docs");
    let specification = fs::read_to_string(docs.join("SPECIFICATION.md")).unwrap();
    let files: std::collections::HashMap<&str, &str> = specification
        .lines()
        .filter_map(|line| line.strip_prefix('[')?.split_once("]: "))
        .collect();
    let rows = specification
        .lines()
        .filter(|line| line.starts_with("| "))
        .filter_map(|line| line.split('|').nth(3));
    let proofs: Vec<_> = rows.flat_map(proofs).collect();
    assert!(proofs.len() > 100, "only {} proofs were found in the specification", proofs.len());
    let mut missing = Vec::new();
    for (file, name) in proofs {
        let Some(path) = files.get(file.as_str()) else {
            missing.push(format!("[{file}] leads nowhere"));
            continue;
        };
        let path = docs.join(path);
        let found = if path.is_dir() {
            [".rs", ".py"]
                .iter()
                .flat_map(|ending| self::files(&path, ending))
                .any(|path| names(&path, &name))
        } else {
            names(&path, &name)
        };
        if !found {
            missing.push(format!("{name} in {}", path.display()));
        }
    }
    assert_eq!(missing, Vec::<String>::new());
}

/// Whether a file has a test of this name.
fn names(path: &Path, name: &str) -> bool {
    fs::read_to_string(path).is_ok_and(|text| text.contains(name))
}
