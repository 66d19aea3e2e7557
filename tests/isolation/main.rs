//! The walls, tried from inside and looked at from the host; and each of them
//! again with a container without walls, where the same look must see a way
//! through. What a machine cannot show is listed, never passed.
//!
//! Must never weaken a wall of the host: the reference containers run in
//! namespaces of their own and touch nothing they did not make.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod access;
mod escape;
mod identity;
mod network;
mod posture;
mod reference;
mod resources;
mod secrets;
mod survival;
mod tenant;

use std::process::ExitCode;

use adrastea_tests::{Suite, place};

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
    identity::add(&mut suite);
    network::add(&mut suite);
    resources::add(&mut suite);
    access::add(&mut suite);
    secrets::add(&mut suite);
    survival::add(&mut suite);
    suite.ignored("e15_apparmor_confines_the_tenant", "this kernel has no AppArmor");
    suite.ignored("d_limits_on_cgroup_v2", "this host mounts the controllers as cgroup v1");
    suite.ignored("e_core_scheduling_separates_users", "this kernel has no core scheduling");
    suite.ignored("e_probe_matches_golden_on_aarch64", "this machine is x86_64");
    suite.run()
}
