//! What the launcher and the init inside a sandbox say to each other: the lines
//! on the init's standard output and the claim on its standard input.
//!
//! Used by the launcher (which encodes) and by the `adrastea-init` binary
//! (which decodes). Must never log, print or keep a claim.

pub mod claim;
pub mod report;
pub mod script;
pub mod trial;

/// The beginning of the first line: the init waits and no code of the tenant has run.
pub const WAITING: &str = "adrastea-init 1 waiting";

/// Then, in the same line, which version of Landlock holds around the init; 0 is none.
pub const LANDLOCK: &str = ", landlock ";

/// Then, from the first process of a sandbox, the names of calls that the filter must refuse by
/// an argument, and let through; none if it holds.
pub const LET_THROUGH: &str = ", filter lets through:";

/// What the first line says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FirstLine {
    pub landlock: u32,
    /// Absent where the init has not tried the filter.
    pub let_through: Option<Vec<String>>,
}

/// What an init's first line says, or none if it is no such line.
pub fn first_line(line: &str) -> Option<FirstLine> {
    let said = line.strip_prefix(WAITING)?.strip_prefix(LANDLOCK)?;
    let (landlock, let_through) = match said.split_once(LET_THROUGH) {
        Some((landlock, names)) => {
            (landlock, Some(names.split_whitespace().map(str::to_owned).collect()))
        }
        None => (said, None),
    };
    Some(FirstLine { landlock: landlock.parse().ok()?, let_through })
}

/// The answer to a claim; all that follows is the server's own output.
pub const CLAIMED: &str = "adrastea-init 1 claimed";

/// In the same line, and then a reason: a waiting program stepped aside, and the command was
/// started anew in its place.
pub const ANEW: &str = ", anew: ";

/// The answer to a standby: the waiting program is ready.
pub const READY: &str = "adrastea-init 1 ready";

/// The start of the answer to a standby if the image's program cannot wait; the reason follows.
pub const ASIDE: &str = "adrastea-init 1 aside: ";

/// The waiting program's path inside every sandbox.
pub const WAITING_PROGRAM: &str = "/.adrastea/waiting.py";

/// What the waiting program says to the init, a line each: it is ready; it takes the claim.
/// Every other line is the reason why it steps aside.
pub mod waiting_program {
    pub const READY: &str = "ready";
    pub const TAKEN: &str = "taken";
}

/// The start of the answer to a claim that makes no sense; the reason follows.
pub const REFUSED: &str = "adrastea-init 1 refused: ";

/// The exit codes that are the init's own, as shells use them.
pub mod exit_code {
    /// The claim was refused, or the init could not do its own work.
    pub const REFUSED: i32 = 125;
    /// The server's command was found, but could not be executed.
    pub const NOT_EXECUTABLE: i32 = 126;
    /// The server's command was not found.
    pub const NOT_FOUND: i32 = 127;
    /// Added to the number of the signal that ended the server.
    pub const SIGNALLED: i32 = 128;
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_first_line_says_what_was_tried() {
        let of = |line: &str| first_line(line).map(|it| (it.landlock, it.let_through));
        let names = |names: &[&str]| Some(names.iter().map(ToString::to_string).collect());
        let begin = "adrastea-init 1 waiting, landlock 5";
        assert_eq!(of(begin), Some((5, None)));
        assert_eq!(of(&format!("{begin}, filter lets through:")), Some((5, names(&[]))));
        let two = format!("{begin}, filter lets through: clone ioctl");
        assert_eq!(of(&two), Some((5, names(&["clone", "ioctl"]))));
        for none in ["", "adrastea-init 1 claimed", "adrastea-init 1 waiting, landlock x", "sh"] {
            assert_eq!(of(none), None, "{none}");
        }
    }
}
