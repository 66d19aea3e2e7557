//! What a node can lack: each a clear failure with a hint, and nothing left behind.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, time::Duration};

use adrastea_proto::v1::{FailureReason, StartRequest};
use adrastea_tests::{Instance, Options, Suite, client::request, config, place};
use anyhow::ensure;
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::signal::Signal,
};

use crate::ask::failed;

/// Starts the launcher anew with a changed configuration; a start must fail so.
async fn fails_with(
    instance: &Instance,
    text: &str,
    reason: FailureReason,
    naming: &str,
) -> anyhow::Result<()> {
    config::write(&instance.config(), text)?;
    instance.restart_launcher(Signal::SIGTERM).await?;
    let failure = instance.start_failing(request("ana")).await?;
    failed(&failure, reason, naming)?;
    instance.nothing_left(Duration::from_secs(5))
}

/// The same containerd, when it runs by itself: it is asked what it is.
async fn existing_containerd(
    instance: &Instance,
    text: &str,
    names: &[String],
) -> anyhow::Result<()> {
    // A launcher that is killed leaves its containerd running.
    instance.end_launcher(Signal::SIGKILL)?;
    let socket = instance.containerd_socket().display().to_string();
    let existing = |accepted: &[String]| {
        let section = format!(
            "[containerd]\nmode = \"existing\"\nsocket = \"{socket}\"\naccept_vulnerable = [{}]",
            accepted.join(", ")
        );
        config::write(&instance.config(), &text.replace("[containerd]", &section))
    };
    for accepted in [&[][..], &names[..2]] {
        existing(accepted)?;
        let missing = names[accepted.len()].trim_matches('"');
        ensure!(instance.serve(None).await.is_err(), "used, though {missing} is not accepted");
        let log = instance.launcher_log();
        ensure!(log.contains("has known ways out: ") && log.contains(missing), "{log}");
        let doctor = instance.cli(&["doctor"])?;
        let line = doctor.stdout.lines().find(|line| {
            line.contains("has known ways out") && line.contains("existing containerd")
        });
        let line = line.unwrap_or_default();
        ensure!(line.starts_with("PROBLEM") && line.contains(missing), "{}", doctor.stdout);
    }
    existing(names)?;
    instance.serve(None).await?;
    let doctor = instance.cli(&["doctor"])?;
    let noted = |name: &String| {
        let name = name.trim_matches('"');
        doctor.stdout.lines().any(|line| line.starts_with("note") && line.contains(name))
    };
    ensure!(names.iter().all(noted), "{}", doctor.stdout);
    // In order it would clear away its run directory, where the socket of this one lies.
    instance.end_launcher(Signal::SIGKILL).map(drop)
}

