//! One column of the matrix: the runtime under which this run starts its sandboxes, whether they
//! have waited for their users, and what is another way there. What a runtime cannot show is
//! ignored with its reason.

use std::{env, path::PathBuf};

use crate::place;

/// Behind the runtime's name where every sandbox of a tenant is one that waited.
const CLAIMED: &str = "-claimed";

fn name() -> String {
    env::var("ADRASTEA_TEST_RUNTIME").unwrap_or_else(|_| "runc".into())
}

/// The runtime's name: `ADRASTEA_TEST_RUNTIME`, or runc.
pub fn runtime() -> String {
    let name = name();
    name.strip_suffix(CLAIMED).unwrap_or(&name).to_owned()
}

/// Whether tenants get sandboxes that have waited (`ADRASTEA_TEST_RUNTIME=gvisor-claimed`). What
/// starts no tenant is shown by the other column and not tried again.
pub fn claims() -> bool {
    name().ends_with(CLAIMED)
}

/// gVisor's own shim, if the column's sandboxes are to be driven by it
/// (`ADRASTEA_TEST_GVISOR_SHIM=1`) and not by containerd's ordinary one.
pub fn shim() -> Option<PathBuf> {
    env::var_os("ADRASTEA_TEST_GVISOR_SHIM").and_then(|_| place::gvisor_shim())
}

/// Whether the tenant's processes are none of the node, and its network stack is its own.
pub fn has_own_kernel() -> bool {
    runtime() == "gvisor"
}

/// Whether each sandbox is a virtual machine.
pub fn is_of_machines() -> bool {
    runtime() == "kata"
}

/// Whether the tenant's processes are none of the node and its address is taken into the sandbox,
/// so that nothing can send with it from the network namespace on the node.
pub fn runs_apart() -> bool {
    has_own_kernel() || is_of_machines()
}

/// Walls that the processes of such a kernel stand without: they keep some capabilities in
/// the sandbox's own user namespace, see the node's process numbers and control groups, and
/// hold the directories they serve open.
pub const JAIL_LACKS: [&str; 6] = ["CapBnd", "CapEff", "CapPrm", "cgroup", "descriptors", "pid"];

/// The capabilities they may keep: those over files of the sandbox's ids, SYS_CHROOT, SYS_PTRACE.
pub const JAIL_CAPABILITIES: u64 = 0x1f | 1 << 18 | 1 << 19;

/// Whether a write was refused for want of a writable place; gVisor asks for permission first.
pub fn says_read_only(answer: &str) -> bool {
    answer.starts_with("error 30") || has_own_kernel() && answer.starts_with("error 13")
}

/// All of these under runc; under others a seeded third, or all in the long runs
/// (`ADRASTEA_ALL_POINTS`).
pub fn share<T: Copy>(all: &[T]) -> Vec<T> {
    if runtime() == "runc" || env::var_os("ADRASTEA_ALL_POINTS").is_some() {
        return all.to_vec();
    }
    let seed = env::var("ADRASTEA_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1_usize);
    all.iter().copied().skip(seed % 3).step_by(3).collect()
}
