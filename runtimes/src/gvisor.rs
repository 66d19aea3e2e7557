//! gVisor: a kernel of its own in user space. The tenant's system calls end in the
//! sentry, which itself stands behind the walls of the base: a user namespace of its
//! own, an unprivileged uid, no capability over the host, a filter of system calls.
//!
//! Must never be weaker than the base where the host is concerned; what its own
//! kernel does instead of the host's is in [`Runtime::limitations`].

use std::path::Path;

use oci_spec::runtime::{
    LinuxIdMapping, LinuxIdMappingBuilder, LinuxNamespaceType, LinuxSeccompAction, MountBuilder,
    Spec,
};

use crate::{
    Kernel, Limitation, OwnShim, Runtime, RuntimeSettings, Strength, advisories,
    engine::{Handler, HandlerOptions},
    plan::{IdMap, Plan},
    spec::SpecError,
    version::{Version, VersionFloor},
};

pub struct Gvisor;

/// The sentry, the gofer and one thread for each of the tenant's: at the limit of the control
/// group the sentry itself ends, so it must lie far above what a tenant is allowed.
const HOST_PROCESSES: u32 = 2048;

/// CHOWN, DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER and FSETID, for files of the tenant's ids;
/// SYS_CHROOT of the gofer, SYS_PTRACE of the sentry (capabilities(7)).
const JAIL_CAPABILITIES: u64 = 0x1f | 1 << 18 | 1 << 19;

/// What every call of runsc is told; the shim for runc-compatible programs passes no flags.
const FLAGS: [&str; 9] = [
    "--platform=systrap",
    "--network=sandbox",
    // No file on the host's disk behind the tenant's back: the root is read-only anyway.
    "--overlay2=none",
    // Nothing of the host's can be reached by opening a file.
    "--host-uds=none",
    "--host-fifo=none",
    "--net-raw=false",
    // The base's filter holds inside, too.
    "--oci-seccomp=true",
    "--directfs=true",
    // The root changes by nobody's hand; the home's place does, when the home is attached.
    "--file-access=exclusive",
];

/// From here on runsc finds its network namespace by itself; before, it takes each for the host's
/// if it sees the settings of the network, which kernels since 6.13 show in every namespace.
const FINDS_ITS_NAMESPACE: Version =
    Version { major: 20_240_801, minor: 0, patch: 0, released: true };

/// The oldest version with which homes were attached through mapped ids, and all of the suites'
/// tests of that passed. It depends on what no interface promises: in whose mount namespace the
/// sentry's files are opened, and under whose number.
const ATTACHES_MAPPED_HOMES: Version =
    Version { major: 20_240_729, minor: 0, patch: 0, released: true };

/// Without the annotation this shim takes what it starts for one container among others, gives
/// `runsc create` an output of its own, and waits for the end of that: for the sandbox's end. With
/// it runsc would leave its processes the shim's OOM score, which is why it must not see it.
static SHIM: OwnShim = OwnShim {
    program: "containerd-shim-runsc-v1",
    kind: "io.containerd.runsc.v1.options",
    annotation: ("io.kubernetes.cri.container-type", "sandbox"),
    configuration: shim_configuration,
    // Its own error: `runsc wait` has lost the sentry that it asked.
    killed: 128,
};

static LIMITATIONS: [Limitation; 8] = [
    Limitation {
        what: "at its limit of processes the whole server ends",
        why: "the limit counts the sentry's own threads, which cannot do without",
    },
    Limitation {
        what: "a user can stop the own server's first process, and is then not heard any more",
        why: "gVisor's kernel lets every process signal the first one; stopping the server works all the same",
    },
    Limitation {
        what: "no Landlock inside",
        why: "gVisor's kernel has none; the tenant never opens a file of the node itself",
    },
    Limitation {
        what: "a user's own configuration cannot be ignored: such a start is denied",
        why: "the sentry opens files itself, outside of the gofer's mounts, and could rename what is covered",
    },
    Limitation {
        what: "a home directly below / cannot be used",
        why: "only in a mount of its own does gVisor see a home that is attached later",
    },
    Limitation {
        what: "the sentry shares the node's process numbers and control group names",
        why: "systrap must see its helpers' numbers; it has no /proc to look into, and a filter",
    },
    Limitation {
        what: "no bound on the number of files in /tmp, /run and /dev/shm",
        why: "gVisor's tmpfs counts bytes alone; each file is paid from the server's memory",
    },
    Limitation {
        what: "no performance counters, no FUSE, no devices, no nested containers, no copy_file_range, no pidfds",
        why: "gVisor's kernel does not have them",
    },
];