pub fn add(suite: &mut Suite) {
    suite.shared("missing::an_image_that_is_not_here", |instance| async move {
        let request = StartRequest { image: "absent".into(), ..request("no-image") };
        failed(
            &instance.start_failing(request).await?,
            FailureReason::ImageMissing,
            "localhost/adrastea/absent:1",
        )
    });

    suite.shared("missing::an_image_that_is_not_the_pinned_one", |instance| async move {
        let request = StartRequest { image: "changed".into(), ..request("no-image") };
        failed(
            &instance.start_failing(request).await?,
            FailureReason::ImageMissing,
            &"0".repeat(64),
        )
    });

    suite.own("missing::a_runtime", Options::default(), |instance| async move {
        let text = instance.config_text().replace("bin/runc\"", "bin/no-such-runc\"");
        fails_with(&instance, &text, FailureReason::RuntimeMissing, "no-such-runc").await?;
        // A runtime of known holes is refused just as one that is not there.
        let old = instance.scratch().join("old-runc");
        fs::write(&old, "#!/bin/sh\necho 'runc version 1.1.5'\n")?;
        fs::set_permissions(&old, fs::Permissions::from_mode(0o755))?;
        let runc = place::tools().join("bin/runc").display().to_string();
        let text = instance.config_text().replace(&runc, &old.display().to_string());
        fails_with(&instance, &text, FailureReason::RuntimeMissing, "1.1.5").await
    });

    suite.own(
        "missing::a_containerd_without_known_holes",
        Options::default(),
        |instance| async move {
            // A real one with real holes: Debian's of the oldest series that is supported.
            let new = place::tools().join("bin/containerd").display().to_string();
            let old = place::tools().join("containerd-1.7/bin/containerd");
            ensure!(old.exists(), "`{}` is missing; run `tools/get`", old.display());
            let text = instance.config_text().replace(&new, &old.display().to_string());
            config::write(&instance.config(), &text)?;
            ensure!(instance.restart_launcher(Signal::SIGTERM).await.is_err(), "it was started");
            let log = instance.launcher_log();
            ensure!(log.contains("has known ways out: CVE-2024-40635"), "{log}");
            let names = "CVE-2024-40635 CVE-2024-25621 CVE-2026-53488";
            let quoted: Vec<_> = names.split(' ').map(|name| format!("\"{name}\"")).collect();
            let accepting = |names: &[String]| {
                let list = format!("[containerd]\naccept_vulnerable = [{}]", names.join(", "));
                config::write(&instance.config(), &text.replace("[containerd]", &list))
            };
            accepting(&quoted[..2])?;
            ensure!(instance.serve(None).await.is_err(), "two of three names were enough");
            accepting(&quoted)?;
            instance.serve(None).await?;
            let log = instance.launcher_log();
            ensure!(log.contains("using a containerd with a known hole"), "{log}");
            ensure!(log.contains("containerd answers version=\"1.7."), "{log}");
            existing_containerd(&instance, &text, &quoted).await?;
            accepting(&quoted)?;
            instance.serve(None).await?;
            instance.end_launcher(Signal::SIGTERM).map(drop)
        },
    );

    suite.own("missing::a_home_root_or_a_safe_one", Options::default(), |instance| async move {
        let root = instance.scratch().join("homes");
        let text = format!("{}[home]\nroot = \"{}\"\n", instance.config_text(), root.display());
        fails_with(&instance, &text, FailureReason::Home, "homes").await?;
        fs::create_dir(&root)?;
        for (mode, owner) in [(0o777, 0), (0o770, 0), (0o711, 65534)] {
            fs::set_permissions(&root, fs::Permissions::from_mode(mode))?;
            std::os::unix::fs::chown(&root, Some(owner), None)?;
            fails_with(&instance, &text, FailureReason::Home, "belong to root").await?;
        }
        fs::remove_dir(&root)?;
        fs::write(&root, "")?;
        fails_with(&instance, &text, FailureReason::Home, "no directory").await?;
        fs::remove_file(&root)?;
        fs::create_dir(&root)?;
        mount(Some("tmpfs"), &root, Some("tmpfs"), MsFlags::MS_RDONLY, None::<&str>)?;
        let read_only = fails_with(&instance, &text, FailureReason::Home, "homes").await;
        umount2(&root, MntFlags::empty())?;
        read_only?;
        // And with a good one it works again.
        fs::set_permissions(&root, fs::Permissions::from_mode(0o711))?;
        instance.start("ana").await?;
        ensure!(root.read_dir()?.count() == 1);
        instance.answers("ana").await
    });

    suite.own(
        "missing::an_answer_in_time",
        Options::default().replacing("ready_timeout = 30", "ready_timeout = 2"),
        |instance| async move {
            let failure =
                instance.start_failing(crate::ask::with_arguments("slow", &["never"])).await?;
            failed(&failure, FailureReason::Timeout, "within 2 s")?;
            ensure!(failure.log_tail.contains("never listening"), "{failure:?}");
            instance.nothing_left(Duration::from_secs(5))
        },
    );

    suite.own("missing::an_init", Options::default(), |instance| async move {
        let init = adrastea_tests::place::init().display().to_string();
        let text = instance.config_text().replace(&init, "/absent/adrastea-init");
        config::write(&instance.config(), &text)?;
        instance.end_launcher(Signal::SIGTERM)?;
        // Refused at once, or at the first start: but never silently.
        if let Err(error) = instance.serve(None).await {
            ensure!(format!("{error:#}").contains("adrastea-init"), "{error:#}");
            return Ok(());
        }
        let failure = instance.start_failing(request("ana")).await?;
        failed(&failure, FailureReason::Internal, "/absent/adrastea-init")?;
        instance.nothing_left(Duration::from_secs(5))?;
        ensure!(!Path::new("/absent").exists());
        Ok(())
    });
}
