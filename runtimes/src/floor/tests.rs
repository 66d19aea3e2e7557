//! Whatever a driver widens is refused, and named; what it tightens passes.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::{BTreeSet, HashMap};

use oci_spec::runtime::{Capability, Hooks, LinuxDevice, LinuxSeccompAction, Spec};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::{Runtime, all, gvisor::Gvisor, plan::tests::example, runc::Runc};

fn breaches(candidate: &Spec) -> Vec<Breach> {
    breaches_under(&Runc, candidate)
}

fn breaches_under(runtime: &dyn Runtime, candidate: &Spec) -> Vec<Breach> {
    match check(candidate.clone(), &example(), runtime.kernel()) {
        Ok(checked) => {
            assert!(checked == *candidate, "the check has changed it");
            Vec::new()
        }
        Err(SpecError::Weaker { breaches }) => breaches,
        Err(other) => panic!("{other}"),
    }
}

fn base() -> Spec {
    base_of(&Runc)
}

fn base_of(runtime: &dyn Runtime) -> Spec {
    runtime.adapt(spec::base(&example()).unwrap(), &example()).unwrap()
}

/// The base with one value of its JSON changed.
fn changed(base: &Spec, pointer: &str, value: Value) -> Spec {
    let mut json = serde_json::to_value(base).unwrap();
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    match json.pointer_mut(parent).unwrap_or_else(|| panic!("{pointer}")) {
        Value::Object(object) => drop(object.insert(key.to_owned(), value)),
        Value::Array(array) if key == "-" => array.push(value),
        Value::Array(array) => array[key.parse::<usize>().unwrap()] = value,
        _ => panic!("{pointer}"),
    }
    serde_json::from_value(json).unwrap()
}

#[test]
fn the_base_passes() {
    for runtime in all() {
        assert_eq!(breaches_under(*runtime, &base_of(*runtime)), [], "{}", runtime.name());
    }
}

#[test]
fn what_a_kernel_of_its_own_may_do_others_may_not() {
    let walls = |candidate: &Spec| -> BTreeSet<_> {
        breaches(candidate).into_iter().map(|breach| breach.wall).collect()
    };
    assert_eq!(
        walls(&base_of(&Gvisor)),
        [Wall::IdMap, Wall::Namespaces, Wall::Mounts, Wall::Seccomp].into()
    );
    let above = |source: &str, destination: &str| {
        let mount = json!({"destination": destination, "type": "bind", "source": source,
            "options": ["bind", "nosuid", "nodev"]});
        let rest = base_of(&Gvisor).mounts().as_ref().unwrap().len() - 1;
        breaches_under(&Gvisor, &changed(&base_of(&Gvisor), &format!("/mounts/{rest}"), mount))
    };
    let rootfs = example().rootfs.display().to_string();
    assert_eq!(above(&format!("{rootfs}/home"), "/home"), []);
    for (source, destination) in [("/home", "/home"), ("/", "/home"), (&rootfs, "/home")] {
        assert!(!above(source, destination).is_empty(), "{source} on {destination}");
    }
    assert!(!above(&format!("{rootfs}/etc"), "/etc").is_empty());
    let spec = base_of(&Gvisor);
    let position = spec.mounts().iter().flatten().position(|at| at.destination().ends_with("dev"));
    let options = format!("/mounts/{}/options", position.unwrap());
    assert_eq!(breaches_under(&Gvisor, &spec), []);
    assert!(!breaches_under(&Gvisor, &changed(&spec, &options, json!(["nosuid"]))).is_empty());
    let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
    let mapped = changed(&base_of(&Gvisor), "/linux/uidMappings", map);
    assert!(!breaches_under(&Gvisor, &mapped).is_empty());
}

