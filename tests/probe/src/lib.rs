//! Tries the walls of a sandbox from inside, as the tenant: one line per check,
//! `name<TAB>result`, compared with a table of what is expected.
//!
//! A check that succeeds where it should not must do no harm: arguments are
//! chosen so that a permitted call fails later, or changes nothing.

// Constants are written as the kernel's headers have them, and `as` is what a `const` can do.
#![allow(
    clippy::cast_lossless,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    clippy::cast_possible_truncation,
    clippy::decimal_bitwise_operands
)]

mod abi;
mod check;
mod devices;
mod files;
pub mod golden;
mod identity;
mod kernel;
mod leaks;
mod limits;
mod mounts;
mod namespaces;
mod neighbours;
mod pid1;
mod sockets;
mod sys;

pub use check::{Check, run};

/// Every check, in the order of the list.
pub fn all() -> impl Iterator<Item = &'static Check> {
    [
        identity::CHECKS,
        namespaces::CHECKS,
        mounts::CHECKS,
        devices::CHECKS,
        kernel::CHECKS,
        sockets::CHECKS,
        neighbours::CHECKS,
        abi::CHECKS,
        files::CHECKS,
        leaks::CHECKS,
        limits::CHECKS,
        pid1::CHECKS,
    ]
    .into_iter()
    .flatten()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique_and_many() {
        let names: BTreeSet<_> = all().map(|check| check.name).collect();
        assert_eq!(names.len(), all().count());
        assert!(names.len() >= 100, "{}", names.len());
    }

    #[test]
    fn the_golden_table_names_every_check_and_no_other() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../golden/probe-runc.txt");
        let table = golden::parse(&std::fs::read_to_string(path).unwrap());
        let expected: BTreeSet<_> = table.keys().map(String::as_str).collect();
        let names: BTreeSet<_> = all().map(|check| check.name).collect();
        assert_eq!(names, expected);
    }

    #[test]
    fn a_check_that_kills_or_hangs_is_only_a_result() {
        let killed = Check::function("killed", || {
            // SAFETY: raise has no preconditions; SIGSYS ends this forked child.
            unsafe { libc::raise(libc::SIGSYS) };
            String::new()
        });
        assert_eq!(run(&killed), "killed SIGSYS");
        let value = Check::function("value", || "a\nb".to_owned());
        assert_eq!(run(&value), "a b");
    }
}
