//! S1: a token that the hub hands over is known to the tenant's process and to
//! nothing else on the node.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use adrastea_proto::v1::{self, FailureReason};
use adrastea_tests::{Instance, Suite, User, column, image, place};
use anyhow::{Context as _, ensure};

use crate::{
    posture,
    reference::{Reference, Wishes},
    tenant,
};

const NAME: &str = "JUPYTERHUB_API_TOKEN";

pub fn add(suite: &mut Suite) {
    // Whatever a launcher can say, it says: a secret in a trace is a secret told.
    let mut talkative = tenant::options();
    talkative.environment.push(("ADRASTEA_LOG".into(), "trace".into()));
    suite.own("s1_a_token_is_known_to_the_tenant_alone", talkative, async |instance| {
        canary(&instance).await
    });
    if column::claims() {
        return;
    }
    suite.own(
        "s1_reference_a_token_in_a_containers_environment_leaks",
        tenant::options(),
        async |instance| canary_in_environment(&instance),
    );
}

/// A token that is nowhere yet; not one text, so that this program does not hold it twice.
fn token() -> anyhow::Result<String> {
    let mut bytes = [0; 20];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().fold(String::from("canary"), |text, byte| text + &format!("{byte:02x}")))
}

/// Every place on the node that holds the token, but the processes of `tenants`.
fn places_with(
    instance: &Instance,
    token: &str,
    tenants: &BTreeSet<i32>,
) -> anyhow::Result<Vec<String>> {
    let mut found = Vec::new();
    let files = [
        instance.state(),
        instance.run_directory(),
        instance.scratch().to_owned(),
        "/var/crash".into(),
        "/var/lib/systemd/coredump".into(),
    ];
    for file in files.iter().flat_map(|directory| files_below(directory)) {
        if holds(&file, token) {
            found.push(file.display().to_string());
        }
    }
    let own = i32::try_from(std::process::id())?;
    for process in fs::read_dir("/proc")?.flatten() {
        let pid = process.file_name().to_str().and_then(|name| name.parse::<i32>().ok());
        let Some(pid) = pid.filter(|pid| *pid != own && !tenants.contains(pid)) else { continue };
        for file in ["cmdline", "environ"] {
            if holds(&process.path().join(file), token) {
                found.push(format!("{file} of process {pid}"));
            }
        }
    }
    for words in
        ["containers ls", "tasks ls", "images ls", "snapshots ls", "leases ls", "content ls"]
    {
        let said = ctr(instance, words.split(' '))?;
        if said.contains(token) {
            found.push(format!("ctr {words}"));
        }
    }
    for container in ctr(instance, ["containers", "ls", "-q"].into_iter())?.lines() {
        let info = ctr(instance, ["containers", "info", container].into_iter())?;
        let has_shim = ["runc", "kata"].iter().any(|shim| info.contains(shim));
        ensure!(has_shim, "ctr says nothing about `{container}`: {info}");
        if info.contains(token) {
            found.push(format!("ctr containers info {container}"));
        }
    }
    Ok(found)
}

/// Regular files alone: to open a FIFO would be to take part. Homes belong to tenants.
fn files_below(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_file() => found.push(entry.path()),
            Ok(kind) if kind.is_dir() => found.extend(files_below(&entry.path())),
            _ => {}
        }
    }
    found
}

fn holds(file: &Path, token: &str) -> bool {
    fs::read(file)
        .is_ok_and(|bytes| bytes.windows(token.len()).any(|window| window == token.as_bytes()))
}

