//! The version floor: runtimes with known ways out are refused, unless the
//! operator accepts each hole by its name, in root-owned configuration.
//!
//! Pure: takes the text a runtime prints, runs nothing. Must never guess in
//! favour of a version it cannot read.

use std::{fmt, str::FromStr};

/// A release, ordered; a candidate (`1.4.0-rc.2`) comes before its release.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    pub major: u32,
    pub minor: u32,
    pub patch: u32,
    /// False for a candidate.
    pub released: bool,
}

/// The first release of its line (major, minor) with a fix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fix(pub u32, pub u32, pub u32);

/// One known hole.
#[derive(Debug, PartialEq, Eq)]
pub struct Advisory {
    /// The name by which an operator may accept it.
    pub name: &'static str,
    /// What it gives an attacker, in a few words.
    pub what: &'static str,
    /// One per fixed line; a line before the last one without an entry is not fixed.
    pub fixes: &'static [Fix],
}

/// All that is known of a runtime's versions.
#[derive(Debug)]
pub struct VersionFloor {
    pub runtime: &'static str,
    /// The first word that the program prints, of which the advisories are.
    pub program: &'static str,
    pub advisories: &'static [Advisory],
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum VersionError {
    #[error("failed to read the version of `{runtime}` from `{text}`")]
    Unreadable { runtime: &'static str, text: String },
    #[error("{runtime} {version} has known ways out: {}", names(holes))]
    BelowFloor { runtime: &'static str, version: Version, holes: Vec<&'static Advisory> },
    #[error("{program} {version} is older than {least}, the least that is accepted")]
    TooOld { program: String, version: Version, least: Version },
    #[error("nothing is known here of the versions of `{program}`")]
    NoFloor { program: String },
    /// A name that is not in the table accepts nothing: a typing error, or an old entry.
    #[error("`{name}` is no hole known of {runtime}")]
    UnknownName { runtime: &'static str, name: String },
}

impl VersionError {
    /// What an administrator can do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Unreadable { .. } => "see what `BINARY --version` prints",
            Self::BelowFloor { .. } => {
                "install a fixed version; to accept the risk, name each hole in runtimes.<name>.accept_vulnerable"
            }
            Self::TooOld { .. } => "install a newer one, or lower runtimes.<name>.version_floor",
            Self::NoFloor { .. } => {
                "read its advisories, and say from which version on it is trusted: runtimes.<name>.version_floor"
            }
            Self::UnknownName { .. } => "correct runtimes.<name>.accept_vulnerable",
        }
    }
}

fn names(holes: &[&Advisory]) -> String {
    holes.iter().map(|hole| format!("{} ({})", hole.name, hole.what)).collect::<Vec<_>>().join(", ")
}

/// What a check found.
#[derive(Debug, PartialEq, Eq)]
pub struct Checked {
    pub version: Version,
    /// Holes that are there and accepted; to be said aloud.
    pub accepted: Vec<&'static Advisory>,
}

impl VersionFloor {
    /// The holes of one version.
    pub fn holes(&self, version: Version) -> Vec<&'static Advisory> {
        self.advisories.iter().filter(|advisory| !advisory.is_fixed_in(version)).collect()
    }

    /// Judges what `RUNTIME --version` printed, given the names the operator accepts.
    pub fn check(&self, printed: &str, accepted: &[String]) -> Result<Checked, VersionError> {
        if let Some(name) = accepted.iter().find(|name| !self.knows(name)) {
            return Err(VersionError::UnknownName { runtime: self.runtime, name: name.clone() });
        }
        let version = parse_printed(printed).ok_or_else(|| VersionError::Unreadable {
            runtime: self.runtime,
            text: printed.lines().next().unwrap_or_default().chars().take(64).collect(),
        })?;
        let (accepted, holes): (Vec<_>, Vec<_>) = self
            .holes(version)
            .into_iter()
            .partition(|hole| accepted.iter().any(|name| name == hole.name));
        if holes.is_empty() {
            Ok(Checked { version, accepted })
        } else {
            Err(VersionError::BelowFloor { runtime: self.runtime, version, holes })
        }
    }

