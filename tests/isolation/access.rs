//! C1: who may speak to the launcher.

use std::{
    fs,
    os::unix::{fs::MetadataExt as _, net::UnixStream},
    path::Path,
};

use adrastea_proto::v1::{self, admin_client::AdminClient, launcher_client::LauncherClient};
use adrastea_tests::{
    Instance, Suite, User,
    client::{HUB, key},
    place,
};
use anyhow::{Context as _, bail, ensure};
use tonic::{Code, Status, transport::Channel};

use crate::tenant;

/// The group of the socket, in the fixture's configuration.
pub const GROUP: u32 = 65534;
const STRANGER: u32 = 4321;

pub fn add(suite: &mut Suite) {
    suite.shared("c1_strangers_do_not_reach_the_socket", async |instance| {
        strangers(&instance).await
    });
    suite.shared("c1_the_group_opens_the_socket_and_nothing_behind_it", async |instance| {
        group_alone(&instance).await
    });
    suite.shared(
        "c1_the_hub_calls_the_launcher_and_not_the_administrators_service",
        async |instance| hub(&instance).await,
    );
    suite.plain("p1_the_systemd_unit_is_hardened", unit_is_scored);
    suite.shared("c1_modes_of_directories_and_sockets", async |instance| modes(&instance));
}

/// Seven of ten: every setting that makes a mount namespace is out of the question.
const MOST_EXPOSED: &str = "--threshold=70";

fn unit_is_scored() -> anyhow::Result<()> {
    let unit = place::root().join("packaging/systemd/adrastea.service");
    let score = |unit: &Path| {
        std::process::Command::new("systemd-analyze")
            .args(["security", "--offline=yes", "--no-pager", MOST_EXPOSED])
            .arg(unit)
            .output()
            .context("failed to run `systemd-analyze` (Debian's package systemd has it)")
    };
    let output = score(&unit)?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(said.contains("Overall exposure level"), "it scored nothing: {said}");
    ensure!(output.status.success(), "{}", said.lines().last().unwrap_or_default());
    // Seen red: the same without what hardens it.
    let bare = place::scratch().join(format!("bare-{}.service", std::process::id()));
    fs::write(&bare, "[Service]\nExecStart=/bin/true\n")?;
    let output = score(&bare);
    fs::remove_file(&bare)?;
    ensure!(!output?.status.success(), "an unhardened unit passes, too");
    Ok(())
}

async fn strangers(instance: &Instance) -> anyhow::Result<()> {
    let with_groups = User { uid: STRANGER, gid: STRANGER, groups: vec![1, 2, 27, 100] };
    for user in [User::other(STRANGER), User::other(1), with_groups] {
        let Err(error) = instance.channel_as(user.clone()).await else {
            bail!("{user:?} opens the socket")
        };
        let error = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
        ensure!(error == Some(std::io::ErrorKind::PermissionDenied), "{user:?}: {error:?}");
    }
    Ok(())
}

/// What each call of the launcher's service answers.
async fn every_call(channel: Channel) -> Vec<(&'static str, Result<(), Status>)> {
    let mut client = LauncherClient::new(channel);
    let key = Some(key("c-nobody", ""));
    let mut answers = Vec::new();
    answers.push(("start", client.start(tenant::wish("c-nobody", &["exit", "0"])).await.map(drop)));
    answers.push((
        "stop",
        client.stop(v1::StopRequest { key: key.clone(), ..Default::default() }).await.map(drop),
    ));
    answers.push(("get", client.get(v1::GetRequest { key: key.clone() }).await.map(drop)));
    answers.push(("list", client.list(v1::ListRequest { hub: HUB.into() }).await.map(drop)));
    answers.push((
        "watch",
        client.watch(v1::WatchRequest { hub: HUB.into(), ..Default::default() }).await.map(drop),
    ));
    answers
        .push(("logs", client.logs(v1::LogsRequest { key, ..Default::default() }).await.map(drop)));
    answers.push((
        "offers",
        client.offers(v1::OffersRequest { user: "c-nobody".into() }).await.map(drop),
    ));
    answers
}

