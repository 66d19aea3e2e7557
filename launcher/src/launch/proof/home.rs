//! A home that was attached to a sandbox whose ids were chosen before its user was known. Pure.

use std::path::Path;

use super::files::has;
use crate::host::mounts::MountLine;

/// What of its mount does not stand, in words: the topmost one at its place counts.
pub fn broken_home(home: &Path, mounts: &[MountLine]) -> Vec<String> {
    // The process that opens the files may have the sandbox's root below its own.
    let Some(line) = mounts.iter().rev().find(|mount| mount.point.ends_with(below_root(home)))
    else {
        return vec![format!("home: {} is not mounted", home.display())];
    };
    ["nosuid", "nodev", "idmapped"]
        .into_iter()
        .filter(|option| !has(line, option))
        .map(|option| format!("home: {} is not {option}", home.display()))
        .chain(line.propagates.then(|| "home: it follows the host's mounts".to_owned()))
        .collect()
}

fn below_root(path: &Path) -> &Path {
    path.strip_prefix("/").unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::mounts::parse_mountinfo;

    #[test]
    fn a_home_that_is_not_mapped_is_told() {
        let line = |point: &str, options: &str, tag: &str| {
            format!("36 35 8:0 /homes/u {point} {options} {tag}- ext4 /dev/vda rw\n")
        };
        let broken = |text: String| broken_home(Path::new("/home/u"), &parse_mountinfo(&text));
        let fine = line("/home/u", "rw,nosuid,nodev,idmapped", "");
        assert_eq!(broken(fine.clone()), Vec::<String>::new());
        assert_eq!(
            broken(line("/root/home/u", "rw,nosuid,nodev,idmapped", "")),
            Vec::<String>::new()
        );
        assert_eq!(
            broken(line("/home/u", "rw,nosuid,nodev", "")),
            ["home: /home/u is not idmapped"]
        );
        assert_eq!(
            broken(line("/home/u", "rw,nosuid,idmapped", "shared:1 ")),
            ["home: /home/u is not nodev", "home: it follows the host's mounts"]
        );
        assert_eq!(broken(line("/home/other", "rw", "")), ["home: /home/u is not mounted"]);
        // What lies over it counts.
        assert_eq!(broken(fine + &line("/home/u", "rw", "")).len(), 3);
    }
}
