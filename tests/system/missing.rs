//! What a node can lack: each a clear failure with a hint, and nothing left behind.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, time::Duration};

use adrastea_proto::v1::{FailureReason, StartRequest};
use adrastea_tests::{Instance, Options, Suite, client::request, config};
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
        let runc = adrastea_tests::place::tools().join("bin/runc").display().to_string();
        let text = instance.config_text().replace(&runc, &old.display().to_string());
        fails_with(&instance, &text, FailureReason::RuntimeMissing, "1.1.5").await
    });

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