#[test]
fn every_widening_names_its_wall() {
    let cases = [
        ("/process/capabilities/bounding", json!(["CAP_NET_RAW"]), Wall::Capabilities),
        ("/process/capabilities/ambient", json!(["CAP_SYS_ADMIN"]), Wall::Capabilities),
        ("/process/capabilities", Value::Null, Wall::Capabilities),
        ("/process/noNewPrivileges", json!(false), Wall::NoNewPrivileges),
        ("/process/user/uid", json!(0), Wall::User),
        ("/process/user/additionalGids", json!([0]), Wall::User),
        ("/process/args", json!(["/bin/sh"]), Wall::Command),
        ("/process/cwd", json!("/proc/self/fd/7"), Wall::Command),
        ("/process/env/-", json!("TOKEN=secret"), Wall::Environment),
        ("/process/rlimits/0/hard", json!(1), Wall::Rlimits),
        ("/process/rlimits", json!([]), Wall::Rlimits),
        ("/process/oomScoreAdj", json!(-500), Wall::OomScore),
        ("/process/terminal", json!(true), Wall::Other),
        ("/process/selinuxLabel", json!("unconfined"), Wall::Other),
        ("/root/readonly", json!(false), Wall::Rootfs),
        ("/root/path", json!("/"), Wall::Rootfs),
        ("/hooks", json!({"prestart": [{"path": "/bin/sh"}]}), Wall::Hooks),
        ("/annotations", json!({"run.oci.keep_original_groups": "1"}), Wall::Annotations),
        ("/domainname", json!("elsewhere"), Wall::Other),
        (
            "/mounts/-",
            json!({"destination": "/host", "type": "bind", "source": "/", "options": ["rbind"]}),
            Wall::Mounts,
        ),
        ("/mounts/0/source", json!("/proc"), Wall::Mounts),
        ("/mounts/0/options", json!(["nosuid", "nodev"]), Wall::Mounts),
        ("/mounts/6/options/-", json!("size=100%"), Wall::Mounts),
        ("/mounts/6/options/-", json!("suid"), Wall::Mounts),
        ("/linux/namespaces/0/path", json!("/proc/1/ns/user"), Wall::Namespaces),
        ("/linux/namespaces", json!([{"type": "pid"}]), Wall::Namespaces),
        ("/linux/uidMappings", json!([{"containerID": 0, "hostID": 0, "size": 1}]), Wall::IdMap),
        ("/linux/gidMappings", json!([]), Wall::IdMap),
        ("/linux/rootfsPropagation", json!("shared"), Wall::Propagation),
        ("/linux/maskedPaths/3", json!("/nothing"), Wall::MaskedPaths),
        ("/linux/readonlyPaths/3", json!("/nothing"), Wall::ReadonlyPaths),
        (
            "/linux/devices/-",
            json!({"path": "/dev/kvm", "type": "c", "major": 10, "minor": 232}),
            Wall::Devices,
        ),
        ("/linux/resources/devices/-", json!({"allow": true, "access": "rwm"}), Wall::Devices),
        ("/linux/resources/devices/0/allow", json!(true), Wall::Devices),
        ("/linux/resources/memory/limit", json!(1_u64 << 40), Wall::Memory),
        ("/linux/resources/memory/limit", json!(-1), Wall::Memory),
        ("/linux/resources/memory/swap", json!(-1), Wall::Memory),
        ("/linux/resources/memory/disableOOMKiller", json!(true), Wall::Other),
        ("/linux/resources/memory", Value::Null, Wall::Memory),
        ("/linux/resources/cpu/quota", json!(-1), Wall::Cpu),
        ("/linux/resources/cpu/shares", json!(100_000), Wall::Cpu),
        ("/linux/resources/cpu/period", json!(1000), Wall::Cpu),
        ("/linux/resources/pids/limit", json!(0), Wall::Processes),
        ("/linux/resources/pids", Value::Null, Wall::Processes),
        ("/linux/resources/unified", json!({"memory.max": "max"}), Wall::Other),
        ("/linux/resources", Value::Null, Wall::Memory),
        ("/linux/cgroupsPath", json!("/"), Wall::Cgroup),
        ("/linux/sysctl", json!({"net.ipv4.ip_forward": "1"}), Wall::Other),
        ("/linux/seccomp", Value::Null, Wall::Seccomp),
        ("/linux/seccomp/defaultAction", json!("SCMP_ACT_ALLOW"), Wall::Seccomp),
        ("/linux/seccomp/defaultAction", json!("SCMP_ACT_LOG"), Wall::Seccomp),
        ("/linux/seccomp/architectures/-", json!("SCMP_ARCH_X86"), Wall::Seccomp),
        ("/linux/seccomp/flags/-", json!("SECCOMP_FILTER_FLAG_SPEC_ALLOW"), Wall::Seccomp),
        ("/linux/seccomp/listenerPath", json!("/run/agent.sock"), Wall::Seccomp),
        (
            "/linux/seccomp/syscalls/-",
            json!({"names": ["mount"], "action": "SCMP_ACT_ALLOW"}),
            Wall::Seccomp,
        ),
        (
            "/linux/seccomp/syscalls/-",
            json!({"names": ["socket"], "action": "SCMP_ACT_ALLOW"}),
            Wall::Seccomp,
        ),
        (
            "/linux/seccomp/syscalls/-",
            json!({"names": ["ptrace"], "action": "SCMP_ACT_TRACE"}),
            Wall::Seccomp,
        ),
        ("/linux/seccomp/syscalls/0/action", json!("SCMP_ACT_NOTIFY"), Wall::Seccomp),
        ("/linux/timeOffsets", json!({"monotonic": {"secs": 1}}), Wall::Other),
        ("/linux/netDevices", json!({"eth0": {}}), Wall::Other),
        ("/linux", Value::Null, Wall::Namespaces),
        ("/process", Value::Null, Wall::Command),
    ];
    for runtime in all() {
        let base = base_of(*runtime);
        for (pointer, value, wall) in &cases {
            let found = breaches_under(*runtime, &changed(&base, pointer, value.clone()));
            assert!(
                found.iter().any(|breach| breach.wall == *wall),
                "{}: {pointer} = {value}: expected {wall}, found {found:?}",
                runtime.name()
            );
        }
    }
}

