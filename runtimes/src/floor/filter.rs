//! The filter of system calls, compared where it lies: with hundreds of names it is nine tenths
//! of a spec, and is never copied to be judged.
//!
//! Must let through nothing but what is the base's own rule, or refuses.

use std::collections::BTreeMap;

use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompAction, LinuxSyscall};

use super::{Breach, Wall, own_kernel};
use crate::Kernel;

pub fn check(
    candidate: Option<&LinuxSeccomp>,
    base: &LinuxSeccomp,
    kernel: Kernel,
    breaches: &mut Vec<Breach>,
) {
    let mut wall = |detail: String| breaches.push(Breach { wall: Wall::Seccomp, detail });
    let Some(candidate) = candidate else { return wall("no filter".to_owned()) };
    let default = candidate.default_action();
    if default != base.default_action() && !kills(default) {
        wall(format!("the default action is {default}"));
    }
    if candidate.default_errno_ret() != base.default_errno_ret() {
        wall("another default error".to_owned());
    }
    if candidate.architectures() != base.architectures() {
        wall("another ABI".to_owned());
    }
    if candidate.flags() != base.flags() {
        wall("other flags".to_owned());
    }
    if candidate.listener_path().is_some() || candidate.listener_metadata().is_some() {
        wall("somebody listens".to_owned());
    }

    let known: Vec<&LinuxSyscall> = base.syscalls().iter().flatten().collect();
    let rules: Vec<&LinuxSyscall> = match kernel {
        Kernel::Node | Kernel::Machine => candidate.syscalls().iter().flatten().collect(),
        Kernel::Own => own_kernel::rules_as_if_shared(candidate, &known),
    };
    // What nearly every sandbox has: rule by rule the base's own, and in its order.
    if rules == known {
        return;
    }
    let allowed = by_name(&known);
    for (name, rules) in by_name(&rules) {
        let known = allowed.get(name).map(Vec::as_slice).unwrap_or_default();
        for rule in &rules {
            let refuses = refuses(rule.action());
            let is_known = known.iter().any(|other| same_effect(rule, other));
            if !refuses && !is_known {
                wall(format!("`{name}` is wider"));
            }
        }
        // Refusing instead of allowing is stricter; but a call the base answers in its own way
        // (clone3 with ENOSYS) must not lose that answer by a second rule.
        let mixed = rules.iter().any(|rule| refuses(rule.action()))
            && rules.iter().any(|rule| !refuses(rule.action()));
        if mixed {
            wall(format!("`{name}` is both allowed and refused"));
        }
    }
}

fn by_name<'rule>(rules: &[&'rule LinuxSyscall]) -> BTreeMap<&'rule str, Vec<&'rule LinuxSyscall>> {
    let mut all: BTreeMap<&str, Vec<&LinuxSyscall>> = BTreeMap::new();
    for rule in rules {
        for name in rule.names() {
            all.entry(name).or_default().push(rule);
        }
    }
    all
}

fn same_effect(one: &LinuxSyscall, other: &LinuxSyscall) -> bool {
    let arguments = |rule: &LinuxSyscall| rule.args().iter().flatten().copied().collect::<Vec<_>>();
    (one.action(), one.errno_ret()) == (other.action(), other.errno_ret())
        && arguments(one) == arguments(other)
}

fn kills(action: LinuxSeccompAction) -> bool {
    use LinuxSeccompAction::{ScmpActKill, ScmpActKillProcess, ScmpActKillThread};
    matches!(action, ScmpActKill | ScmpActKillProcess | ScmpActKillThread)
}

fn refuses(action: LinuxSeccompAction) -> bool {
    kills(action) || action == LinuxSeccompAction::ScmpActErrno
}
