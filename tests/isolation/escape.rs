//! E: out of the sandbox, into the kernel, the host, or the sandbox's own init.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use adrastea_probe::golden;
use adrastea_tests::{Instance, Namespace, Suite, claimed, column, image, place};
use anyhow::{Context as _, ensure};

use crate::{
    posture,
    reference::{Reference, Wishes},
    tenant,
};

const GOLDEN: &str = include_str!("../golden/probe-runc.txt");
const GOLDEN_GVISOR: &str = include_str!("../golden/probe-gvisor.txt");
const GOLDEN_KATA: &str = include_str!("../golden/probe-kata.txt");
/// The last check of the probe.
const LAST: &str = "\npid1.forwards-forged\t";
/// Of 378 checks, so many must see a way through where no wall stands.
const LEAST_RED: usize = 200;

/// Each row of the acceptance list, and what its checks' names begin with.
const ROWS: [(&str, &[&str]); 13] = [
    ("E1", &["cap.", "own.no-new-privs", "own.seccomp", "become."]),
    ("E3", &["unshare.", "clone.", "clone3.", "setns."]),
    (
        "E4",
        &[
            "mount.new",
            "umount",
            "pivot_root",
            "chroot",
            "fsopen",
            "open_tree",
            "move_mount",
            "mount_setattr",
        ],
    ),
    ("E5", &["mknod.", "dev."]),
    (
        "E6",
        &[
            "bpf",
            "perf_event_open",
            "reboot",
            "syslog",
            "keyctl",
            "io_uring",
            "userfaultfd",
            "process_vm",
            "open_by_handle_at",
            "memfd_secret",
            "personality.",
        ],
    ),
    ("E7", &["socket.", "netlink.", "option."]),
    ("W-5, W-7", &["neighbour."]),
    ("E8", &["abi."]),
    ("E9", &["write.", "write.own-name", "cgroup."]),
    ("E13", &["leak."]),
    ("E14", &["raise.", "limit.", "nice.", "setuid-file."]),
    ("E15", &["pid1."]),
    ("F5", &["mount.rootfs", "mount.flags", "create."]),
];

/// What a tenant would change to own the host.
const HOST_VALUES: [&str; 14] = [
    "/proc/sys/kernel/core_pattern",
    "/proc/sys/kernel/modprobe",
    "/proc/sys/kernel/hotplug",
    "/proc/sys/kernel/sysrq",
    "/proc/sys/kernel/panic",
    "/proc/sys/kernel/hostname",
    "/proc/sys/kernel/randomize_va_space",
    "/proc/sys/kernel/unprivileged_bpf_disabled",
    "/proc/sys/fs/suid_dumpable",
    "/proc/sys/fs/protected_symlinks",
    "/proc/sys/vm/overcommit_memory",
    "/proc/sys/net/ipv4/ip_forward",
    "/sys/kernel/uevent_helper",
    "/sys/kernel/mm/transparent_hugepage/enabled",
];

pub fn add(suite: &mut Suite) {
    suite.shared("e1_to_e9_the_probe_finds_every_wall_as_a_tenant", async |instance| {
        probe_as_tenant(&instance)
    });
    // In a column that claims, the trial above is this one.
    let waited = "e1_to_e9_the_probe_finds_every_wall_in_a_sandbox_that_waited";
    if column::is_of_machines() {
        suite.ignored(waited, "no server waits for its user there");
    } else if !column::claims() {
        suite.own(waited, tenant::waiting_options().with_world(), |instance| async move {
            probe_where_it_waited(&instance).await
        });
    }
    suite.plain("e1_to_e15_reference_the_probe_finds_no_wall_without", probe_without_walls);
    suite.shared("e1_e2_every_process_as_seen_from_the_host", async |instance| {
        if column::has_own_kernel() {
            jails_from_the_host(&instance).await
        } else {
            seen_from_the_host(&instance).await
        }
    });
    suite.plain("e1_e2_reference_a_process_without_walls", seen_without_walls);
    suite.shared("e12_no_socket_of_the_host_answers", async |instance| sockets(&instance).await);
    suite.shared("e15_the_init_cannot_be_stopped_killed_or_traced", async |instance| {
        attacked_init(&instance).await
    });
    suite.plain("e15_reference_an_ordinary_init_is_frozen", attacked_ordinary_init);
    suite.shared("e15_a_frozen_tree_is_stopped_in_time", async |instance| {
        frozen_tree(&instance).await
    });
}

pub fn host_values() -> BTreeMap<&'static str, Option<String>> {
    HOST_VALUES.into_iter().map(|path| (path, fs::read_to_string(path).ok())).collect()
}

