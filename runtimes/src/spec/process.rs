//! PID 1: the init, as the image's own user, with nothing to lose.
//!
//! Its environment and arguments are the same for every sandbox. The server's
//! own must never be here: they travel over the init's channel.

use oci_spec::runtime::{
    PosixRlimit, PosixRlimitBuilder, PosixRlimitType, Process, ProcessBuilder, UserBuilder,
};

use super::{SpecError, caps};
use crate::plan::Plan;

/// Group and others get nothing beyond reading in the own group.
const UMASK: u32 = 0o027;

/// Positive, so that tenants are the kernel's first choice when the node runs out of memory;
/// negative would need a right that root may lack.
const OOM_SCORE_ADJ: i32 = 500;

/// Constants only, so that a runtime looks nothing up in the image.
const ENVIRONMENT: [&str; 2] = ["PATH=/usr/local/bin:/usr/bin:/bin", "HOME=/"];

pub fn init(plan: &Plan) -> Result<Process, SpecError> {
    let user = UserBuilder::default()
        .uid(plan.user.uid)
        .gid(plan.user.gid)
        .umask(UMASK)
        .additional_gids(Vec::new())
        .build()?;
    let mut process = ProcessBuilder::default()
        .terminal(false)
        .user(user)
        .args(vec![plan.init.display().to_string()])
        .env(ENVIRONMENT.map(String::from).to_vec())
        // A directory under a mount point of the home would hold the home's place open.
        .cwd("/")
        .capabilities(caps::none()?)
        .no_new_privileges(true)
        .rlimits(limits(plan)?)
        .oom_score_adj(OOM_SCORE_ADJ)
        .build()?;
    process.set_apparmor_profile(plan.apparmor_profile.map(str::to_owned));
    Ok(process)
}

/// Hard equals soft: nothing to raise. What a cgroup bounds (processes, memory) is not here.
/// No value may exceed what root itself usually has: raising a hard limit needs a capability.
fn limits(plan: &Plan) -> Result<Vec<PosixRlimit>, SpecError> {
    use PosixRlimitType::{
        RlimitCore, RlimitMemlock, RlimitMsgqueue, RlimitNice, RlimitNofile, RlimitRtprio,
        RlimitSigpending,
    };
    [
        // A core file would hold the user's token, and on the host if core_pattern says so.
        (RlimitCore, 0),
        (RlimitNofile, plan.limits.open_files),
        (RlimitMemlock, 64 * 1024),
        (RlimitMsgqueue, 819_200),
        (RlimitNice, 0),
        (RlimitRtprio, 0),
        (RlimitSigpending, 4096),
    ]
    .into_iter()
    .map(|(kind, value)| {
        Ok(PosixRlimitBuilder::default().typ(kind).hard(value).soft(value).build()?)
    })
    .collect()
}
