//! The egress profile `hub`: the hub's port on the gateway, and nothing else.

use std::{
    net::TcpListener,
    time::{Duration, Instant},
};

use adrastea_tests::{Instance, Options, Suite, User};
use anyhow::{anyhow, ensure};

/// An address that no registry sets apart.
pub const PUBLIC: &str = "44.44.44.44";

/// Listens in the host's place, like the hub and everything else of a node.
pub fn listen(instance: &Instance, address: &str) -> anyhow::Result<TcpListener> {
    let address = address.to_owned();
    Ok(instance.namespace.within(User::ROOT, move || TcpListener::bind(address))??)
}

/// Checks every wall of the profile `hub` around two servers that live.
pub async fn walls_stand(instance: &Instance, first: &str, second: &str) -> anyhow::Result<()> {
    let (first, second) = (instance.get(first).await?.address, instance.get(second).await?.address);
    let gateway = instance.gateway();
    let connect = |address: &str, port: u16| {
        instance.http(&first, &format!("/connect/{address}/{port}")).map(|answer| answer.1)
    };
    let hub = connect(&gateway, 8081)?;
    ensure!(hub == "open", "the hub cannot be reached: {hub}");
    for (address, port) in [
        (gateway.as_str(), 22),
        (gateway.as_str(), 8001),
        (second.as_str(), 8888),
        (second.as_str(), 8081),
        (PUBLIC, 80),
        ("203.0.113.2", 9000),
        ("10.99.0.1", 80),
        ("169.254.169.254", 80),
    ] {
        let found = connect(address, port)?;
        ensure!(
            found != "open" && !found.starts_with("error 111"),
            "a sandbox reached {address}:{port}: {found}"
        );
    }
    ensure!(instance.http(&second, "/")?.0 == 200, "the hub cannot reach the server");
    let intruder = instance.http_as(User::other(4321), &second, "/");
    ensure!(intruder.is_err(), "any user of the host reaches the server: {intruder:?}");
    Ok(())
}

/// What a node and the world offer; kept open as long as the listeners live.
pub fn temptations(instance: &Instance) -> anyhow::Result<Vec<TcpListener>> {
    let gateway = instance.gateway();
    let mut open = vec![listen(instance, "0.0.0.0:9000")?];
    for port in [8081, 8001, 22] {
        open.push(listen(instance, &format!("{gateway}:{port}"))?);
    }
    if let Some(world) = &instance.world {
        world.ip(&format!("address add {PUBLIC}/32 dev uplink"))?;
        // It even knows the way back: what stops a sandbox is the node alone.
        world.ip(&format!("route add {}.0.0/16 via 203.0.113.2", instance.subnet))?;
        for address in [&format!("{PUBLIC}:80"), "10.99.0.1:80", "169.254.169.254:80"] {
            let address = address.to_owned();
            open.push(world.within(User::ROOT, move || TcpListener::bind(address))??);
        }
    }
    Ok(open)
}

pub fn add(suite: &mut Suite) {
    suite.own(
        "network::hub_is_all_that_a_sandbox_reaches",
        Options::default().with_world(),
        |instance| async move {
            let _open = temptations(&instance)?;
            instance.start("ana").await?;
            instance.start("ben").await?;
            walls_stand(&instance, "ana", "ben").await?;
            // A flushed firewall of the host does not let sandboxes at each other or at the world.
            let (ana, ben) =
                (instance.get("ana").await?.address, instance.get("ben").await?.address);
            for (address, port) in [(ben.as_str(), 8888), (PUBLIC, 80)] {
                let found = flushed(&instance, &ana, &format!("/connect/{address}/{port}"))?;
                ensure!(found != "open", "a sandbox reached {address}:{port} after the flush");
            }
            // The launcher puts it back by itself.
            let deadline = Instant::now() + Duration::from_secs(10);
            while instance.http_as(User::other(4321), &ana, "/").is_ok() {
                ensure!(Instant::now() < deadline, "the firewall was not put back");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            walls_stand(&instance, "ana", "ben").await?;
            instance.restart_launcher(nix::sys::signal::Signal::SIGTERM).await?;
            walls_stand(&instance, "ana", "ben").await
        },
    );

    suite.own(
        "network::the_routers_rules_and_new_addresses_are_minded",
        Options::default(),
        |instance| async move {
            let _open = temptations(&instance)?;
            instance.start("ana").await?;
            instance.start("ben").await?;
            router(&instance, &["flush", "ruleset"])?;
            let deadline = Instant::now() + Duration::from_secs(10);
            while !router(&instance, &["list", "ruleset"])?.contains("hook forward") {
                ensure!(Instant::now() < deadline, "the router's rules were not put back");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            walls_stand(&instance, "ana", "ben").await?;

            instance.namespace.ip("address add 44.44.55.55/32 dev lo")?;
            let deadline = Instant::now() + Duration::from_secs(10);
            while !router(&instance, &["list", "ruleset"])?.contains("44.44.55.55") {
                ensure!(Instant::now() < deadline, "a new address of the node was not noticed");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            walls_stand(&instance, "ana", "ben").await
        },
    );
}

/// What a server answers while the host has no rules. The launcher puts them back meanwhile, and
/// a connection that began without them may not outlive that: then another one asks.
fn flushed(instance: &Instance, address: &str, path: &str) -> anyhow::Result<String> {
    let mut answer = Err(anyhow!("nothing was asked"));
    for _ in 0..5 {
        instance.namespace.output("nft", &["flush", "ruleset"])?;
        answer = instance.http_as(User::ROOT, address, path);
        if answer.is_ok() {
            break;
        }
    }
    Ok(answer?.1)
}

/// `nft` with these words in the router's namespace.
fn router(instance: &Instance, words: &[&str]) -> anyhow::Result<String> {
    let namespace = format!("--net=/run/netns/{}", instance.name);
    instance.namespace.output("nsenter", &[&[namespace.as_str(), "nft"], words].concat())
}
