//! The ledger of ids when it is lost: homes outlive it, and so do their numbers.

use std::{fs, time::Duration};

use adrastea_proto::v1::FailureReason;
use adrastea_tests::{Options, Suite, client::request};
use anyhow::ensure;
use nix::sys::signal::Signal;

use crate::ask::failed;

pub fn add(suite: &mut Suite) {
    suite.own(
        "ledger::a_lost_one_gives_no_id_of_a_home",
        Options::default(),
        |instance| async move {
            instance.start("ana").await?;
            let first = instance.get("ana").await?.disk_uid;
            instance.stop("ana", "").await?;
            instance.end_launcher(Signal::SIGTERM)?;
            for name in ["launcher.sqlite", "launcher.sqlite-wal", "launcher.sqlite-shm"] {
                if let Err(error) = fs::remove_file(instance.state().join(name)) {
                    ensure!(error.kind() == std::io::ErrorKind::NotFound, "{name}: {error}");
                }
            }
            instance.serve(None).await?;
            instance.start("ben").await?;
            let second = instance.get("ben").await?.disk_uid;
            ensure!(second > first, "ben was given {second}; ana's home has {first}");
            // Her own home is never handed to another number, not even to her own new one.
            let failure = instance.start_failing(request("ana")).await?;
            failed(&failure, FailureReason::Home, &first.to_string())?;
            instance.stop("ben", "").await?;
            instance.nothing_left(Duration::from_secs(5))
        },
    );
}
