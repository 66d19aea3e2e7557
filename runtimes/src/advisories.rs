//! The known ways out of runtimes and of containerd: name, what it gives an attacker, and
//! the first fixed release of each line. Each entry names its source.
//!
//! Data only; [`crate::version`] judges. A hole of a part that this product never uses is
//! here if an attacker could still reach it through a containerd that others use, too.

use crate::version::{Advisory, Fix, VersionFloor};

/// From runc's CHANGELOG.md and its security advisories on GitHub. Distributions that backport
/// fixes keep the old number: that is what an operator's written override is for.
pub static RUNC: VersionFloor = VersionFloor {
    runtime: "runc",
    program: "runc",
    advisories: &[
        // GHSA-xr7r-f8xq-vfvv
        Advisory {
            name: "CVE-2024-21626",
            what: "a leaked descriptor gives the host's file system",
            fixes: &[Fix(1, 1, 12)],
        },
        // GHSA-jfvp-7x6p-h2pv
        Advisory {
            name: "CVE-2024-45310",
            what: "empty files can be made on the host",
            fixes: &[Fix(1, 1, 14), Fix(1, 2, 0)],
        },
        // GHSA-9493-h29p-rfm2
        Advisory {
            name: "CVE-2025-31133",
            what: "masked paths can be redirected to the host's /proc",
            fixes: &[Fix(1, 2, 8), Fix(1, 3, 3), Fix(1, 4, 0)],
        },
        // GHSA-qw9x-cqr3-wc7r
        Advisory {
            name: "CVE-2025-52565",
            what: "the console's bind mount can be redirected",
            fixes: &[Fix(1, 2, 8), Fix(1, 3, 3), Fix(1, 4, 0)],
        },
        // GHSA-cgrx-mc8f-2prm
        Advisory {
            name: "CVE-2025-52881",
            what: "writes to /proc can be redirected",
            fixes: &[Fix(1, 2, 8), Fix(1, 3, 3), Fix(1, 4, 0)],
        },
        // GHSA-xjvp-4fhw-gc47; the 1.2 line has no release with the fix
        Advisory {
            name: "CVE-2026-41579",
            what: "an image's `/dev` link gives limited writes on the host",
            fixes: &[Fix(1, 3, 6), Fix(1, 4, 3)],
        },
    ],
};

/// From the CVE records of google/gvisor. Holes that stay within one sandbox have no number
/// there, and those that only tell sandboxes apart on the wire are no way out.
pub static GVISOR: VersionFloor = VersionFloor {
    runtime: "gvisor",
    program: "runsc",
    advisories: &[
        // The record of CVE-2025-2713 names release-20250319.0.
        Advisory {
            name: "CVE-2025-2713",
            what: "until its first fork, a process opens files that only root may",
            fixes: &[Fix(20_250_319, 0, 0)],
        },
    ],
};

/// From the CVE records of kata-containers/kata-containers. Holes of annotations, of Dragonball
/// and of confidential guests are not here: none of them is ever used.
pub static KATA: VersionFloor = VersionFloor {
    runtime: "kata",
    program: "Kata",
    advisories: &[
        // GHSA-5fc8-gg7w-3g5c
        Advisory {
            name: "CVE-2026-24054",
            what: "an image without layers gives the machine the node's own disk",
            fixes: &[Fix(3, 26, 0)],
        },
        // GHSA-2gv2-cffp-j227
        Advisory {
            name: "CVE-2026-47243",
            what: "the machine's root makes links on the node, and is its root then",
            fixes: &[Fix(3, 31, 0)],
        },
    ],
};

/// From the advisories of github.com/containerd/containerd. Those of its Kubernetes plugin
/// count, too: an existing containerd may serve it.
pub static CONTAINERD: VersionFloor = VersionFloor {
    runtime: "containerd",
    program: "containerd",
    advisories: &[
        // GHSA-36xw-fx78-c5r4
        Advisory {
            name: "CVE-2020-15257",
            what: "a shim's socket can be reached from the host's network namespace",
            fixes: &[Fix(1, 3, 9), Fix(1, 4, 3)],
        },
        // GHSA-c72p-9xmj-rx3w
        Advisory {
            name: "CVE-2021-32760",
            what: "an image's layer changes modes of files on the host",
            fixes: &[Fix(1, 4, 8), Fix(1, 5, 4)],
        },
        // GHSA-c2h3-6mxw-7mvq
        Advisory {
            name: "CVE-2021-41103",
            what: "local users read and run what containers hold",
            fixes: &[Fix(1, 4, 11), Fix(1, 5, 7)],
        },
        // GHSA-259w-8hf6-59c2
        Advisory {
            name: "CVE-2023-25153",
            what: "an image archive takes all memory",
            fixes: &[Fix(1, 5, 18), Fix(1, 6, 18)],
        },
        // GHSA-265r-hfxg-fhmg
        Advisory {
            name: "CVE-2024-40635",
            what: "an image's user beyond 2147483647 becomes root",
            fixes: &[Fix(1, 6, 38), Fix(1, 7, 27), Fix(2, 0, 4)],
        },
        // GHSA-pwhc-rpq9-4c8w
        Advisory {
            name: "CVE-2024-25621",
            what: "local users pass through directories of containerd's",
            fixes: &[Fix(1, 7, 29), Fix(2, 0, 7), Fix(2, 1, 5), Fix(2, 2, 0)],
        },
        // GHSA-xhf5-7wjv-pqxp
        Advisory {
            name: "CVE-2026-53488",
            what: "a label of an image runs a command on the host",
            fixes: &[Fix(1, 7, 33), Fix(2, 0, 10), Fix(2, 1, 9), Fix(2, 2, 5), Fix(2, 3, 2)],
        },
    ],
};

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn holes(version: &str) -> Vec<&'static str> {
        CONTAINERD.holes(version.parse().unwrap()).iter().map(|hole| hole.name).collect()
    }

    #[test]
    fn containerds_with_every_fix_pass() {
        for version in ["1.7.33", "2.0.10", "2.1.9", "2.2.5", "2.3.2", "2.4.0"] {
            assert!(holes(version).is_empty(), "{version}");
        }
    }

    #[test]
    fn known_holes_of_containerd_are_named() {
        assert_eq!(holes("2.1.8"), ["CVE-2026-53488"]);
        assert_eq!(holes("1.7.24"), ["CVE-2024-40635", "CVE-2024-25621", "CVE-2026-53488"]);
        assert_eq!(holes("1.3.8").len(), CONTAINERD.advisories.len());
        let printed = "containerd github.com/containerd/containerd/v2 2.1.4+ds1 2.1.4+ds1-2";
        let both = ["CVE-2024-25621", "CVE-2026-53488"].map(str::to_owned);
        assert!(CONTAINERD.check(printed, &both[..1]).is_err());
        assert_eq!(CONTAINERD.check(printed, &both).unwrap().accepted.len(), 2);
    }

    #[test]
    fn every_hole_has_a_name_of_its_own_and_its_fixes_in_order() {
        for floor in [&RUNC, &GVISOR, &CONTAINERD] {
            let mut names: Vec<_> = floor.advisories.iter().map(|one| one.name).collect();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), floor.advisories.len(), "{}", floor.runtime);
            for advisory in floor.advisories {
                let lines: Vec<_> = advisory.fixes.iter().map(|fix| (fix.0, fix.1)).collect();
                assert!(!lines.is_empty() && lines.is_sorted(), "{}", advisory.name);
            }
        }
    }
}