/// What the probe says in this column, the code it ends with, and how many checks it gets to.
fn expected() -> (&'static str, i32, usize) {
    match column::runtime().as_str() {
        // A tenant can end its own init there, and so does the probe, three checks from its end.
        "gvisor" => (GOLDEN_GVISOR, 137, 375),
        "kata" => (GOLDEN_KATA, 0, 378),
        _ => (GOLDEN, 0, 378),
    }
}

fn probe_as_tenant(instance: &Instance) -> anyhow::Result<()> {
    let before = host_values();
    let output = tenant::run_program(instance, "e-probe", tenant::PROFILE, &[image::PROBE])?;
    let (table, code, checks) = expected();
    ensure!(output.code == code, "{output:?}");
    let mismatches = golden::compare(table, &output.stdout);
    ensure!(mismatches.is_empty(), "{} walls:\n{}", mismatches.len(), lines(&mismatches));
    ensure!(golden::parse(&output.stdout).len() >= checks, "the probe ended early");
    let after = host_values();
    ensure!(before == after, "the host was changed: {before:?} {after:?}");
    Ok(())
}

/// The same probe as the server of a sandbox that was made, and has waited, before its user came.
async fn probe_where_it_waited(instance: &Instance) -> anyhow::Result<()> {
    let before = instance.pool(tenant::WAITING, 1).await?;
    let command = [image::WAITS, claimed::BECOME, image::PROBE];
    let output = tenant::run_program(instance, "e-waited", tenant::WAITING, &command)?;
    let said = output.stdout.strip_prefix(claimed::WAITED);
    let said = said.with_context(|| format!("it started cold: {output:?}"))?;
    let (table, code, checks) = expected();
    ensure!(output.code == code, "{output:?}");
    let mismatches = golden::compare(table, said);
    ensure!(mismatches.is_empty(), "{} walls:\n{}", mismatches.len(), lines(&mismatches));
    ensure!(golden::parse(said).len() >= checks, "the probe ended early: {output:?}");
    let after = instance.pool_of(tenant::WAITING).await?;
    ensure!(after.hits == before.hits + 1, "{before:?}, and then {after:?}");
    Ok(())
}