impl Runtime for Gvisor {
    fn name(&self) -> &'static str {
        "gvisor"
    }

    fn description(&self) -> &'static str {
        "A kernel of its own in user space: a hole in the node's kernel is out of reach; slower start and files"
    }

    fn strength(&self) -> Strength {
        Strength::OwnKernel
    }

    fn kernel(&self) -> Kernel {
        Kernel::Own
    }

    fn limitations(&self) -> &'static [Limitation] {
        &LIMITATIONS
    }

    fn holds_covers(&self) -> bool {
        false
    }

    fn refuses_to_wait(&self, program: &str, version: Version) -> Option<&'static str> {
        if program != advisories::GVISOR.program {
            return Some("no server waits for its user: it was never tried with this program");
        }
        let is_tried = version >= ATTACHES_MAPPED_HOMES;
        (!is_tried).then_some("no server waits for its user: it was never tried with this version")
    }

    fn makes_files_as_root(&self) -> bool {
        // The sentry (or the gofer) opens them under its own number, and changes the owner then.
        true
    }

    fn refuses_home(&self, home: &Path) -> Option<&'static str> {
        let below_root = home.parent().is_none_or(|above| above.parent().is_none());
        below_root.then_some("it must not lie directly below /")
    }

    fn file_server(&self) -> Option<&'static str> {
        Some("runsc-gofer")
    }

    fn jail_capabilities(&self) -> u64 {
        JAIL_CAPABILITIES
    }

    fn node_namespaces(&self) -> &'static [&'static str] {
        &["pid", "cgroup"]
    }

    fn own_devices(&self) -> &'static [&'static str] {
        &["fuse", "net"]
    }

    fn asks_for_large_pages(&self) -> bool {
        true
    }

    fn host_processes(&self, asked: u32) -> u32 {
        asked.saturating_mul(2).max(HOST_PROCESSES)
    }

    fn adapt(&self, mut base: Spec, plan: &Plan) -> Result<Spec, SpecError> {
        let mut mounts = base.mounts().clone().unwrap_or_default();
        // On a read-only mount this kernel opens no device for writing, not even /dev/null. The
        // directory is root's, and there is no root inside.
        for mount in mounts.iter_mut().filter(|mount| *mount.destination() == Path::new("/dev")) {
            let options = mount.options().iter().flatten().filter(|option| *option != "ro");
            mount.set_options(Some(options.cloned().collect()));
        }
        if let Some(place) = plan.above_home() {
            mounts.push(
                MountBuilder::default()
                    .destination(place)
                    .typ("bind")
                    .source(plan.rootfs.join(place.strip_prefix("/").unwrap_or(place)))
                    .options(["bind", "nosuid", "nodev"].map(String::from).to_vec())
                    .build()?,
            );
        }
        base.set_mounts(Some(mounts));
        if let Some(linux) = base.linux_mut() {
            // runsc has many threads and so cannot join a user namespace; it makes one with the same map.
            for namespace in linux.namespaces_mut().iter_mut().flatten() {
                if namespace.typ() == LinuxNamespaceType::User {
                    namespace.set_path(None);
                }
            }
            // This runsc answers what a filter refuses with EPERM always, and the C library makes its
            // threads by clone3 unless that is ENOSYS. Its namespaces are those of gVisor's kernel.
            if let Some(seccomp) = linux.seccomp_mut() {
                let mut rules = seccomp.syscalls().clone().unwrap_or_default();
                for rule in &mut rules {
                    if rule.names().iter().map(String::as_str).eq(["clone3"]) {
                        rule.set_action(LinuxSeccompAction::ScmpActAllow).set_errno_ret(None);
                    }
                }
                seccomp.set_syscalls(Some(rules));
            }
            linux.set_uid_mappings(Some(mappings(&plan.uid_map)?));
            linux.set_gid_mappings(Some(mappings(&plan.gid_map)?));
        }
        Ok(base)
    }

    fn handler(&self, settings: &RuntimeSettings, _configuration: &Path) -> Handler {
        let Some(shim) = &settings.shim else {
            return Handler {
                runtime: "io.containerd.runc.v2".to_owned(),
                options: HandlerOptions::Runc {
                    binary: settings.binary.clone(),
                    root: settings.root.clone(),
                },
                annotation: None,
            };
        };
        // By its path: by its name, the engine would take the first one on its own search path.
        Handler {
            runtime: shim.program.to_string_lossy().into_owned(),
            options: HandlerOptions::Configured {
                configuration: shim.configuration.clone(),
                kind: Some(SHIM.kind),
            },
            annotation: Some(SHIM.annotation),
        }
    }

    fn own_shim(&self) -> Option<&'static OwnShim> {
        Some(&SHIM)
    }

    fn flags(&self) -> &'static [&'static str] {
        &FLAGS
    }

    fn hides_network_settings(&self, version: Version) -> bool {
        version < FINDS_ITS_NAMESPACE
    }

    fn version_floor(&self) -> &'static VersionFloor {
        &advisories::GVISOR
    }
}

