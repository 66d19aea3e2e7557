//! Kata Containers: a virtual machine for each sandbox, driven by a shim of its own. The tenant's
//! processes run on the machine's kernel behind the walls of the base; on the node there are the
//! machine's monitor, the shim and the file server, which are the node's root.
//!
//! Must never be offered unasked: it was run by hand alone, and never with KVM
//! ([`Runtime::unproved`]). What it drops of the base is put back here or is in
//! [`Runtime::limitations`], and [`crate::floor`] knows what stands in the place of each wall.

mod configuration;

use std::path::{Path, PathBuf};

use oci_spec::runtime::{
    LinuxNamespaceType, MountBuilder, PosixRlimitBuilder, PosixRlimitType, Spec,
};

use crate::{
    Around, Kernel, Limitation, Runtime, RuntimeSettings, Strength, advisories,
    engine::{Handler, HandlerOptions},
    plan::{Plan, SandboxId},
    spec::SpecError,
    version::{Version, VersionFloor},
};

pub struct Kata;

/// What the machine's own kernel and agent need beside what the tenant is to have.
const MACHINE_MEBIBYTES: u64 = 256;

/// What monitor, shim and file server need of the node's memory beside the machine's.
const NODE_MEBIBYTES: u64 = 512;

/// Processes and threads of those three: one for each processor of the machine, and the pools of
/// the monitor's and the file server's input and output.
const NODE_PROCESSES: u32 = 512;

static LIMITATIONS: [Limitation; 12] = [
    Limitation {
        what: "the machine's monitor, its shim and its file server are the node's root",
        why: "whoever gets out of the machine meets their filters and the control group, not a user namespace",
    },
    Limitation {
        what: "no user namespace inside",
        why: "the machine's agent fails with one; what is written to the home is the user's by the file server's translation of ids",
    },
    Limitation {
        what: "/dev/shm is bounded by the server's memory alone, whatever the profile says, and is not nosuid, nodev and noexec",
        why: "Kata mounts its own; set-uid programs gain nothing inside, and no device can be made",
    },
    Limitation {
        what: "the root file system is not nosuid inside",
        why: "Kata mounts it anew; set-uid programs gain nothing, for no process can get new privileges",
    },
    Limitation {
        what: "the processes inside are counted for each user, not by a control group",
        why: "Kata drops the limit; there is one user inside, whose number of processes is limited instead",
    },
    Limitation {
        what: "no list of devices in a control group",
        why: "Kata drops it; no device node can be made inside, and those that are there are looked at",
    },
    Limitation {
        what: "directories of /proc and /sys are not masked inside, and that files there are is not looked at",
        why: "Kata masks files alone; they tell of the machine's own kernel, and the node cannot see which of them that kernel has",
    },
    Limitation {
        what: "no AppArmor inside, and Landlock only where the machine's kernel has it",
        why: "they are the machine's own kernel's, which is no part of the node",
    },
    Limitation {
        what: "that a process ran out of memory is told as the signal that ended it",
        why: "the machine's own kernel ends it, and counts for itself",
    },
    Limitation {
        what: "no server waits for its user, and none starts while the home is not there",
        why: "the home is bound before the machine starts: nothing can be attached to it later",
    },
    Limitation {
        what: "a user's own configuration cannot be ignored: such a start is denied",
        why: "what would cover it was never seen to hold in what the file server serves",
    },
    Limitation {
        what: "each server takes 768 MiB of the node beside its own memory",
        why: "the machine's kernel, its monitor, its shim and its file server need room, which is limited, too",
    },
];

