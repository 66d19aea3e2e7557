//! A runtime that drops a wall it was told to build: the proof at start sees it
//! on the real sandbox, names the wall, and nothing of the tenant ever runs.

use std::{fs, os::unix::fs::PermissionsExt as _, time::Duration};

use adrastea_proto::v1::FailureReason;
use adrastea_tests::{Instance, Options, Suite, client::request, config, image, place};
use anyhow::ensure;
use nix::sys::signal::Signal;

use crate::ask::failed;

/// What a broken runtime does to the spec it is given, as a line of Python, and the wall that is named.
const WEAKENINGS: [(&str, &str); 31] = [
    ("process['noNewPrivileges'] = False", "no_new_privs"),
    ("linux.pop('seccomp')", "seccomp"),
    // A filter is there, but not the one that was asked for.
    (
        "[rule.pop('args', None) for rule in linux['seccomp']['syscalls']]",
        "the filter lets through clone",
    ),
    (
        "[a.update(value=a['valueTwo'], valueTwo=a['value']) for rule in linux['seccomp']['syscalls'] for a in rule.get('args') or [] if a['op'] == 'SCMP_CMP_MASKED_EQ']",
        "the filter lets through clone",
    ),
    ("process['capabilities'] = {'bounding': ['CAP_NET_RAW']}", "capabilities"),
    ("process['user']['additionalGids'] = [5]", "additional groups"),
    ("process['user']['uid'] = 1001", "identity"),
    (
        "linux['namespaces'] = [n for n in linux['namespaces'] if n['type'] != 'ipc']; mounts[:] = [m for m in mounts if m['type'] != 'mqueue']",
        "ipc is the host's",
    ),
    (
        "linux['namespaces'] = [n for n in linux['namespaces'] if n['type'] != 'cgroup']",
        "cgroup is the host's",
    ),
    ("linux['resources']['memory'] = {}", "memory is"),
    ("linux['resources'].pop('pids')", "processes are"),
    ("linux['resources'].pop('cpu')", "cpu is"),
    (
        "mounts.append({'destination': '/tmp/host', 'type': 'bind', 'source': '/usr', 'options': ['rbind', 'rw']})",
        "/tmp/host",
    ),
    ("mounts[:] = [m for m in mounts if m['destination'] != '/tmp']", "/tmp is not mounted"),
    ("linux['maskedPaths'].remove('/proc/kallsyms')", "/proc/kallsyms can be read"),
    ("linux['maskedPaths'].remove('/sys/firmware')", "/sys/firmware can be read"),
    ("linux['readonlyPaths'].remove('/proc/sys')", "/proc/sys can be written"),
    ("option('/tmp', 'size=')", "/tmp holds None bytes"),
    ("option('/tmp', 'nr_inodes=')", "/tmp holds None inodes"),
    ("option('/dev/shm', 'noexec')", "/dev/shm is not noexec"),
    ("option('/tmp', 'nosuid')", "/tmp is not nosuid"),
    ("option('/sys', 'ro')", "/sys is not ro"),
    ("option('/tmp', 'mode='); mount('/tmp')['options'].append('mode=0755')", "/tmp has 755"),
    (
        "mount('/run').update(type='bind', source='/usr', options=['bind', 'ro', 'nosuid', 'nodev', 'noexec'])",
        "/run is a",
    ),
    (
        "mounts.append({'destination': '/dev/kmsg', 'type': 'bind', 'source': '/dev/kmsg', 'options': ['bind', 'nosuid', 'noexec']})",
        "/dev/kmsg",
    ),
    ("spec['root']['readonly'] = False; process['env'].append('INJECTED=1')", "environment"),
    (
        "process['rlimits'] = [r for r in process['rlimits'] if r['type'] != 'RLIMIT_CORE']",
        "core file size",
    ),
    (
        "[r.update(soft=512) for r in process['rlimits'] if r['type'] == 'RLIMIT_NOFILE']",
        "open files",
    ),
    ("process['oomScoreAdj'] = 0", "oom score"),
    ("linux['resources']['memory']['swap'] = -1", "memory with swap"),
    ("linux['cgroupsPath'] += 'x'", "cgroup"),
];

/// The same with a neighbour that lives.
const MERGERS: [(&str, &str); 2] = [
    (
        "linux['namespaces'] = [neighbours(n, 'ipc') for n in linux['namespaces']]; mounts[:] = [m for m in mounts if m['type'] != 'mqueue']",
        "ipc is also that of",
    ),
    (
        "linux['namespaces'] = [neighbours(n, 'uts') for n in linux['namespaces']]; spec.pop('hostname')",
        "uts is also that of",
    ),
];

