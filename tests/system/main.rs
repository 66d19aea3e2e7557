//! The launcher with real containerd and runc: life, restarts, faults, refusals.
//! Needs root; refuses without.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod life;

use std::process::ExitCode;

use adrastea_tests::{Options, Suite};

fn main() -> ExitCode {
    let mut suite = Suite::new(Options::default()).expect("failed to start a runtime");
    life::add(&mut suite);
    suite.run()
}