fn lines<T: ToString>(items: &[T]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

fn probe_without_walls() -> anyhow::Result<()> {
    let output = Reference::output_of(&Namespace::new()?, &[image::PROBE], LAST)?;
    let found = golden::parse(&output);
    let red: Vec<_> =
        golden::compare(GOLDEN, &output).into_iter().filter(|one| !one.found.is_empty()).collect();
    ensure!(found.len() >= 350, "only {} checks ran: {output}", found.len());
    ensure!(
        red.len() >= LEAST_RED,
        "only {} checks see that no wall stands:\n{}",
        red.len(),
        lines(&red)
    );
    for (row, beginnings) in ROWS {
        for beginning in beginnings {
            let seen = red.iter().any(|one| one.name.starts_with(beginning));
            ensure!(seen, "{row}: no check `{beginning}…` sees that no wall stands");
        }
    }
    Ok(())
}

async fn seen_from_the_host(instance: &Instance) -> anyhow::Result<()> {
    let users = ["e-ana", "e-ben"];
    let mut taken: Vec<(u64, u64)> = Vec::new();
    let mut homes = BTreeSet::new();
    let mut spaces: Vec<BTreeMap<&str, PathBuf>> = Vec::new();
    for user in users {
        let ready = tenant::start(instance, user, &["freeze"], "frozen").await?;
        let sandbox = instance.get(user).await?;
        let group = format!("/{}/{}", instance.name, ready.id());
        let processes = posture::processes_of(&group);
        ensure!(processes.len() > 20, "{user}: {} processes", processes.len());
        let first = *processes.first().context("no process")?;
        let own = posture::namespaces(&first.to_string())?;
        ensure!(
            posture::processes_in_user_namespace(&own["user"]).is_subset(&processes),
            "{user}: a process of the sandbox is outside of its control group"
        );
        for pid in &processes {
            let faults = posture::faults(*pid, &group)?;
            ensure!(faults.is_empty(), "{user}: process {pid} lacks {faults:?}");
            ensure!(
                posture::namespaces(&pid.to_string())? == own,
                "{user}: process {pid} is elsewhere"
            );
            let status = posture::status(*pid)?;
            for (kind, on_disk) in [("Uid", sandbox.disk_uid), ("Gid", sandbox.disk_gid)] {
                // Where the sandbox was there before its user, the number is the sandbox's own.
                let expected =
                    if column::claims() { sandbox.run_range_first + 1000 } else { on_disk };
                let expected = expected.to_string();
                ensure!(
                    status[kind].split_whitespace().all(|id| id == expected),
                    "{user}: {kind} {}, not {expected}",
                    status[kind]
                );
            }
        }
        for map in ["uid_map", "gid_map"] {
            let ids = posture::host_ids(first, map)?;
            if map == "uid_map" {
                let overlaps = |(a, b): &(u64, u64)| taken.iter().any(|(c, d)| a <= d && c <= b);
                ensure!(
                    !ids.iter().any(overlaps),
                    "{user} shares a host id: {ids:?} and {taken:?}"
                );
                taken.extend(&ids);
            }
            ensure!(!ids.is_empty(), "{user}: an empty {map}");
        }
        ensure!(homes.insert(sandbox.disk_uid), "two users have one disk id");
        for neighbour in &spaces {
            for kind in posture::NAMESPACES {
                ensure!(neighbour[kind] != own[kind], "{user} shares a namespace: {kind}");
            }
        }
        spaces.push(own);
    }
    for user in users {
        ensure!(instance.stop(user, "").await?, "{user} was not there");
    }
    Ok(())
}

/// The processes that are a sandbox's kernel: their tenants are none of the node.
async fn jails_from_the_host(instance: &Instance) -> anyhow::Result<()> {
    let mut taken: Vec<(u64, u64)> = Vec::new();
    let mut own: BTreeSet<PathBuf> = BTreeSet::new();
    for user in ["e-ana", "e-ben"] {
        let ready = tenant::start(instance, user, &["hold"], "holding").await?;
        let group = format!("/{}/{}", instance.name, ready.id());
        let processes = posture::processes_of(&group);
        ensure!(processes.len() >= 3, "{user}: {} processes", processes.len());
        let mut spaces = BTreeSet::new();
        for pid in &processes {
            let faults = posture::faults(*pid, &group)?;
            ensure!(faults.is_empty(), "{user}: process {pid} lacks {faults:?}");
            let found = posture::namespaces(&pid.to_string())?;
            ensure!(
                posture::processes_in_user_namespace(&found["user"]).is_subset(&processes),
                "{user}: a process of the sandbox is outside of its control group"
            );
            for kind in ["user", "mnt", "net", "ipc", "uts"] {
                spaces.insert(found[kind].clone());
            }
        }
        ensure!(own.is_disjoint(&spaces), "{user} shares a namespace: {own:?} {spaces:?}");
        own.extend(spaces);
        let first = *processes.first().context("no process")?;
        let ids = posture::host_ids(first, "uid_map")?;
        let overlaps = |(a, b): &(u64, u64)| taken.iter().any(|(c, d)| a <= d && c <= b);
        ensure!(!ids.iter().any(overlaps), "{user} shares a host id: {ids:?} and {taken:?}");
        taken.extend(&ids);
    }
    for user in ["e-ana", "e-ben"] {
        ensure!(instance.stop(user, "").await?, "{user} was not there");
    }
    Ok(())
}

fn seen_without_walls() -> anyhow::Result<()> {
    let mut reference =
        Reference::start(&Namespace::new()?, &[image::TENANT, "hold"], &Wishes::default())?;
    reference.says("holding")?;
    let faults = posture::faults(reference.pid()?, "/nowhere/else")?;
    let expected = [
        "CapInh",
        "CapPrm",
        "CapEff",
        "CapBnd",
        "CapAmb",
        "NoNewPrivs",
        "Seccomp",
        "Uid",
        "Gid",
        "uid_map",
        "gid_map",
        "cgroup",
        "ipc",
        "user",
        "uts",
        "group memory",
        "group pids",
        "group cpu",
        "group devices",
        "group freezer",
        "group cpuset",
        "group blkio",
        "root is writable",
        "mount flags",
        "core limit",
    ];
    for name in expected {
        ensure!(faults.contains(name), "nothing noticed that `{name}` is no wall here: {faults:?}");
    }
    // What even that container has of its own, an ordinary process has not.
    let mut ordinary = Command::new(place::tenant()).arg("hold").stdout(Stdio::null()).spawn()?;
    let faults = posture::faults(ordinary.id().cast_signed(), "/nowhere/else");
    ordinary.kill()?;
    ordinary.wait()?;
    let faults = faults?;
    for name in posture::NAMESPACES {
        ensure!(faults.contains(name), "nothing noticed that `{name}` is the host's: {faults:?}");
    }
    Ok(())
}

async fn sockets(instance: &Instance) -> anyhow::Result<()> {
    let mut sockets: Vec<String> = [instance.socket(), instance.containerd_socket()]
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    tenant::start(instance, "e-sockets", &["hold"], "holding").await?;
    // The shims' sockets, and every abstract one of the launcher's network.
    let shims = walk_sockets(Path::new("/run/containerd/s"));
    ensure!(!shims.is_empty(), "no shim has a socket here: the test looks at the wrong place");
    sockets.extend(shims);
    let unix = instance.namespace.output("cat", &["/proc/net/unix"])?;
    sockets.extend(
        unix.lines()
            .filter_map(|line| line.split_whitespace().nth(7))
            .filter(|path| path.starts_with('@'))
            .map(str::to_owned),
    );
    let mut words = vec!["unix"];
    words.extend(sockets.iter().map(String::as_str));
    let inside = tenant::run(instance, "e-sockets-too", &words)?;
    ensure!(inside.lines().count() == sockets.len(), "{inside}");
    ensure!(!inside.contains("reached"), "from inside:\n{inside}");
    words.insert(0, image::TENANT);
    let outside = Reference::output_of(&instance.namespace, &words, "nothing is ever the last")?;
    let reached = |socket: &String| outside.contains(&format!("reached {socket}\n"));
    ensure!(
        sockets[..2].iter().all(reached),
        "the reference does not reach launcher and containerd:\n{outside}"
    );
    // Other sandboxes' shims come and go meanwhile.
    ensure!(sockets[2..].iter().any(reached), "the reference reaches no shim:\n{outside}");
    instance.stop("e-sockets", "").await?;
    Ok(())
}

fn walk_sockets(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.path().display().to_string()).collect()
}