    /// As [`VersionFloor::check`], for a program that may be another one behind the same driver:
    /// of such a one no hole is known here, so the operator says what is the least.
    pub fn admit(
        &self,
        printed: &str,
        accepted: &[String],
        least: Option<Version>,
    ) -> Result<Checked, VersionError> {
        let program = printed.split_whitespace().next().unwrap_or_default();
        let checked = if program == self.program || parse_printed(printed).is_none() {
            self.check(printed, accepted)?
        } else if least.is_none() {
            let program = program.chars().take(64).collect();
            return Err(VersionError::NoFloor { program });
        } else {
            Self { advisories: &[], ..*self }.check(printed, accepted)?
        };
        match least {
            Some(least) if checked.version < least => Err(VersionError::TooOld {
                program: program.chars().take(64).collect(),
                version: checked.version,
                least,
            }),
            _ => Ok(checked),
        }
    }

    fn knows(&self, name: &str) -> bool {
        self.advisories.iter().any(|advisory| advisory.name == name)
    }
}

impl Advisory {
    fn is_fixed_in(&self, version: Version) -> bool {
        let line = (version.major, version.minor);
        match self.fixes.iter().find(|fix| (fix.0, fix.1) == line) {
            Some(fix) => (version.patch, version.released) >= (fix.2, true),
            // A line begun after the last fix has it from the start.
            None => self.fixes.iter().all(|fix| line > (fix.0, fix.1)),
        }
    }
}

/// Finds the version in the first line of what a runtime prints: `runc version 1.3.6+ds1`, or
/// among other words, `… version: 4.1.0, commit: …`.
fn parse_printed(printed: &str) -> Option<Version> {
    printed
        .lines()
        .next()?
        .split_whitespace()
        .find_map(|word| word.trim_end_matches(',').parse().ok())
}

const DATED_IN_DEBIAN: &str = "0.0~";

/// `20250319.0`: the day, and the number of the release of that day.
fn dated_version(text: &str) -> Option<Version> {
    let (day, number) = text.split_once('.')?;
    let end = number.find(|character: char| !character.is_ascii_digit()).unwrap_or(number.len());
    let is_day = day.len() == 8 && day.bytes().all(|byte| byte.is_ascii_digit());
    let (number, rest) = number.split_at(end);
    let released = rest.is_empty() || rest.starts_with('+');
    let (major, minor) = (day.parse().ok()?, number.parse().ok()?);
    is_day.then_some(Version { major, minor, patch: 0, released })
}

/// From here on a first number is a day.
const FIRST_DAY: u32 = 20_000_000;

impl FromStr for Version {
    type Err = ();

    /// `1.3.6`, `v1.3.6`, `1.3.6+ds1`, `1.4.0-rc.2`, `1.1.5~rc1`; a date as gVisor has it,
    /// `release-20250319.0`, or as Debian writes it, `0.0~20240729.0`.
    fn from_str(text: &str) -> Result<Self, ()> {
        if let Some(dated) =
            text.strip_prefix("release-").or_else(|| text.strip_prefix(DATED_IN_DEBIAN))
        {
            return dated_version(dated).ok_or(());
        }
        let text = text.trim_start_matches('v');
        let end = text
            .find(|character: char| !character.is_ascii_digit() && character != '.')
            .unwrap_or(text.len());
        let (numbers, rest) = text.split_at(end);
        let mut numbers = numbers.split('.').map(str::parse::<u32>);
        let mut next = || numbers.next().and_then(Result::ok).ok_or(());
        let (major, minor, patch) = (next()?, next()?, next()?);
        // After `+` or nothing it is a release; after `-` or `~` a candidate or a build of one.
        let released = rest.is_empty() || rest.starts_with('+');
        if numbers.next().is_some() { Err(()) } else { Ok(Self { major, minor, patch, released }) }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let candidate = if self.released { "" } else { " (not a release)" };
        if self.major >= FIRST_DAY {
            return write!(formatter, "{}.{}{candidate}", self.major, self.minor);
        }
        write!(formatter, "{}.{}.{}{candidate}", self.major, self.minor, self.patch)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]