async fn every_admin_call(channel: Channel) -> Vec<(&'static str, Result<(), Status>)> {
    let mut client = AdminClient::new(channel);
    let run = v1::RunRequest {
        start: Some(tenant::wish("c-nobody", &[])),
        command: vec!["/bin/tenant".into()],
    };
    let import =
        v1::ImportImageRequest { path: "/etc/shadow".into(), reference: "localhost/evil:1".into() };
    let mut answers = Vec::new();
    answers.push(("run", client.run(run).await.map(drop)));
    answers.push(("import", client.import_image(import).await.map(drop)));
    answers.push(("images", client.list_images(v1::ListImagesRequest {}).await.map(drop)));
    answers.push(("stop all", client.stop_all(v1::StopAllRequest::default()).await.map(drop)));
    answers
}

async fn group_alone(instance: &Instance) -> anyhow::Result<()> {
    let users = [
        User { uid: STRANGER, gid: GROUP, groups: vec![] },
        User { uid: STRANGER, gid: STRANGER, groups: vec![GROUP] },
    ];
    for user in users {
        let mut answers = every_call(instance.channel_as(user.clone()).await?).await;
        answers.extend(every_admin_call(instance.channel_as(user.clone()).await?).await);
        for (call, answer) in answers {
            let code = answer.as_ref().err().map(Status::code);
            ensure!(code == Some(Code::PermissionDenied), "{user:?} calls {call}: {answer:?}");
        }
    }
    let nobodys =
        instance.launcher().await?.get(v1::GetRequest { key: Some(key("c-nobody", "")) }).await;
    // The hub's calls may have run beside this one; a stranger's left nothing of theirs.
    ensure!(
        nobodys.is_err() || nobodys.is_ok_and(|answer| answer.get_ref().generation <= 1),
        "a refused call had an effect"
    );
    Ok(())
}

async fn hub(instance: &Instance) -> anyhow::Result<()> {
    for (call, answer) in every_call(instance.channel_as(User::NOBODY).await?).await {
        let code = answer.as_ref().err().map(Status::code);
        ensure!(matches!(code, None | Some(Code::NotFound)), "the hub calls {call}: {answer:?}");
    }
    for (call, answer) in every_admin_call(instance.channel_as(User::NOBODY).await?).await {
        let code = answer.as_ref().err().map(Status::code);
        ensure!(code == Some(Code::PermissionDenied), "the hub calls {call}: {answer:?}");
    }
    let mut client = LauncherClient::new(instance.channel_as(User::NOBODY).await?);
    let all = client.list(v1::ListRequest { hub: String::new() }).await;
    ensure!(
        all.as_ref().is_err_and(|status| status.code() == Code::PermissionDenied),
        "one hub lists all: {all:?}"
    );
    instance.stop("c-nobody", "").await?;
    Ok(())
}

fn modes(instance: &Instance) -> anyhow::Result<()> {
    let (state, run) = (instance.state(), instance.run_directory());
    let expected: [(&Path, u32, u32); 10] = [
        (&run, 0o711, 0),
        (&run.join("api"), 0o750, GROUP),
        (&instance.socket(), 0o660, GROUP),
        (&run.join("sandboxes"), 0o711, 0),
        (&state, 0o711, 0),
        (&state.join("homes"), 0o711, 0),
        (&state.join("logs"), 0o700, 0),
        (&state.join("containerd"), 0o700, 0),
        (&state.join("launcher.sqlite"), 0o600, 0),
        (&instance.config(), 0o600, 0),
    ];
    for (path, mode, group) in expected {
        let metadata = fs::symlink_metadata(path)?;
        let found = (metadata.mode() & 0o7777, metadata.uid(), metadata.gid());
        ensure!(
            found == (mode, 0, group),
            "`{}` has {:o} {}:{}",
            path.display(),
            found.0,
            found.1,
            found.2
        );
    }
    // Nobody but root passes through to containerd.
    let socket = instance.containerd_socket();
    for user in [User::other(STRANGER), User::NOBODY] {
        let socket = socket.clone();
        let opened =
            instance.namespace.within(user, move || UnixStream::connect(socket).is_ok())?;
        ensure!(!opened, "somebody but root opens containerd's socket");
    }
    let socket = instance.containerd_socket();
    let opened =
        instance.namespace.within(User::ROOT, move || UnixStream::connect(socket).is_ok())?;
    ensure!(opened, "not even root opens containerd's socket: the test shows nothing");
    Ok(())
}
