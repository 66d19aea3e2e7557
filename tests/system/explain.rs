//! Explain and inspect with real walls: what is told before is what stands after.

use adrastea_tests::{Suite, client::HUB};
use anyhow::{Context as _, ensure};

pub fn add(suite: &mut Suite) {
    suite.shared("explain::is_what_inspect_finds_with_every_wall", |instance| async move {
        let explain = || instance.cli(&["explain", "--user", "looked-at", "--hub", HUB, "--json"]);
        let before: serde_json::Value = serde_json::from_str(&explain()?.stdout)?;
        ensure!(before["obstacles"].as_array().is_some_and(Vec::is_empty), "{before:#}");
        let ready = instance.start("looked-at").await?;
        let inspected = instance.cli(&["inspect", ready.id(), "--json"])?;
        ensure!(inspected.code == 0, "{inspected:?}");
        let after: serde_json::Value = serde_json::from_str(&inspected.stdout)?;
        for part in ["mounts", "linux/seccomp", "process/capabilities", "process/noNewPrivileges"] {
            let path = format!("/oci_spec/{part}");
            // The sandbox's name alone may stand in it.
            let text = |found: &serde_json::Value, id: &str| {
                found.pointer(&path).map(|part| part.to_string().replace(id, "ID"))
            };
            let example = before["plan"]["id"].as_str().context("explain names no id")?;
            ensure!(text(&before, example) == text(&after, ready.id()), "{part} differs");
            ensure!(before.pointer(&path).is_some(), "there is no {part}");
        }
        ensure!(before["plan"]["limits"] == after["plan"]["limits"], "{after:#}");
        ensure!(after["counters"]["memory_used_bytes"].as_u64().is_some_and(|used| used > 0));
        let words = instance.cli(&["inspect", "--user", "looked-at", "--hub", HUB])?;
        ensure!(words.code == 0 && words.stdout.contains("every wall stands"), "{words:?}");
        // What it looks at is the host: a link that is gone is a wall that does not stand.
        let link = format!("v{}", ready.id());
        let router = format!("--net=/run/netns/{}", instance.name);
        let set = |state: &str| {
            std::process::Command::new("nsenter")
                .args([&router, "ip", "link", "set", &link, state])
                .status()
        };
        ensure!(set("down")?.success());
        let broken = instance.cli(&["inspect", ready.id()])?;
        ensure!(set("up")?.success());
        ensure!(broken.code != 0 && !broken.stderr.is_empty(), "{broken:?}");
        instance.stop("looked-at", "").await.map(|_| ())
    });

    suite.shared("doctor::says_the_fix_and_fails_for_a_problem", |instance| async move {
        let doctor = |config: &std::path::Path| {
            let output = instance
                .namespace
                .command(adrastea_tests::place::launcher())
                .arg("--config")
                .arg(config)
                .args(["doctor", "--json"])
                .output()?;
            let found: serde_json::Value = serde_json::from_slice(&output.stdout)?;
            anyhow::Ok((output.status.code(), found))
        };
        let (code, found) = doctor(&instance.config())?;
        ensure!(code == Some(0), "{found:#}");
        let findings = found["findings"].as_array().cloned().unwrap_or_default();
        // The node's kernel may have none at all.
        let large = std::path::Path::new("/sys/kernel/mm/transparent_hugepage/shmem_enabled");
        let topics = [
            "kernel",
            "nftables",
            "clock",
            "runtime runc",
            "containerd",
            "disk of homes",
            "idmapped",
        ];
        for topic in topics.into_iter().chain(large.exists().then_some("large pages")) {
            let told = |finding: &&serde_json::Value| {
                finding["what"].as_str().is_some_and(|what| what.contains(topic))
            };
            ensure!(findings.iter().any(|finding| told(&finding)), "nothing of {topic}: {found:#}");
        }
        for finding in &findings {
            let fixed = finding["fix"].as_str().is_some_and(|fix| !fix.is_empty());
            ensure!(fixed != (finding["severity"] == "ok"), "{finding}");
        }
        let broken = instance.scratch().join("broken.toml");
        let text = instance.config_text().replace("/runc\"", "/no-runc\"");
        adrastea_tests::config::write(&broken, &text)?;
        let (code, found) = doctor(&broken)?;
        ensure!(code == Some(1) && found["worst"] == "problem", "{found:#}");
        Ok(())
    });
}
