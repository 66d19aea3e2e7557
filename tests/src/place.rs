//! Where the binaries are: named by the environment, or in this checkout.

use std::{
    env,
    path::{Path, PathBuf},
};

/// The checkout.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map_or_else(|| "/".into(), Path::to_owned)
}

fn named(variable: &str, default: &str) -> PathBuf {
    env::var_os(variable).map_or_else(|| root().join("target").join(default), PathBuf::from)
}

/// The launcher as it is installed.
pub fn launcher() -> PathBuf {
    named("ADRASTEA_LAUNCHER", "release/adrastea")
}

/// The launcher that dies at named points.
pub fn launcher_with_failpoints() -> PathBuf {
    named("ADRASTEA_LAUNCHER_FAILPOINTS", "debug/adrastea-failpoints")
}

pub fn init() -> PathBuf {
    named("ADRASTEA_INIT", "x86_64-unknown-linux-gnu/release/adrastea-init")
}

/// The static program that tries the walls from inside.
pub fn probe() -> PathBuf {
    named("ADRASTEA_PROBE", "x86_64-unknown-linux-gnu/release/adrastea-probe")
}

/// The static program that does what a hostile tenant does.
pub fn tenant() -> PathBuf {
    named("ADRASTEA_TENANT", "x86_64-unknown-linux-gnu/release/adrastea-tenant")
}

/// containerd, its shim, `ctr` and runc lie below `bin`.
pub fn tools() -> PathBuf {
    named("ADRASTEA_TOOLS", "tools")
}

/// Configurations, logs and archives of test runs.
pub fn scratch() -> PathBuf {
    named("ADRASTEA_TEST_SCRATCH", "tests")
}

/// Another runc-compatible program, where somebody has built it as the documents say.
pub fn youki() -> Option<PathBuf> {
    let named = env::var_os("ADRASTEA_YOUKI").map(PathBuf::from);
    named.or_else(|| Some(tools().join("youki/bin/youki"))).filter(|path| path.is_file())
}

/// gVisor's own shim, where somebody has built it.
pub fn gvisor_shim() -> Option<PathBuf> {
    Some(tools().join("gvisor-shim/bin/containerd-shim-runsc-v1")).filter(|path| path.is_file())
}

/// The first binary that is not there.
pub fn missing() -> Option<PathBuf> {
    let bin = tools().join("bin");
    let programs = ["containerd", "ctr", "runc", "runsc"].map(|program| bin.join(program));
    [launcher(), init()].into_iter().chain(programs).find(|path| !path.exists())
}
