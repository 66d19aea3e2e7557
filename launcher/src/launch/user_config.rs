//! The places in a home that Jupyter, IPython and Python read configuration and
//! code from, and the proof that they are out of the server's way. Pure.
//!
//! Complete for jupyter_core 5 (`paths.py`, with and without platform directories),
//! IPython 8 and 9 (`paths.py`) and CPython's `site.py`. What these read by an
//! environment variable, [`crate::policy`] sets. Programs in `~/.local/bin` are no
//! configuration: the profile's PATH decides.

use std::{collections::BTreeMap, path::Path};

use crate::host::{covers::SeenPlace, mounts::MountLine};

/// Below the home. Each is covered; the directories on the way are pinned.
pub const PLACES: &[&str] = &[
    // jupyter_config_dir, and its custom CSS and JavaScript.
    ".jupyter",
    // IPython: profiles, startup files, extensions.
    ".ipython",
    // jupyter_config_dir with JUPYTER_PLATFORM_DIRS.
    ".config/jupyter",
    // jupyter_config_path: the user base of `site`.
    ".local/etc",
    // The user's site-packages of every Python: usercustomize, sitecustomize, *.pth.
    ".local/lib",
    // jupyter_data_dir: kernels, extensions, templates.
    ".local/share/jupyter",
];

/// Every directory on the way to a place.
fn pins() -> Vec<&'static str> {
    let mut pins: Vec<&str> = PLACES
        .iter()
        .flat_map(|place| place.match_indices('/').map(|(end, _)| &place[..end]))
        .collect();
    pins.sort_unstable();
    pins.dedup();
    pins
}

/// What of it does not stand, in words; what could not be seen does not stand.
pub fn broken(
    home: &Path,
    seen: &BTreeMap<String, SeenPlace>,
    mounts: &[MountLine],
) -> Vec<String> {
    let has = |place: &str, options: &[&str]| {
        let path = home.join(place);
        mounts.iter().rev().find(|mount| mount.point == path).is_some_and(|mount| {
            options.iter().all(|option| mount.options.iter().any(|present| present == option))
        })
    };
    let mut broken = Vec::new();
    for place in PLACES {
        let covered = seen.get(*place).is_some_and(|seen| seen.is_empty_cover && seen.is_read_only);
        if !covered || !has(place, &["ro", "nosuid", "nodev", "noexec"]) {
            broken.push(format!("user configuration: ~/{place} is not covered"));
        }
    }
    for pin in pins() {
        if !has(pin, &["nosuid", "nodev"]) {
            broken.push(format!("user configuration: ~/{pin} could be moved away"));
        }
    }
    broken
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_place_and_each_way_to_it_must_stand() {
        let home = Path::new("/home/jovyan");
        let good = SeenPlace { is_empty_cover: true, is_read_only: true };
        let seen: BTreeMap<_, _> = PLACES.iter().map(|place| ((*place).to_owned(), good)).collect();
        let line = |place: &str, options: &str| MountLine {
            root: "/".into(),
            point: home.join(place),
            options: options.split(',').map(str::to_owned).collect(),
            file_system: "x".into(),
            propagates: false,
            super_options: Vec::new(),
        };
        let mut mounts: Vec<_> =
            PLACES.iter().map(|place| line(place, "ro,nosuid,nodev,noexec")).collect();
        mounts
            .extend([".config", ".local", ".local/share"].map(|pin| line(pin, "rw,nosuid,nodev")));
        assert_eq!(broken(home, &seen, &mounts), Vec::<String>::new());
        for index in 0..mounts.len() {
            let mut fewer = mounts.clone();
            fewer.remove(index);
            assert_eq!(broken(home, &seen, &fewer).len(), 1, "{:?}", mounts[index]);
        }
        for bad in
            [SeenPlace { is_empty_cover: false, ..good }, SeenPlace { is_read_only: false, ..good }]
        {
            let mut seen = seen.clone();
            seen.insert(".ipython".into(), bad);
            assert_eq!(broken(home, &seen, &mounts).len(), 1);
        }
        assert_eq!(broken(home, &BTreeMap::new(), &mounts).len(), PLACES.len());
        let mut writable = mounts.clone();
        writable.push(line(".jupyter", "rw,nosuid,nodev,noexec"));
        assert_eq!(broken(home, &seen, &writable).len(), 1);
    }
}