    use super::*;
    use crate::Runtime;

    fn check(printed: &str, accepted: &[&str]) -> Result<Checked, VersionError> {
        let accepted: Vec<String> = accepted.iter().map(ToString::to_string).collect();
        crate::runc::Runc.version_floor().check(printed, &accepted)
    }

    fn open(printed: &str) -> Vec<&'static str> {
        match check(printed, &[]) {
            Ok(_) => Vec::new(),
            Err(VersionError::BelowFloor { holes, .. }) => {
                holes.iter().map(|hole| hole.name).collect()
            }
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn releases_with_every_fix_pass() {
        for version in ["1.3.6", "1.3.6+ds1", "1.3.7", "1.4.3", "1.5.0", "2.0.0", "v1.4.10"] {
            assert!(open(&format!("runc version {version}\ncommit: x")).is_empty(), "{version}");
        }
    }

    #[test]
    fn known_holes_are_named() {
        let debian = open("runc version 1.1.5+ds1\ncommit: 1.1.5+ds1-1+deb12u1\nspec: 1.0.2-dev");
        assert_eq!(debian.len(), 6);
        assert_eq!(open("runc version 1.3.5"), ["CVE-2026-41579"]);
        assert_eq!(open("runc version 1.4.0"), ["CVE-2026-41579"]);
        assert_eq!(open("runc version 1.2.99"), ["CVE-2026-41579"]);
        assert_eq!(open("runc version 1.3.6-rc.1"), ["CVE-2026-41579"]);
        assert!(open("runc version 1.0.3").contains(&"CVE-2024-21626"));
    }

    #[test]
    fn an_override_names_every_hole() {
        let all = ["CVE-2024-21626", "CVE-2024-45310", "CVE-2025-31133", "CVE-2025-52565"];
        assert!(check("runc version 1.1.5", &all).is_err());
        let found = check("runc version 1.3.5", &["CVE-2026-41579"]).unwrap();
        assert_eq!(found.accepted.len(), 1);
        assert!(check("runc version 1.3.6", &["CVE-2026-41579"]).unwrap().accepted.is_empty());
        assert!(matches!(
            check("runc version 1.3.6", &["CVE-2026-4157"]),
            Err(VersionError::UnknownName { .. })
        ));
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        for text in [
            "",
            "runc",
            "runc version",
            "runc version 1.3",
            "runc version unknown\n1.3.6",
            "1.2.3.4",
        ] {
            assert!(matches!(check(text, &[]), Err(VersionError::Unreadable { .. })), "{text}");
        }
    }

    #[test]
    fn days_are_versions() {
        let floor = crate::gvisor::Gvisor.version_floor();
        for old in ["0.0~20240729.0", "release-20250318.3", "0.0~20250319.0-rc1"] {
            let found = floor.check(&format!("runsc version {old}\nspec: 1.0.2-dev"), &[]);
            assert!(matches!(found, Err(VersionError::BelowFloor { .. })), "{old}: {found:?}");
        }
        for fixed in ["release-20250319.0", "0.0~20250401.1", "release-20260914.0"] {
            assert!(floor.check(&format!("runsc version {fixed}"), &[]).is_ok(), "{fixed}");
        }
        for unreadable in ["release-2025.0", "0.0~abc", "VERSION_MISSING", "release-20250319"] {
            let found = floor.check(&format!("runsc version {unreadable}"), &[]);
            assert!(matches!(found, Err(VersionError::Unreadable { .. })), "{unreadable}");
        }
        let accepted = floor.check("runsc version 0.0~20240729.0", &["CVE-2025-2713".into()]);
        assert_eq!(accepted.unwrap().version.to_string(), "20240729.0");
    }

    #[test]
    fn what_was_never_tried_does_not_wait() {
        let refuses = |program: &str, version: &str| {
            crate::gvisor::Gvisor.refuses_to_wait(program, version.parse().unwrap())
        };
        assert_eq!(refuses("runsc", "20240729.0.0"), None);
        assert_eq!(refuses("runsc", "20260914.0.0"), None);
        assert!(refuses("runsc", "20240728.0.0").is_some_and(|told| told.contains("version")));
        assert!(refuses("other", "20260914.0.0").is_some_and(|told| told.contains("program")));
        assert_eq!(crate::runc::Runc.refuses_to_wait("youki", "0.7.0".parse().unwrap()), None);
    }

    #[test]
    fn both_shims_of_kata_tell_their_version_and_one_is_refused() {
        let floor = crate::kata::Kata.version_floor();
        let rust = |version: &str| {
            format!(
                "Kata Containers containerd shim (Rust): id: io.containerd.kata.v2, version: {version}, commit: abc"
            )
        };
        let go = |version: &str| {
            format!(
                "Kata Containers containerd shim (Golang): id: \"io.containerd.kata.v2\", version: {version}, commit: abc"
            )
        };
        for version in ["3.31.0", "3.32.1", "4.1.0"] {
            for printed in [rust(version), go(version)] {
                let checked = floor.admit(&printed, &[], None).unwrap();
                assert_eq!(checked.version.to_string(), version);
            }
            assert_eq!(crate::kata::Kata.refuses_program(&rust(version)), None);
            let refused = crate::kata::Kata.refuses_program(&go(version));
            assert!(refused.is_some_and(|why| why.contains("control group")));
            assert_eq!(crate::runc::Runc.refuses_program(&go(version)), None);
        }
        for version in ["3.30.0", "3.31.0-rc1", "3.2.0", "2.5.9"] {
            let found = floor.admit(&rust(version), &[], None);
            assert!(matches!(found, Err(VersionError::BelowFloor { .. })), "{version}: {found:?}");
        }
        let unreadable = floor.admit(&rust("new"), &[], None);
        assert!(matches!(unreadable, Err(VersionError::Unreadable { .. })), "{unreadable:?}");
    }

    #[test]
    fn another_program_needs_a_floor_of_the_operators() {
        let floor = crate::runc::Runc.version_floor();
        let least = |text: &str| Some(text.parse::<Version>().unwrap());
        let youki = "youki version: 0.7.0\ncommit: 0.7.0-VERGEN_IDEMPOTENT_OUTPUT";
        assert!(matches!(floor.admit(youki, &[], None), Err(VersionError::NoFloor { .. })));
        let checked = floor.admit(youki, &[], least("0.5.7")).unwrap();
        assert_eq!((checked.version.to_string().as_str(), checked.accepted.len()), ("0.7.0", 0));
        assert!(floor.admit(youki, &[], least("0.7.0")).is_ok());
        for (printed, least) in
            [(youki, least("0.7.1")), ("youki version: 0.7.0-rc.1", least("0.7.0"))]
        {
            let error = floor.admit(printed, &[], least).unwrap_err();
            assert!(matches!(error, VersionError::TooOld { .. }), "{error}");
        }
        // Holes of runc are none of its.
        let accepted = ["CVE-2025-31133".to_owned()];
        assert!(matches!(
            floor.admit(youki, &accepted, least("0.5.7")),
            Err(VersionError::UnknownName { .. })
        ));
        // A floor beside it takes nothing away from what is known of runc itself.
        assert!(matches!(
            floor.admit("runc version 1.3.5", &[], least("1.0.0")),
            Err(VersionError::BelowFloor { .. })
        ));
        assert!(matches!(
            floor.admit("runc version 1.3.6", &[], least("1.4.0")),
            Err(VersionError::TooOld { .. })
        ));
        for unreadable in ["", "youki", "youki version new"] {
            let found = floor.admit(unreadable, &[], least("0.5.7"));
            assert!(matches!(found, Err(VersionError::Unreadable { .. })), "{unreadable}");
        }
    }

    #[test]
    fn the_error_says_what_is_open() {
        assert_eq!(
            check("runc version 1.3.5+ds1", &[]).unwrap_err().to_string(),
            "runc 1.3.5 has known ways out: CVE-2026-41579 (an image's `/dev` link gives limited writes on the host)"
        );
    }
}
