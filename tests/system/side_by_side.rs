//! Two instances on one host do not know of each other.

use std::time::Duration;

use adrastea_tests::{Instance, Options, Suite};
use anyhow::ensure;
use nix::sys::signal::Signal;

pub fn add(suite: &mut Suite) {
    suite.own(
        "side_by_side::two_instances_do_not_disturb_each_other",
        Options::default(),
        |first| async move {
            first.start("ana").await?;
            let options = Options { beside: Some(first.namespace.clone()), ..Options::default() };
            let second = Instance::new(&options).await?;
            let outcome = together(&first, &second).await;
            let log = second.launcher_log();
            let finished = second.finish().await;
            outcome.map_err(|error| {
                error.context(format!("the second launcher's log ends:\n{log}"))
            })?;
            finished?;
            // The first one still has everything.
            first.answers("ana").await?;
            first.start("late").await?;
            first.answers("late").await?;
            first.stop("ana", "").await?;
            first.stop("late", "").await?;
            // At its restart it noted the addresses the node had: the other gateway was one.
            let left = first.leaks(Duration::from_secs(1))?;
            let other = format!("{}.0.1 ", second.subnet);
            ensure!(left.iter().all(|line| line.contains(&other)), "{left:?}");
            Ok(())
        },
    );
}

async fn together(first: &Instance, second: &Instance) -> anyhow::Result<()> {
    second.start("ana").await?;
    let (here, there) = (first.get("ana").await?, second.get("ana").await?);
    ensure!(
        here.address != there.address
            && here.disk_uid != there.disk_uid
            && here.run_range_first != there.run_range_first
    );
    first.answers("ana").await?;
    second.answers("ana").await?;
    let across = first.http(&here.address, &format!("/connect/{}/8888", there.address))?.1;
    ensure!(across != "open", "a sandbox reached one of another instance");
    ensure!(first.live().await?.len() == 1 && second.live().await?.len() == 1);
    first.restart_launcher(Signal::SIGTERM).await?;
    second.answers("ana").await?;
    first.answers("ana").await?;
    ensure!(second.stop("ana", "").await?);
    first.answers("ana").await
}
