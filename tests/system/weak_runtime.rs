//! A runtime that drops a wall it was told to build: the proof at start sees it
//! on the real sandbox, names the wall, and nothing of the tenant ever runs.

use std::{fs, os::unix::fs::PermissionsExt as _, time::Duration};

use adrastea_proto::v1::FailureReason;
use adrastea_tests::{Instance, Options, Suite, client::request, config, place};
use anyhow::ensure;
use nix::sys::signal::Signal;

use crate::ask::failed;

/// What a broken runtime does to the spec it is given, as a line of Python, and the wall that is named.
const WEAKENINGS: [(&str, &str); 12] = [
    ("process['noNewPrivileges'] = False", "no_new_privs"),
    ("linux.pop('seccomp')", "seccomp"),
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
];

/// A runtime that changes the spec as told before it obeys.
fn weak_runtime(instance: &Instance, weakening: &str) -> anyhow::Result<std::path::PathBuf> {
    let runc = place::tools().join("bin/runc");
    let path = instance.scratch().join("weak-runc");
    fs::write(
        &path,
        format!(
            "#!/usr/bin/env python3
import json, os, sys
words = sys.argv[1:]
if 'create' in words:
    path = words[words.index('--bundle') + 1] + '/config.json'
    spec = json.load(open(path))
    process, linux, mounts = spec['process'], spec['linux'], spec['mounts']
    {weakening}
    json.dump(spec, open(path, 'w'))
os.execv('{runc}', ['{runc}', *words])
",
            runc = runc.display()
        ),
    )?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(path)
}

pub fn add(suite: &mut Suite) {
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
                weak_runtime(&instance, weakening)?;
                let failure = instance.start_failing(request("ana")).await?;
                failed(&failure, FailureReason::Proof, wall)
                    .map_err(|error| error.context(format!("after `{weakening}`")))?;
                ensure!(
                    failure.log_tail.is_empty(),
                    "something ran after `{weakening}`: {failure:?}"
                );
                instance.nothing_left(Duration::from_secs(5))?;
            }
            weak_runtime(&instance, "pass")?;
            instance.start("ana").await?;
            instance.answers("ana").await
        },
    );
}
