//! What the launcher and the init inside a sandbox say to each other: the lines
//! on the init's standard output and the claim on its standard input.
//!
//! Used by the launcher (which encodes) and by the `adrastea-init` binary
//! (which decodes). Must never log, print or keep a claim.

pub mod claim;
pub mod report;

/// The beginning of the first line: the init waits and no code of the tenant has run.
pub const WAITING: &str = "adrastea-init 1 waiting";

/// Then, in the same line, which version of Landlock holds around the init; 0 is none.
pub const LANDLOCK: &str = ", landlock ";

/// The version of Landlock in an init's first line, or none if it is no such line.
pub fn landlock_of(line: &str) -> Option<u32> {
    line.strip_prefix(WAITING)?.strip_prefix(LANDLOCK)?.parse().ok()
}

/// The answer to a claim; all that follows is the server's own output.
pub const CLAIMED: &str = "adrastea-init 1 claimed";

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
