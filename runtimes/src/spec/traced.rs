//! The allow-list beside what programs really call (`runtimes/traces`).
#![allow(clippy::unwrap_used)]

use std::{collections::BTreeSet, fs, path::Path};

use oci_spec::runtime::Arch;

use super::{allowed_calls, seccomp, syscalls};

/// Called by a recorded program, and refused all the same: why.
const REFUSED: [(&str, &str); 2] = [
    ("clone3", "the C library takes clone instead, whose flags a filter can see"),
    ("mbind", "numeric libraries ask for near memory, and go on without it"),
];

const PROGRAMS: [&str; 9] =
    ["bash", "gcc", "git", "ipykernel", "jupyterlab", "numpy", "pip", "r", "terminal"];

fn read(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("traces");
    fs::read_to_string(folder.join(name)).unwrap()
}

fn traced() -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for program in PROGRAMS {
        let calls: BTreeSet<_> =
            read(&format!("{program}.txt")).lines().map(str::to_owned).collect();
        // A recording that broke off would justify nothing.
        assert!(calls.len() > 50 && calls.contains("execve"), "{program}: {}", calls.len());
        all.extend(calls);
    }
    all
}

/// Pairs of lines: a reason, and the calls it explains.
fn explained() -> BTreeSet<String> {
    let text = read("not-traced.txt");
    let lines: Vec<_> =
        text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
    let mut all = BTreeSet::new();
    for pair in lines.chunks(2) {
        assert!(pair[0].contains(' ') && pair.len() == 2, "{pair:?}");
        for call in pair[1].split_whitespace() {
            assert!(all.insert(call.to_owned()), "{call} is explained twice");
        }
    }
    all
}

#[test]
fn nothing_is_allowed_without_need() {
    let (allowed, traced, explained) = (allowed_calls().unwrap(), traced(), explained());
    for call in &allowed {
        assert!(traced.contains(call) || explained.contains(call), "{call} is never called");
    }
    for call in &explained {
        assert!(!traced.contains(call), "{call} needs no explanation");
        assert!(allowed.contains(call), "{call} is explained, but not allowed");
    }
}

#[test]
fn what_programs_call_is_allowed_or_refused_on_purpose() {
    let refused: BTreeSet<_> = REFUSED.iter().map(|(call, _)| (*call).to_owned()).collect();
    let allowed = allowed_calls().unwrap();
    let missing: BTreeSet<_> = traced().difference(&allowed).cloned().collect();
    assert_eq!(missing, refused);
}

#[test]
fn each_machine_has_one_abi_and_its_own_names() {
    let names = |architecture| {
        let profile = seccomp::profile_for(architecture).unwrap();
        assert_eq!(profile.architectures().as_deref(), Some(&[architecture][..]));
        let rules = profile.syscalls().clone().unwrap();
        rules.iter().flat_map(|rule| rule.names().clone()).collect::<BTreeSet<_>>()
    };
    let (here, there) = (names(Arch::ScmpArchX86_64), names(Arch::ScmpArchAarch64));
    let legacy: BTreeSet<_> = syscalls::ONLY_X86_64.split_whitespace().map(str::to_owned).collect();
    assert_eq!(here.difference(&there).cloned().collect::<BTreeSet<_>>(), legacy);
    assert!(there.is_subset(&here));
}

#[test]
fn the_whole_filter_of_every_machine() {
    for (name, architecture) in
        [("x86_64", Arch::ScmpArchX86_64), ("aarch64", Arch::ScmpArchAarch64)]
    {
        let profile = seccomp::profile_for(architecture).unwrap();
        insta::assert_snapshot!(name, serde_json::to_string_pretty(&profile).unwrap());
    }
}