impl Runtime for Kata {
    fn name(&self) -> &'static str {
        "kata"
    }

    fn description(&self) -> &'static str {
        "A virtual machine for each server (experimental: never proved with KVM); slower start, more memory"
    }

    fn strength(&self) -> Strength {
        Strength::OwnMachine
    }

    fn kernel(&self) -> Kernel {
        Kernel::Machine
    }

    fn limitations(&self) -> &'static [Limitation] {
        &LIMITATIONS
    }

    fn unproved(&self) -> Option<&'static str> {
        Some("it was run by hand alone, and never with KVM: its walls are checked at each start")
    }

    fn binds_home(&self) -> bool {
        true
    }

    fn holds_covers(&self) -> bool {
        false
    }

    fn refuses_program(&self, printed: &str) -> Option<&'static str> {
        printed.contains("(Golang)").then_some(
            "it is Kata's shim in Go, which puts a machine into a control group of another name than it is given",
        )
    }

    fn refuses_to_wait(&self, _program: &str, _version: Version) -> Option<&'static str> {
        Some("no server waits for its user: a home cannot be attached to a machine that runs")
    }

    fn own_devices(&self) -> &'static [&'static str] {
        // A link to /proc/kcore, which is masked.
        &["kcore"]
    }

    fn own_links(&self) -> &'static [&'static str] {
        &["tap0_kata"]
    }

    fn own_mounts(&self) -> &'static [&'static str] {
        &["/dev/shm"]
    }

    fn leavings(&self, id: &SandboxId) -> Vec<PathBuf> {
        ["kata-containers/shared/sandboxes", "kata-containers", "kata", "vc/sbs", "vc/vm"]
            .map(|place| Path::new("/run").join(place).join(id.as_str()))
            .to_vec()
    }

    fn adapt(&self, mut base: Spec, plan: &Plan) -> Result<Spec, SpecError> {
        let mut mounts = base.mounts().clone().unwrap_or_default();
        mounts.push(
            MountBuilder::default()
                .destination(&plan.user.home)
                .typ("bind")
                .source(plan.bound_home())
                .options(["bind", "nosuid", "nodev"].map(String::from).to_vec())
                .build()?,
        );
        base.set_mounts(Some(mounts));
        if let Some(process) = base.process_mut() {
            process.set_apparmor_profile(None);
            let mut limits = process.rlimits().clone().unwrap_or_default();
            let most = u64::from(plan.limits.processes);
            limits.push(
                PosixRlimitBuilder::default()
                    .typ(PosixRlimitType::RlimitNproc)
                    .hard(most)
                    .soft(most)
                    .build()?,
            );
            process.set_rlimits(Some(limits));
        }
        if let Some(linux) = base.linux_mut() {
            let mut namespaces = linux.namespaces().clone().unwrap_or_default();
            namespaces.retain(|namespace| namespace.typ() != LinuxNamespaceType::User);
            linux.set_namespaces(Some(namespaces));
            linux.set_cgroups_path(Some(PathBuf::from(plan.machine_cgroup())));
        }
        Ok(base)
    }

    fn configuration(
        &self,
        plan: &Plan,
        settings: &RuntimeSettings,
    ) -> Result<Option<String>, SpecError> {
        let files = settings.machine.as_ref().ok_or(SpecError::NoMachine)?;
        Ok(Some(configuration::text(plan, files)))
    }

    fn around(&self, plan: &Plan) -> Option<Around> {
        let beside = (MACHINE_MEBIBYTES + NODE_MEBIBYTES) << 20;
        let processors = u32::try_from(plan.limits.cpu_millis.div_ceil(1000)).unwrap_or(u32::MAX);
        Some(Around {
            memory_bytes: plan.limits.memory_bytes.saturating_add(beside),
            cpu_millis: plan.limits.cpu_millis,
            processes: processors.saturating_add(NODE_PROCESSES),
        })
    }

    fn handler(&self, settings: &RuntimeSettings, configuration: &Path) -> Handler {
        // By its path: by its name, the engine would take the first one on its own search path.
        Handler {
            runtime: settings.binary.to_string_lossy().into_owned(),
            options: HandlerOptions::Configured {
                configuration: configuration.to_owned(),
                kind: None,
            },
            annotation: None,
        }
    }

    fn version_floor(&self) -> &'static VersionFloor {
        &advisories::KATA
    }
}