fn ctr<'word>(
    instance: &Instance,
    words: impl Iterator<Item = &'word str>,
) -> anyhow::Result<String> {
    let output = Command::new(place::tools().join("bin/ctr"))
        .arg("--address")
        .arg(instance.containerd_socket())
        .args(["--namespace", &instance.name])
        .args(words)
        .output()
        .context("failed to run `ctr`")?;
    ensure!(output.status.success(), "ctr: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn with_token(mut request: v1::StartRequest, token: &str) -> v1::StartRequest {
    request.secret_environment.insert(NAME.into(), token.into());
    request
}

async fn canary(instance: &Instance) -> anyhow::Result<()> {
    let token = token()?;
    let ready = instance.start_with(with_token(tenant::wish("s-ana", &["hold"]), &token)).await?;
    tenant::says(instance, "s-ana", "holding").await?;
    let tenants = posture::processes_of(&format!("/{}/{}", instance.name, ready.id()));
    let environment = |pid: &i32| Path::new("/proc").join(pid.to_string()).join("environ");
    let own: Vec<_> = tenants.iter().map(environment).filter(|file| holds(file, &token)).collect();
    // Under a kernel of its own the tenant's process is none of the node.
    let expected = usize::from(!column::runs_apart());
    ensure!(own.len() == expected, "not exactly the tenant's process has the token: {own:?}");
    for user in own.iter().flat_map(|_| [User::other(1000), User::NOBODY]) {
        let file = own[0].clone();
        let read = instance.namespace.within(user.clone(), move || fs::read(file))?;
        ensure!(read.is_err(), "{user:?} of this host reads the tenant's environment");
    }
    let found = places_with(instance, &token, &tenants)?;
    ensure!(found.is_empty(), "while the server runs: {found:?}");
    let listed = format!("{:?}", instance.live().await?);
    ensure!(!listed.contains(&token), "the launcher tells the token");

    // A start that fails late, one that never answers, and one that is refused.
    let mut fails = with_token(tenant::wish("s-fails", &["exit", "3"]), &token);
    fails.ready_path = "/".into();
    let failed = instance.start_failing(fails).await?;
    ensure!(failed.reason() == FailureReason::ServerExited, "{failed:?}");
    ensure!(!format!("{failed:?}").contains(&token), "the failure tells the token");
    let mut refused = with_token(tenant::wish("s-refused", &["hold"]), &token);
    refused.secret_environment.insert("LD_PRELOAD".into(), token.clone());
    let refusal = instance.start_with(refused).await.err().context("LD_PRELOAD was accepted")?;
    ensure!(!format!("{refusal:?}").contains(&token), "the refusal tells the token");
    let mut malformed = with_token(tenant::wish("s-malformed", &["hold"]), &token);
    malformed.secret_environment.insert("TEST_SECRET".into(), format!("{token}\0"));
    let refusal = instance.start_with(malformed).await.err().context("a NUL was accepted")?;
    ensure!(!format!("{refusal:?}").contains(&token), "the refusal tells the token");
    // One that dies of what leaves a core file elsewhere.
    let mut crashes = with_token(tenant::wish("s-crashes", &["crash"]), &token);
    crashes.ready_path = "/".into();
    let failed = instance.start_failing(crashes).await?;
    ensure!(failed.reason() == FailureReason::ServerExited, "{failed:?}");
    ensure!(!format!("{failed:?}").contains(&token), "the failure tells the token");
    let found = places_with(instance, &token, &tenants)?;
    ensure!(found.is_empty(), "after failed starts: {found:?}");

    instance.stop("s-ana", "").await?;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let found = places_with(instance, &token, &BTreeSet::new())?;
    ensure!(found.is_empty(), "after the stop: {found:?}");
    // The search looks at a launcher that says all it can.
    let log = fs::read_to_string(instance.scratch().join("serve.log"))?;
    ensure!(log.contains("TRACE") && log.contains("s-ana"), "the launcher's log is no trace");
    Ok(())
}

fn canary_in_environment(instance: &Instance) -> anyhow::Result<()> {
    let token = token()?;
    let variable = format!("{NAME}={token}");
    let wishes = Wishes { environment: vec![variable.clone()], ..Wishes::default() };
    let mut reference = Reference::start(&instance.namespace, &[image::TENANT, "hold"], &wishes)?;
    reference.says("holding")?;
    let pid = reference.pid()?;
    // Through this instance's containerd, as most spawners do it.
    let rootfs = reference.directory.join("rootfs").display().to_string();
    let runc = place::tools().join("bin/runc").display().to_string();
    let words = [
        "run",
        "--detach",
        "--null-io",
        "--rootfs",
        "--runc-binary",
        &runc,
        "--env",
        &variable,
        &rootfs,
        "leaky",
        image::TENANT,
        "hold",
    ];
    ctr(instance, words.into_iter())?;
    let found = places_with(instance, &token, &BTreeSet::new());
    ctr(instance, ["tasks", "kill", "--signal", "SIGKILL", "leaky"].into_iter())?;
    std::thread::sleep(Duration::from_millis(500));
    ctr(instance, ["tasks", "delete", "leaky"].into_iter())?;
    ctr(instance, ["containers", "delete", "leaky"].into_iter())?;
    let found = found?;
    let sees = |what: &str| found.iter().any(|place| place.contains(what));
    for what in
        ["meta.db", "config.json", "containers info leaky", &format!("environ of process {pid}")]
    {
        ensure!(sees(what), "the search does not see the token in `{what}`, only in {found:?}");
    }
    Ok(())
}