fn shim_configuration(binary: &Path, root: &Path) -> String {
    let text = |path: &Path| toml::Value::String(path.to_string_lossy().into_owned());
    let keys = [("binary_name", text(binary)), ("root", text(root))];
    keys.map(|(key, value)| (key.to_owned(), value))
        .into_iter()
        .collect::<toml::Table>()
        .to_string()
}

fn mappings(map: &IdMap) -> Result<Vec<LinuxIdMapping>, SpecError> {
    map.mappings()
        .iter()
        .map(|mapping| {
            Ok(LinuxIdMappingBuilder::default()
                .container_id(mapping.inside)
                .host_id(mapping.outside)
                .size(mapping.length)
                .build()?)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_own_shim_is_told_of_its_file_and_by_its_path() {
        let mut settings = RuntimeSettings {
            binary: "/run/one/wrappers/gvisor/adrastea-runtime".into(),
            root: "/run/one/gvisor".into(),
            program: "runsc".into(),
            version: ATTACHES_MAPPED_HOMES,
            machine: None,
            shim: None,
        };
        let ordinary = Gvisor.handler(&settings, Path::new("/unused"));
        assert_eq!(ordinary.runtime, "io.containerd.runc.v2");
        assert_eq!(ordinary.annotation, None);
        settings.shim = Some(crate::ShimFiles {
            program: "/opt/containerd-shim-runsc-v1".into(),
            configuration: "/run/one/shim.toml".into(),
        });
        let own = Gvisor.handler(&settings, Path::new("/unused"));
        assert_eq!(own.runtime, "/opt/containerd-shim-runsc-v1");
        let told = HandlerOptions::Configured {
            configuration: "/run/one/shim.toml".into(),
            kind: Some("io.containerd.runsc.v1.options"),
        };
        assert_eq!(own.options, told);
        assert_eq!(own.annotation, Some(("io.kubernetes.cri.container-type", "sandbox")));
        let file = shim_configuration(&settings.binary, Path::new("/a \"b\""));
        let expected =
            "binary_name = \"/run/one/wrappers/gvisor/adrastea-runtime\"\nroot = '/a \"b\"'\n";
        assert_eq!(file, expected);
    }
}
