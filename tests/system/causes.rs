//! Ends with their causes: how soon they are told, who brought them about, and
//! what a node that is drained does.

use std::{sync::Arc, time::Duration};

use adrastea_proto::v1::{
    self, ExitCause, Phase, Sandbox, StopSandboxRequest, WatchRequest, watch_event,
};
use adrastea_tests::{
    Instance, Options, Suite, User,
    client::{HUB, key, request},
};
use anyhow::{Context as _, ensure};
use tokio::time::{Instant, timeout};
use tonic::{Code, Streaming};

use crate::ask::{of_profile, refused};

const PATIENCE: Duration = Duration::from_secs(30);

async fn watch(instance: &Instance) -> anyhow::Result<Streaming<v1::WatchEvent>> {
    let request = WatchRequest { hub: HUB.into(), ..Default::default() };
    Ok(instance.launcher().await?.watch(request).await?.into_inner())
}

/// The next news of this sandbox that `wanted` takes.
async fn news(
    events: &mut Streaming<v1::WatchEvent>,
    id: &str,
    wanted: impl Fn(&Sandbox) -> bool,
) -> anyhow::Result<Sandbox> {
    let reading = async {
        while let Some(event) = events.message().await? {
            if let Some(watch_event::Event::Sandbox(sandbox)) = event.event
                && sandbox.sandbox_id == id
                && wanted(&sandbox)
            {
                return Ok(sandbox);
            }
        }
        anyhow::bail!("the watch ended")
    };
    timeout(PATIENCE, reading).await.context("no news")?
}

pub fn add(suite: &mut Suite) {
    suite.shared("causes::an_end_is_told_before_teardown", |instance| async move {
        let mut events = watch(&instance).await?;
        let ready = instance.start("prompt").await?;
        let (asking, address) = (Arc::clone(&instance), ready.address().to_owned());
        let since = Instant::now();
        tokio::task::spawn_blocking(move || asking.http(&address, "/exit/4").ok());
        let told = news(&mut events, ready.id(), |sandbox| sandbox.exit.is_some()).await?;
        let cause = since.elapsed();
        ensure!(told.phase() == Phase::Stopping, "{told:?}");
        ensure!(told.exit.as_ref().is_some_and(|exit| exit.code == 4), "{told:?}");
        let gone = news(&mut events, ready.id(), |sandbox| sandbox.phase() == Phase::Gone).await?;
        // From the request that ends the server, so with its own end in it.
        println!("an exit was told after {cause:?}, nothing was left after {:?}", since.elapsed());
        ensure!(gone.exit.is_some_and(|exit| exit.log_tail.contains("answering")));
        Ok(())
    });

    suite.shared("causes::the_administrators_reason_is_told", |instance| async move {
        instance.start("loud").await?;
        let stop = ["stop", "--user", "loud", "--hub", HUB, "--reason"];
        let bad = instance.cli(&[&stop[..], &["two\nlines"]].concat())?;
        ensure!(bad.code != 0 && bad.stderr.contains("one line"), "{bad:?}");
        instance.answers("loud").await?;
        let stopped = instance.cli(&[&stop[..], &["too loud"]].concat())?;
        ensure!(stopped.code == 0 && stopped.stdout == "stopped\n", "{stopped:?}");
        let exit = instance.exit("loud", PATIENCE).await?;
        ensure!(exit.cause() == ExitCause::KilledByAdministrator, "{exit:?}");
        ensure!(exit.message.ends_with("administrator of this node: too loud"), "{exit:?}");
        let again = instance.cli(&[&stop[..], &["again"]].concat())?;
        ensure!(again.stdout == "there was nothing to stop\n", "{again:?}");

        let hubs = instance.channel_as(User::NOBODY).await?;
        let mut admin = v1::admin_client::AdminClient::new(hubs);
        let request =
            StopSandboxRequest { key: Some(key("loud", "")), ..StopSandboxRequest::default() };
        let answer = admin.stop_sandbox(request).await.map_err(Into::into);
        refused(answer, Code::PermissionDenied, "root")?;
        let answer = admin.drain(v1::DrainRequest::default()).await.map_err(Into::into);
        refused(answer, Code::PermissionDenied, "root")?;
        let answer = admin.undrain(v1::UndrainRequest {}).await.map_err(Into::into);
        refused(answer, Code::PermissionDenied, "root")
    });

    suite.shared("causes::too_many_processes_are_told", |instance| async move {
        let ready = instance.start_with(of_profile("crowd", "", "tiny")).await?;
        let made: u32 = instance.http(ready.address(), "/threads/500")?.1.parse()?;
        ensure!(made < 32, "{made} threads with a limit of 32");
        instance.http(ready.address(), "/exit/1").ok();
        let exit = instance.exit("crowd", PATIENCE).await?;
        ensure!(exit.cause() == ExitCause::TooManyProcesses, "{exit:?}");
        ensure!(exit.message.contains("limit is 32 processes"), "{exit:?}");
        Ok(())
    });

    suite.own("causes::a_drained_node_is_emptied", Options::default(), |instance| async move {
        let ready = instance.start("ana").await?;
        let drained = instance.cli(&["drain"])?;
        ensure!(drained.stdout.contains("stopped 0, still running 1"), "{drained:?}");
        let answer = instance.try_start(request("ben")).await;
        refused(answer, Code::ResourceExhausted, "being drained")?;
        let answer = instance.try_start(request("ana")).await;
        refused(answer, Code::ResourceExhausted, "being drained")?;
        ensure!(instance.get("ana").await?.sandbox_id == ready.id());
        instance.answers("ana").await?;
        let drained = instance.cli(&["drain", "--stop"])?;
        ensure!(drained.stdout.contains("stopped 1, still running 0"), "{drained:?}");
        let exit = instance.exit("ana", PATIENCE).await?;
        ensure!(exit.cause() == ExitCause::Drained, "{exit:?}");
        instance.nothing_left(Duration::from_secs(5))?;
        ensure!(instance.cli(&["undrain"])?.code == 0);
        instance.start("ben").await.map(|_| ())
    });
}
