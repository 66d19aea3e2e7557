//! The launcher with real containerd and runc: life, restarts, faults, refusals.
//! Needs root; refuses without. `UPDATE_GOLDEN=1` rewrites the golden file.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod access;
mod ask;
mod bench;
mod causes;
mod contract;
mod disk_full;
mod engine_faults;
mod explain;
mod failpoints;
mod fixture;
mod forget;
mod freezes;
mod gvisor;
mod gvisor_ends;
mod gvisor_shim;
mod home_trial;
mod idempotence;
mod images;
mod kata;
mod kill_loop;
mod ledger;
mod life;
mod limits;
mod metrics;
mod missing;
mod names;
mod network;
mod pool;
mod reconcile;
mod reload;
mod restarts;
mod self_test;
mod side_by_side;
mod stop;
mod storms;
mod time_jumps;
mod user_config;
mod weak_runtime;
mod youki;

use std::process::ExitCode;

use adrastea_tests::{Options, Suite};

fn main() -> ExitCode {
    let mut suite = Suite::new(Options::default()).expect("failed to start a runtime");
    contract::add(&mut suite);
    fixture::add(&mut suite);
    forget::add(&mut suite);
    ledger::add(&mut suite);
    life::add(&mut suite);
    explain::add(&mut suite);
    stop::add(&mut suite);
    causes::add(&mut suite);
    storms::add(&mut suite);
    user_config::add(&mut suite);
    gvisor::add(&mut suite);
    gvisor_ends::add(&mut suite);
    gvisor_shim::add(&mut suite);
    home_trial::add(&mut suite);
    kata::add(&mut suite);
    idempotence::add(&mut suite);
    images::add(&mut suite);
    pool::add(&mut suite);
    limits::add(&mut suite);
    access::add(&mut suite);
    names::add(&mut suite);
    network::add(&mut suite);
    reconcile::add(&mut suite);
    reload::add(&mut suite);
    restarts::add(&mut suite);
    self_test::add(&mut suite);
    failpoints::add(&mut suite);
    engine_faults::add(&mut suite);
    freezes::add(&mut suite);
    disk_full::add(&mut suite);
    kill_loop::add(&mut suite);
    time_jumps::add(&mut suite);
    bench::add(&mut suite);
    metrics::add(&mut suite);
    missing::add(&mut suite);
    side_by_side::add(&mut suite);
    weak_runtime::add(&mut suite);
    youki::add(&mut suite);
    suite.not_under(
        "gvisor",
        &[
            (
                "user_config::is_ignored_in_any_home",
                "gVisor cannot hold the covers, and such a start is denied",
            ),
            (
                "forget::on_a_full_disk_a_users_configuration_is_ignored",
                "gVisor cannot hold the covers, and such a start is denied",
            ),
            ("missing::a_runtime", "it takes runc itself away"),
            ("weak_runtime::each_dropped_wall_is_seen_and_named", "its careless runtime is a runc"),
            ("weak_runtime::an_open_device_directory_is_closed", "its careless runtime is a runc"),
            ("weak_runtime::a_careless_init_is_seen_and_named", "its careless runtime is a runc"),
            (
                "causes::too_many_processes_are_told",
                "gVisor's kernel counts no processes of the tenant; gvisor::the_end_at_its_limit_of_processes_is_told",
            ),
            (
                "limits::processes_end_at_the_limit_and_neighbours_go_on",
                "gVisor's kernel counts no processes of the tenant; the node's limit on its own is in the proof",
            ),
        ],
    ).expect("every name is that of a trial");
    suite.run()
}
