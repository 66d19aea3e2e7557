//! What only gVisor has: a kernel of its own beside the node's, and our program before it.
//! In every column, for the node's configuration offers it anyway.

use std::{fs, process::Command};

use adrastea_proto::v1::StartRequest;
use adrastea_tests::{Instance, Options, Suite, client::request};
use anyhow::{Context as _, ensure};

pub fn add(suite: &mut Suite) {
    suite.own("gvisor::stands_beside_runc_and_is_chosen", beside_runc(), |instance| async move {
        is_chosen(&instance).await
    });
    suite.shared("gvisor::never_starts_in_the_nodes_network", |instance| async move {
        refuses_the_node(&instance)
    });
}

/// An instance whose profiles offer both, runc first.
pub fn beside_runc() -> Options {
    Options::default()
        .replacing("runtimes = [\"runc\"]", "runtimes = [\"runc\", \"gvisor\"]")
        .replacing("runtimes = [\"gvisor\"]", "runtimes = [\"runc\", \"gvisor\"]")
}

pub fn under_gvisor(user: &str) -> StartRequest {
    StartRequest { runtime: "gvisor".into(), ..request(user) }
}

async fn is_chosen(instance: &Instance) -> anyhow::Result<()> {
    let shared =
        instance.start_with(StartRequest { runtime: "runc".into(), ..request("ana") }).await?;
    let own = instance.start_with(under_gvisor("ben")).await?;
    // Each tells of the kernel it runs on.
    let kernel = |address: &str| {
        instance.http(address, "/cat/proc/version").map(|(_, answer)| answer.trim().to_owned())
    };
    let node = fs::read_to_string("/proc/version")?;
    ensure!(kernel(shared.address())? == node.trim(), "runc has another kernel");
    ensure!(kernel(own.address())? != node.trim(), "gVisor has the node's kernel");
    for user in ["ana", "ben"] {
        let looked = instance.cli(&["inspect", instance.get(user).await?.sandbox_id.as_str()])?;
        ensure!(looked.stdout.contains("every wall stands"), "{user}: {looked:?}");
    }
    // The home is the same, under whichever runtime.
    ensure!(instance.http(own.address(), "/write/kept/home/jovyan/mark")?.1 == "written");
    instance.stop("ben", "").await?;
    let again =
        instance.start_with(StartRequest { runtime: "runc".into(), ..request("ben") }).await?;
    ensure!(instance.http(again.address(), "/cat/home/jovyan/mark")?.1 == "kept");
    for user in ["ana", "ben"] {
        instance.stop(user, "").await?;
    }
    Ok(())
}

/// The program before runsc, called as the engine's shim calls it.
fn refuses_the_node(instance: &Instance) -> anyhow::Result<()> {
    let program = instance.run_directory().join("wrappers/gvisor/adrastea-runtime");
    let bundle = instance.scratch().join("bundle");
    fs::create_dir_all(&bundle)?;
    let create = |network: Option<&str>| -> anyhow::Result<String> {
        let mut namespace = serde_json::json!({"type": "network"});
        if let Some(path) = network {
            namespace["path"] = path.into();
        }
        let spec = serde_json::json!({
            "ociVersion": "1.1.0", "process": {"args": ["true"], "cwd": "/", "user": {"uid": 0, "gid": 0}},
            "root": {"path": "rootfs"}, "linux": {"namespaces": [namespace]},
        });
        fs::write(bundle.join("config.json"), spec.to_string())?;
        let output = Command::new(&program)
            .args(["--root", "/nowhere", "create", "--bundle"])
            .arg(&bundle)
            .arg("sandbox")
            .output()
            .with_context(|| format!("failed to run `{}`", program.display()))?;
        ensure!(!output.status.success(), "it created a sandbox: {output:?}");
        Ok(String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let said = create(Some("/proc/self/ns/net"))?;
    ensure!(said.contains("the node's own network namespace"), "{said}");
    let said = create(None)?;
    ensure!(said.contains("names no network namespace"), "{said}");
    Ok(())
}
