//! The walls, tried from inside and looked at from the host; and each of them
//! again with a container without walls, where the same look must see a way
//! through. What a machine cannot show is listed, never passed.
//!
//! Must never weaken a wall of the host: the reference containers run in
//! namespaces of their own and touch nothing they did not make.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod access;
mod broken;
mod escape;
mod identity;
mod images;
mod moments;
mod network;
mod planted;
mod posture;
mod power;
mod reference;
mod resources;
mod secrets;
mod survival;
mod tenant;

use std::process::ExitCode;

use adrastea_tests::{Suite, column, place};

fn main() -> ExitCode {
    if identity::reserve_if_asked() {
        return ExitCode::SUCCESS;
    }
    let list_only = std::env::args().any(|argument| argument == "--list");
    if !list_only && !nix::unistd::geteuid().is_root() {
        eprintln!("these tests look at walls from the host: run them as root");
        return ExitCode::from(2);
    }
    let needed = [place::probe(), place::tenant()];
    if let Some(missing) = needed.iter().find(|path| !list_only && !path.exists()) {
        eprintln!(
            "`{}` is missing; build it: RUSTFLAGS='-C target-feature=+crt-static' cargo build \
             --release -p adrastea-probe --bins --target x86_64-unknown-linux-gnu",
            missing.display()
        );
        return ExitCode::from(2);
    }

    let mut suite = Suite::new(tenant::options().with_world()).expect("a runtime");
    escape::add(&mut suite);
    broken::add(&mut suite);
    identity::add(&mut suite);
    images::add(&mut suite);
    network::add(&mut suite);
    planted::add(&mut suite);
    power::add(&mut suite);
    resources::add(&mut suite);
    secrets::add(&mut suite);
    survival::add(&mut suite);
    suite.not_under(
        "kata",
        &[
            (
                "e1_e2_every_process_as_seen_from_the_host",
                "the node's processes are the machine's monitor, shim and file server; the proof holds each against what it must be",
            ),
            (
                "n6_dead_launcher_and_flushed_host_stay_closed",
                "it sends from the sandbox's namespace, whose address the machine takes; the tables are those of runc's column",
            ),
        ],
    ).expect("every name is that of a trial");
    suite.not_under(
        "gvisor",
        &[
            (
                "e15_the_init_cannot_be_stopped_killed_or_traced",
                "gVisor's kernel lets a tenant stop its own init; e15_a_frozen_tree_is_stopped_in_time shows the end of it",
            ),
            (
                "e14_what_is_planted_in_home_and_tmp_is_inert",
                "it plants through a process of the node, and the tenant has none there",
            ),
            (
                "d2_files_without_content_end_at_the_number_of_inodes",
                "gVisor's tmpfs counts no files; memory is the limit",
            ),
            (
                "n6_dead_launcher_and_flushed_host_stay_closed",
                "it sends from the sandbox's namespace, whose address gVisor takes; the tables are those of runc's column",
            ),
        ],
    ).expect("every name is that of a trial");
    if column::claims() {
        return suite.run();
    }
    // Who speaks to the launcher has nothing to do with how a sandbox came to its user.
    access::add(&mut suite);
    moments::add(&mut suite);
    suite.ignored("e15_apparmor_confines_the_tenant", "this kernel has no AppArmor");
    suite.ignored("d_limits_on_cgroup_v2", "this host mounts the controllers as cgroup v1");
    suite.ignored("e_core_scheduling_separates_users", "this kernel has no core scheduling");
    suite.ignored("p1_the_unit_holds_under_systemd", "PID 1 of this machine is no systemd");
    suite.ignored("e_probe_matches_golden_on_aarch64", "this machine is x86_64");
    suite.run()
}
