//! Who may call, and which configuration is believed.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
    process::Command,
    time::{Duration, Instant},
};

use adrastea_proto::v1::{
    GetRequest, ListImagesRequest, ListRequest, RunRequest, StopAllRequest,
    admin_client::AdminClient, launcher_client::LauncherClient,
};
use adrastea_tests::{
    Suite, User,
    client::{HUB, key, request},
    config, place,
};
use anyhow::{Context as _, ensure};
use serde_json::Value;
use tonic::{Code, Status};

fn denied<T>(result: Result<T, Status>) -> anyhow::Result<()> {
    match result {
        Err(status) if status.code() == Code::PermissionDenied => Ok(()),
        Err(status) => Err(status).context("another refusal was expected"),
        Ok(_) => anyhow::bail!("it was allowed"),
    }
}

pub fn add(suite: &mut Suite) {
    suite.shared("access::only_the_sockets_group_can_open_it", |instance| async move {
        let socket = fs::metadata(instance.socket())?;
        ensure!(
            (socket.uid(), socket.gid(), socket.mode() & 0o777) == (0, 65534, 0o660),
            "{socket:?}"
        );
        let directory = fs::metadata(instance.run_directory().join("api"))?;
        ensure!(
            (directory.uid(), directory.gid(), directory.mode() & 0o777) == (0, 65534, 0o750),
            "{directory:?}"
        );
        let error =
            instance.channel_as(User::other(4321)).await.err().context("another user connected")?;
        let kind = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
        ensure!(kind == Some(std::io::ErrorKind::PermissionDenied), "{error:?}");
        Ok(())
    });

    suite.shared("access::the_group_alone_opens_nothing", |instance| async move {
        let outsider = User { uid: 4321, gid: 4321, groups: vec![65534] };
        let channel = instance.channel_as(outsider).await?;
        let mut launcher = LauncherClient::new(channel.clone());
        denied(launcher.list(ListRequest { hub: HUB.into() }).await)?;
        denied(launcher.get(GetRequest { key: Some(key("ana", "")) }).await)?;
        denied(launcher.start(request("intruder")).await)?;
        denied(AdminClient::new(channel).list_images(ListImagesRequest {}).await)?;
        written_down(&instance.state().join("audit/audit.jsonl")).await
    });

    suite.shared("access::the_hub_may_call_but_not_administer", |instance| async move {
        let channel = instance.channel_as(User::NOBODY).await?;
        let mut launcher = LauncherClient::new(channel.clone());
        launcher.list(ListRequest { hub: HUB.into() }).await?;
        denied(launcher.list(ListRequest { hub: String::new() }).await)?;
        let mut admin = AdminClient::new(channel);
        denied(admin.list_images(ListImagesRequest {}).await)?;
        denied(admin.stop_all(StopAllRequest::default()).await)?;
        let run =
            RunRequest { start: Some(request("intruder")), command: vec!["/bin/answer".into()] };
        denied(admin.run(run).await)
    });

    suite.shared("access::secrets_and_state_belong_to_root", |instance| async move {
        for (path, mode) in [
            (instance.state().join("launcher.sqlite"), 0o600),
            (instance.state().join("logs"), 0o700),
            (instance.state().join("homes"), 0o711),
            (instance.run_directory(), 0o711),
            (instance.run_directory().join("containerd"), 0o700),
        ] {
            let found = fs::metadata(&path)?;
            ensure!(
                (found.uid(), found.mode() & 0o777) == (0, mode),
                "`{}`: {:o}",
                path.display(),
                found.mode()
            );
        }
        Ok(())
    });

    suite.plain("access::a_configuration_that_is_not_safe_or_not_understood_is_refused", || {
        ensure!(nix::unistd::geteuid().is_root(), "this test needs root");
        let directory = place::scratch().join(format!("configurations-{}", std::process::id()));
        fs::create_dir_all(&directory)?;
        let outcome = refuses_configurations(&directory);
        fs::remove_dir_all(&directory)?;
        outcome
    });
}

/// Each call of the outsider is one line, with who it was and by which rule it was denied.
async fn written_down(log: &std::path::Path) -> anyhow::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let text = fs::read_to_string(log)?;
        let lines: Vec<Value> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
        let of_outsider: Vec<_> = lines.iter().filter(|line| line["uid"] == 4321).collect();
        if of_outsider.len() >= 4 || Instant::now() > deadline {
            let calls: Vec<_> =
                of_outsider.iter().filter_map(|line| line["rpc"].as_str()).collect();
            ensure!(
                calls == ["Launcher.List", "Launcher.Get", "Launcher.Start", "Admin.ListImages"],
                "{of_outsider:#?}"
            );
            ensure!(
                of_outsider.iter().all(|line| line["decision"] == "denied"
                    && line["code"] == "PermissionDenied"
                    && line["rule"] == "access.hub_users"),
                "{of_outsider:#?}"
            );
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn refuses_configurations(directory: &std::path::Path) -> anyhow::Result<()> {
    // An instance that is never started: every one of these must be refused first.
    let digest = format!("sha256:{}", "0".repeat(64));
    let good = config::text("at-never", 0, &digest, &adrastea_tests::Options::default());
    let path = directory.join("adrastea.toml");
    let serve = |path: &std::path::Path| -> anyhow::Result<String> {
        let output =
            Command::new(place::launcher()).arg("--config").arg(path).arg("serve").output()?;
        ensure!(!output.status.success(), "the launcher started with `{}`", path.display());
        Ok(String::from_utf8_lossy(&output.stderr).into_owned())
    };
    for (old, new, says) in [
        ("hub_users", "hub_user", "did you mean `hub_users`?"),
        ("memory_ceiling", "memory_cieling", "did you mean `memory_ceiling`?"),
        ("[access]", "[acces]", "did you mean `access`?"),
        ("version = 1", "version = 2", "version is 2"),
        ("egress = \"hub\"", "egress = \"all\"", "egress `all`"),
        ("uid = 1000", "uid = 0", "never runs as root"),
        ("[runtimes.runc]", "[runtimes.runk]", "runtimes.runk"),
    ] {
        ensure!(good.contains(old), "`{old}` is not in the configuration");
        config::write(&path, &good.replace(old, new))?;
        let said = serve(&path)?;
        ensure!(said.contains(says), "`{new}`: `{says}` was expected in:\n{said}");
    }
    config::write(&path, &good)?;
    for mode in [0o660, 0o606] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
        let said = serve(&path)?;
        ensure!(said.contains("is not safe") && said.contains("hint:"), "{mode:o}:\n{said}");
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
    std::os::unix::fs::chown(&path, Some(65534), None)?;
    ensure!(serve(&path)?.contains("does not belong to root"));
    let link = directory.join("link.toml");
    symlink(&path, &link)?;
    ensure!(serve(&link)?.contains("not a regular file"));
    ensure!(serve(&directory.join("absent.toml"))?.contains("hint:"));
    ensure!(
        !std::path::Path::new("/run/at-never").exists()
            && !std::path::Path::new("/var/lib/at-never").exists()
    );
    Ok(())
}
