//! What an init that waits makes in a home of nobody's, when it is asked to, and what it tells of
//! that: the home was attached after the sandbox was made, and seen through other numbers than
//! its own. For launcher and init both, so that neither expects what the other does not do. Pure.
//!
//! On the wire: the request [`REQUEST`]; the answer is one line that begins with [`ANSWERED`].

use std::fmt::Write as _;

/// What is sent instead of a claim; as long as a claim's own beginning.
pub const REQUEST: &[u8; 10] = b"ADRTRIAL1\n";

/// The beginning of the answer.
pub const ANSWERED: &str = "adrastea-init 1 tried: ";

/// Where the launcher's own layer says which directory is, or will be, the home.
pub const HOME_NAME: &str = "/.adrastea/home";

/// A file, and what is written into it.
pub const FILE: &str = "file";
pub const TEXT: &[u8] = b"made inside\n";
/// A directory, in which a second file is made; that is moved to the first of these names, and
/// gets the second one, too.
pub const FOLDER: &str = "folder";
pub const MOVED: &str = "moved";
pub const LINKED: &str = "linked";

/// Each with its mode: the first one is set, the others are those of the init's mask.
pub const MADE: [(&str, u32); 4] =
    [(FILE, 0o600), (FOLDER, 0o750), (MOVED, 0o640), (LINKED, 0o640)];

/// What somebody else has put there before, for its owner alone, and that is nobody's inside.
pub const FOREIGN: &str = "foreign";
pub const FOREIGN_MODE: u32 = 0o600;
/// What the kernel shows of a number that it cannot show (overflowuid, proc(5)).
const NOBODY: u32 = 65_534;

/// The home's own name on the disk: nothing of that name is beside it inside.
pub const PLACE: &str = ".trial";

/// What is told of one file or directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    pub uid: u32,
    pub gid: u32,
    pub mode: u32,
}

/// What an init has seen; the whole of its answer.
pub fn told(files: &[(&str, Seen)], opens_foreign: bool, is_beside: bool) -> String {
    let mut text = String::new();
    for (name, Seen { uid, gid, mode }) in files {
        let _ = write!(text, "{name} {uid}:{gid} {mode:o}, ");
    }
    let opens = if opens_foreign { "opens" } else { "does not open" };
    let sees = if is_beside { "sees" } else { "does not see" };
    text + &format!("{opens} {FOREIGN}, {sees} what is beside the home")
}

/// What it has seen if all is as it must be.
pub fn as_it_must_be(uid: u32, gid: u32) -> String {
    let own = MADE.map(|(name, mode)| (name, Seen { uid, gid, mode }));
    let foreign = (FOREIGN, Seen { uid: NOBODY, gid: NOBODY, mode: FOREIGN_MODE });
    told(&[&own[..], &[foreign]].concat(), false, false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_is_one_line_that_says_all_of_it() {
        let said = as_it_must_be(1000, 100);
        assert_eq!(
            said,
            "file 1000:100 600, folder 1000:100 750, moved 1000:100 640, linked 1000:100 640, \
             foreign 65534:65534 600, does not open foreign, does not see what is beside the home"
        );
        assert_ne!(said, as_it_must_be(1000, 1000));
        let seen = Seen { uid: 0, gid: 0, mode: 0 };
        assert!(
            told(&[(FILE, seen)], true, true)
                .ends_with("opens foreign, sees what is beside the home")
        );
    }
}
