//! The launcher with real containerd and runc: life, restarts, faults, refusals.
//! Needs root; refuses without. `UPDATE_GOLDEN=1` rewrites the golden file.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod access;
mod ask;
mod contract;
mod engine_faults;
mod failpoints;
mod fixture;
mod idempotence;
mod ledger;
mod life;
mod limits;
mod missing;
mod names;
mod network;
mod restarts;
mod side_by_side;
mod stop;
mod weak_runtime;

use std::process::ExitCode;

use adrastea_tests::{Options, Suite};

fn main() -> ExitCode {
    let mut suite = Suite::new(Options::default()).expect("failed to start a runtime");
    contract::add(&mut suite);
    fixture::add(&mut suite);
    ledger::add(&mut suite);
    life::add(&mut suite);
    stop::add(&mut suite);
    idempotence::add(&mut suite);
    limits::add(&mut suite);
    access::add(&mut suite);
    names::add(&mut suite);
    network::add(&mut suite);
    restarts::add(&mut suite);
    failpoints::add(&mut suite);
    engine_faults::add(&mut suite);
    missing::add(&mut suite);
    side_by_side::add(&mut suite);
    weak_runtime::add(&mut suite);
    suite.run()
}