/// A runtime that changes the spec as told before it obeys.
fn weak_runtime(instance: &Instance, weakening: &str) -> anyhow::Result<std::path::PathBuf> {
    let path = instance.scratch().join("weak-runc");
    fs::write(
        &path,
        format!(
            "#!/usr/bin/env python3
import glob, json, os, sys
runc, groups = '{runc}', '/sys/fs/cgroup/*/{instance}/'
words = sys.argv[1:]

def mount(where):
    return next(m for m in mounts if m['destination'] == where)

def option(where, beginning):
    kept = [o for o in mount(where)['options'] if not o.startswith(beginning)]
    mount(where)['options'] = kept

def neighbours(namespace, kind):
    if namespace['type'] != kind:
        return namespace
    pid = next(p for f in glob.glob(groups + '*/cgroup.procs') for p in open(f).read().split())
    return dict(namespace, path='/proc/' + pid + '/ns/' + kind)

if 'create' in words:
    path = words[words.index('--bundle') + 1] + '/config.json'
    spec = json.load(open(path))
    process, linux, mounts = spec['process'], spec['linux'], spec['mounts']
    {weakening}
    json.dump(spec, open(path, 'w'))
os.execv(runc, [runc, *words])
",
            runc = place::tools().join("bin/runc").display(),
            instance = instance.name,
        ),
    )?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(path)
}

/// A start that ends at the proof, naming the wall; nothing of the tenant has run.
async fn refused(instance: &Instance, weakening: &str, wall: &str) -> anyhow::Result<()> {
    weak_runtime(instance, weakening)?;
    let failure = instance.start_failing(request("ana")).await?;
    failed(&failure, FailureReason::Proof, wall)
        .map_err(|error| error.context(format!("after `{weakening}`")))?;
    ensure!(failure.log_tail.is_empty(), "something ran after `{weakening}`: {failure:?}");
    Ok(())
}

pub fn add(suite: &mut Suite) {
    suite.own(
        "weak_runtime::a_careless_init_is_seen_and_named",
        Options::default(),
        |instance| async move {
            let init = place::init().display().to_string();
            let careless = image::answer_program()?.display().to_string();
            config::write(&instance.config(), &instance.config_text().replace(&init, &careless))?;
            instance.restart_launcher(Signal::SIGTERM).await?;
            let failure = instance.start_failing(request("ana")).await?;
            failed(&failure, FailureReason::Proof, "may look into the init")?;
            failed(&failure, FailureReason::Proof, "the init did not try the filter")?;
            // Where the kernel has Landlock; this test's kernel must.
            failed(&failure, FailureReason::Proof, "landlock: version 0 of ")
        },
    );
    suite.own(
        "weak_runtime::an_open_device_directory_is_closed",
        Options::default(),
        |instance| async move {
            let runc = place::tools().join("bin/runc").display().to_string();
            let weak = weak_runtime(&instance, "option('/dev', 'ro')")?.display().to_string();
            config::write(&instance.config(), &instance.config_text().replace(&runc, &weak))?;
            instance.restart_launcher(Signal::SIGTERM).await?;
            let server = instance.start("ana").await?;
            let mounts = instance.http(server.address(), "/cat/proc/self/mountinfo")?.1;
            let device = mounts.lines().find(|line| line.split(' ').nth(4) == Some("/dev"));
            let is_read_only = |line: &str| {
                line.split(' ')
                    .nth(5)
                    .is_some_and(|options| options.split(',').any(|it| it == "ro"))
            };
            ensure!(device.is_some_and(is_read_only), "{mounts}");
            // What is mounted below it is as it was.
            let shared = mounts.lines().find(|line| line.split(' ').nth(4) == Some("/dev/shm"));
            ensure!(shared.is_some_and(|line| !is_read_only(line)), "{mounts}");
            Ok(())
        },
    );
    suite.own(
        "weak_runtime::each_dropped_wall_is_seen_and_named",
        Options::default(),
        |instance| async move {
            let runc = place::tools().join("bin/runc").display().to_string();
            let weak = instance.scratch().join("weak-runc").display().to_string();
            weak_runtime(&instance, "pass")?;
            config::write(&instance.config(), &instance.config_text().replace(&runc, &weak))?;
            instance.restart_launcher(Signal::SIGTERM).await?;
            // The detour alone breaks nothing.
            instance.start("ana").await?;
            instance.stop("ana", "").await?;
            for (weakening, wall) in WEAKENINGS {
                refused(&instance, weakening, wall).await?;
                instance.nothing_left(Duration::from_secs(5))?;
            }
            weak_runtime(&instance, "pass")?;
            instance.start("ben").await?;
            for (weakening, wall) in MERGERS {
                refused(&instance, weakening, wall).await?;
            }
            instance.answers("ben").await?;
            instance.stop("ben", "").await?;
            instance.nothing_left(Duration::from_secs(5))?;
            weak_runtime(&instance, "pass")?;
            instance.start("ana").await?;
            instance.answers("ana").await
        },
    );
}
