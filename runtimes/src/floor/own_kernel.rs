//! What a runtime with a kernel of its own may do in another way than the base has it:
//! exactly that is put back, so that everything else is compared as ever.

use std::path::Path;

use oci_spec::runtime::{
    LinuxIdMapping, LinuxNamespaceType, LinuxSeccomp, LinuxSeccompAction, LinuxSyscall, Mount, Spec,
};

use crate::plan::{IdMap, Plan};

/// The candidate, but for its filter, as it would be on the node's kernel.
pub fn as_if_shared(candidate: &Spec, base: &Spec, plan: &Plan) -> Spec {
    let mut candidate = candidate.clone();
    let mut mounts = candidate.mounts().clone().unwrap_or_default();
    mounts.retain(|mount| !shows_what_is_there(mount, plan));
    let devices = base.mounts().iter().flatten().find(|mount| is_dev(mount));
    for mount in &mut mounts {
        if let Some(devices) = devices
            && is_writable_form_of(mount, devices)
        {
            *mount = devices.clone();
        }
    }
    candidate.set_mounts(Some(mounts));
    let Some(linux) = candidate.linux_mut() else { return candidate };

    let has_plans_maps = is_map(linux.uid_mappings().as_deref(), &plan.uid_map)
        && is_map(linux.gid_mappings().as_deref(), &plan.gid_map);
    let made = linux.namespaces_mut().iter_mut().flatten().find(|namespace| {
        namespace.typ() == LinuxNamespaceType::User && namespace.path().is_none()
    });
    if let Some(namespace) = made
        && has_plans_maps
    {
        namespace.set_path(Some(plan.user_namespace.clone()));
        linux.set_uid_mappings(None).set_gid_mappings(None);
    }

    candidate
}

fn is_clone3(rule: &LinuxSyscall) -> bool {
    rule.names().iter().map(String::as_str).eq(["clone3"])
}

/// The rules as they would be on the node's kernel: where `clone3` is let through, the base's
/// own answer to it stands in its place.
pub fn rules_as_if_shared<'rule>(
    candidate: &'rule LinuxSeccomp,
    base: &[&'rule LinuxSyscall],
) -> Vec<&'rule LinuxSyscall> {
    let refused = base.iter().copied().find(|rule| is_clone3(rule));
    let shared = |rule: &'rule LinuxSyscall| match refused {
        Some(refused) if is_clone3(rule) && rule.action() == LinuxSeccompAction::ScmpActAllow => {
            refused
        }
        _ => rule,
    };
    candidate.syscalls().iter().flatten().map(shared).collect()
}

/// A directory of the root file system bound onto itself, right above the home: it shows what
/// is there anyway, and covers no other mount.
fn shows_what_is_there(mount: &Mount, plan: &Plan) -> bool {
    let Some(above) = plan.above_home() else { return false };
    let below = above.strip_prefix("/").unwrap_or(above);
    mount.destination() == above
        && mount.source().as_ref() == Some(&plan.rootfs.join(below))
        && mount.typ().as_deref() == Some("bind")
        && mount.options().iter().flatten().eq(["bind", "nosuid", "nodev"])
        && mount.uid_mappings().is_none()
        && mount.gid_mappings().is_none()
}

/// The directory of devices without its `ro`: such a kernel opens no device for writing on a
/// read-only mount. It is root's, and there is no root inside.
fn is_writable_form_of(mount: &Mount, devices: &Mount) -> bool {
    let mut writable = devices.clone();
    let options = devices.options().iter().flatten().filter(|option| *option != "ro");
    writable.set_options(Some(options.cloned().collect()));
    *mount == writable
}

fn is_dev(mount: &Mount) -> bool {
    mount.destination() == Path::new("/dev")
}

fn is_map(given: Option<&[LinuxIdMapping]>, map: &IdMap) -> bool {
    let given = given.unwrap_or_default();
    given.len() == map.mappings().len()
        && given.iter().zip(map.mappings()).all(|(one, other)| {
            (one.container_id(), one.host_id(), one.size())
                == (other.inside, other.outside, other.length)
        })
}