#[test]
fn what_is_stricter_passes() {
    let mut spec = base();
    spec.mounts_mut().as_mut().unwrap().remove(4);
    for mount in spec.mounts_mut().as_mut().unwrap() {
        if mount.destination().as_os_str() == "/tmp" {
            let mut options = mount.options().clone().unwrap();
            options.push("noexec".to_owned());
            mount.set_options(Some(options));
        }
    }
    let linux = spec.linux_mut().as_mut().unwrap();
    let mut masked = linux.masked_paths().clone().unwrap();
    masked.push("/proc/meminfo".to_owned());
    linux.set_masked_paths(Some(masked));
    let mut seccomp = linux.seccomp().clone().unwrap();
    seccomp.set_default_action(LinuxSeccompAction::ScmpActKillProcess);
    let mut rules = seccomp.syscalls().clone().unwrap();
    rules.pop();
    rules.remove(0);
    seccomp.set_syscalls(Some(rules));
    linux.set_seccomp(Some(seccomp));
    let resources = linux.resources_mut().as_mut().unwrap();
    let memory = resources.memory_mut().as_mut().unwrap();
    memory.set_limit(Some(1 << 20)).set_swap(Some(1 << 20));
    assert_eq!(breaches(&spec), []);
}

#[test]
fn typed_widenings_are_refused_too() {
    let mut spec = base();
    spec.set_hooks(Some(Hooks::default()));
    assert_eq!(breaches(&spec)[0].wall, Wall::Hooks);

    let mut spec = base();
    spec.set_annotations(Some(HashMap::new()));
    assert_eq!(breaches(&spec)[0].wall, Wall::Annotations);

    let mut spec = base();
    spec.linux_mut().as_mut().unwrap().set_devices(Some(vec![LinuxDevice::default()]));
    assert_eq!(breaches(&spec)[0].wall, Wall::Devices);

    let mut spec = base();
    let process = spec.process_mut().as_mut().unwrap();
    let mut capabilities = process.capabilities().clone().unwrap();
    capabilities.set_effective(Some([Capability::SysAdmin].into()));
    process.set_capabilities(Some(capabilities));
    let error = check(spec, &example(), Kernel::Node).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the runtime's spec is weaker than the base: capabilities: not five empty sets"
    );
}

/// Paths to every value in the spec's JSON.
fn leaves(value: &Value, path: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(object) if !object.is_empty() => {
            for (key, inner) in object {
                leaves(inner, &format!("{path}/{key}"), found);
            }
        }
        Value::Array(array) if !array.is_empty() => {
            for (index, inner) in array.iter().enumerate() {
                leaves(inner, &format!("{path}/{index}"), found);
            }
        }
        _ => found.push(path.to_owned()),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Any single value of the spec, removed or replaced: refused, or provably only stricter.
    #[test]
    fn random_changes_are_refused_or_stricter(which: prop::sample::Index, pick: prop::sample::Index, number in -2_i64..1 << 40, remove: bool) {
        let runtime = all()[which.index(all().len())];
        let base = base_of(runtime);
        let json = serde_json::to_value(&base).unwrap();
        let mut paths = Vec::new();
        leaves(&json, "", &mut paths);
        let path = pick.get(&paths);
        let old = json.pointer(path).unwrap().clone();

        let mut new = json.clone();
        if remove {
            let (parent, key) = path.rsplit_once('/').unwrap();
            match new.pointer_mut(parent).unwrap() {
                Value::Object(object) => drop(object.remove(key)),
                Value::Array(array) => drop(array.remove(key.parse::<usize>().unwrap())),
                _ => {}
            }
        } else {
            *new.pointer_mut(path).unwrap() = match &old {
                Value::Number(_) => json!(number),
                Value::Bool(value) => json!(!value),
                Value::String(text) => json!(format!("{text}x")),
                other => other.clone(),
            };
        }
        let Ok(spec) = serde_json::from_value::<Spec>(new) else { return Ok(()) };
        if spec == base || !breaches_under(runtime, &spec).is_empty() {
            return Ok(());
        }

        // It passed. Only these may, and only downwards.
        let lower = match (&old, remove) {
            (Value::Number(old), false) => (0..=old.as_i64().unwrap()).contains(&number),
            // A limit of an rlimit that is not given reads as zero.
            (Value::Number(_), true) => path.starts_with("/process/rlimits/"),
            _ => false,
        };
        let tightened = lower && (path.starts_with("/process/rlimits/") || path.starts_with("/linux/resources/"))
            || path == "/process/oomScoreAdj" && number >= 500
            // A call or a device less.
            || path.starts_with("/linux/seccomp/syscalls/") && path.contains("/names/")
            || path.starts_with("/linux/resources/devices/")
            // Refusing with another number refuses all the same.
            || path.ends_with("/errnoRet");
        prop_assert!(tightened, "{} {} -> {}", path, old, if remove { "removed".into() } else { number.to_string() });
    }
}
