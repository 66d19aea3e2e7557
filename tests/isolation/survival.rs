//! R2: servers and their walls outlive the launcher.

use std::{collections::BTreeMap, net::SocketAddr};

use adrastea_tests::{Instance, Suite, column};
use anyhow::ensure;
use nix::sys::signal::Signal;

use crate::{network, posture, tenant};

const SERVERS: usize = 6;

pub fn add(suite: &mut Suite) {
    suite.own(
        "r2_servers_and_walls_survive_a_killed_launcher",
        tenant::options(),
        async |instance| killed(&instance).await,
    );
}

async fn killed(instance: &Instance) -> anyhow::Result<()> {
    let users: Vec<_> = (0..SERVERS).map(|number| format!("r-{number}")).collect();
    let mut before = BTreeMap::new();
    for user in &users {
        let ready = tenant::start(instance, user, &["listen", "8888"], "holding").await?;
        let group = format!("/{}/{}", instance.name, ready.id());
        before.insert(
            user,
            (group.clone(), posture::lasting_processes_of(&group), ready.address().to_owned()),
        );
    }
    // From one server to the others; `n6` shows what this sees without walls.
    let first = network::namespace_of(instance, &users[0]).await?;
    let others: Vec<SocketAddr> = before
        .values()
        .map(|(_, _, address)| format!("{address}:8888").parse())
        .collect::<Result<_, _>>()?;
    let apart = || -> anyhow::Result<()> {
        // A kernel of its own takes the address out of the namespace: nothing can be sent from it.
        if column::runs_apart() {
            return Ok(());
        }
        let reached = network::reach(&first, &others[1..])?;
        ensure!(reached.is_empty(), "a server reaches its neighbours: {reached:?}");
        Ok(())
    };
    for _ in 0..2 {
        instance.end_launcher(Signal::SIGKILL)?;
        stand(instance, &before)?;
        apart()?;
        instance.serve(None).await?;
        stand(instance, &before)?;
        apart()?;
        ensure!(
            instance.live().await?.len() == SERVERS,
            "servers were lost: {:?}",
            instance.live().await?
        );
        for user in &users {
            let present = instance.get(user).await?;
            ensure!(before[user].0.ends_with(&present.sandbox_id), "`{user}` has another sandbox");
            ensure!(before[user].2 == present.address, "`{user}` has another address");
            // What a tenant's processes stand behind is inside of a machine: the proof looks there.
            if column::is_of_machines() {
                let looked = instance.cli(&["inspect", &present.sandbox_id])?;
                ensure!(looked.stdout.contains("every wall stands"), "`{user}`: {looked:?}");
            }
        }
        let new = tenant::start(instance, "r-new", &["listen", "8888"], "holding").await?;
        ensure!(
            before.values().all(|(_, _, address)| address != new.address()),
            "an address was given twice"
        );
        ensure!(instance.http(new.address(), "/")?.0 == 200, "the new server does not answer");
        instance.stop("r-new", "").await?;
    }
    for user in &users {
        ensure!(instance.stop(user, "").await?, "`{user}` could not be stopped");
        ensure!(posture::processes_of(&before[user].0).is_empty(), "`{user}` left processes");
    }
    Ok(())
}

/// The same processes, answering, with every wall around each of them.
fn stand(
    instance: &Instance,
    before: &BTreeMap<&String, (String, std::collections::BTreeSet<i32>, String)>,
) -> anyhow::Result<()> {
    for (user, (group, processes, address)) in before {
        let now = posture::lasting_processes_of(group);
        ensure!(
            !now.is_empty() && now == *processes,
            "`{user}` has other processes than before: {processes:?}, now {now:?}"
        );
        for pid in processes.iter().filter(|_| !column::is_of_machines()) {
            let faults = posture::faults(*pid, group)?;
            ensure!(faults.is_empty(), "`{user}`: process {pid} lacks {faults:?}");
        }
        ensure!(instance.http(address, "/")?.0 == 200, "`{user}` does not answer");
    }
    Ok(())
}