async fn attacked_init(instance: &Instance) -> anyhow::Result<()> {
    let ready = tenant::start(instance, "e-attack", &["attack-init"], "holding").await?;
    let said = instance.log("e-attack").await?;
    ensure!(said.contains("mem -1 attach -1 seize -1"), "{said}");
    ensure!(said.contains("init S (sleeping) traced by 0"), "{said}");
    let group = format!("/{}/{}", instance.name, ready.id());
    // That of a machine is inside of it: the first process of a namespace is its file server here.
    if !column::is_of_machines() {
        let init = init_of(&group)?;
        let state = posture::status(init)?;
        ensure!(state["State"].starts_with('S'), "the init is {}", state["State"]);
        ensure!(state["TracerPid"] == "0", "the init is traced");
    }
    let since = Instant::now();
    instance.stop("e-attack", "").await?;
    ensure!(since.elapsed() < Duration::from_secs(4), "the stop took {:?}", since.elapsed());
    Ok(())
}

/// The process that is number 1 inside.
fn init_of(group: &str) -> anyhow::Result<i32> {
    let is_first = |pid: &i32| {
        posture::status(*pid)
            .is_ok_and(|status| status["NSpid"].split_whitespace().next_back() == Some("1"))
    };
    posture::processes_of(group).into_iter().find(is_first).context("there is no init")
}

fn attacked_ordinary_init() -> anyhow::Result<()> {
    let command = [image::TENANT, "parent", "attack-init"];
    let mut reference = Reference::start(&Namespace::new()?, &command, &Wishes::default())?;
    let said = reference.says("holding")?;
    ensure!(said.contains("mem 0 attach 0"), "{said}");
    ensure!(said.contains("init t (tracing stop)") && !said.contains("traced by 0"), "{said}");
    let state = posture::status(reference.pid()?)?;
    ensure!(state["State"].starts_with('t') && state["TracerPid"] != "0", "it is {state:?}");
    Ok(())
}

async fn frozen_tree(instance: &Instance) -> anyhow::Result<()> {
    let ready = if column::has_own_kernel() {
        // There it freezes its own init, too, and so is never heard again.
        let ready = instance.start_with(tenant::wish("e-frozen", &["freeze"])).await?;
        tokio::time::sleep(Duration::from_secs(2)).await;
        ready
    } else {
        tenant::start(instance, "e-frozen", &["freeze"], "frozen").await?
    };
    let group = format!("/{}/{}", instance.name, ready.id());
    // A machine's is inside of it: here are its monitor, its shim and two of its file server.
    let least = match column::runtime().as_str() {
        "gvisor" => 1,
        "kata" => 3,
        _ => 20,
    };
    ensure!(posture::processes_of(&group).len() > least, "the tree is not there");
    let since = Instant::now();
    ensure!(instance.stop("e-frozen", "").await?, "there was nothing to stop");
    // The fixture's grace, and the two seconds that are promised.
    ensure!(since.elapsed() < Duration::from_secs(2 + 2), "the stop took {:?}", since.elapsed());
    ensure!(posture::processes_of(&group).is_empty(), "processes are left");

    let mut reference =
        Reference::start(&Namespace::new()?, &[image::TENANT, "freeze"], &Wishes::default())?;
    reference.says("frozen")?;
    reference.signal("TERM")?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    ensure!(reference.is_running()?, "a frozen tree ends by SIGTERM alone: the test shows nothing");
    Ok(())
}
