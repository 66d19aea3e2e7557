//! Ceilings of policy, and what a server meets that goes beyond its share.

use std::{fs, time::Duration};

use adrastea_proto::v1::{ExitCause, Limits, Phase, StartRequest};
use adrastea_tests::{Instance, Options, Suite, client::request, column};
use anyhow::{Context as _, ensure};
use tonic::Code;

use crate::ask::{of_profile, refused};

fn rss_kib(pid: u32) -> anyhow::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).context("no VmRSS")?;
    line.split_whitespace().nth(1).and_then(|text| text.parse().ok()).context("no number")
}

/// Bytes that are kept of a sandbox's output.
fn log_bytes(instance: &Instance, id: &str) -> anyhow::Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(instance.state().join("logs"))? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(id) {
            // The newer half becomes the older one while we look, and for a moment has no successor.
            sum += match entry.metadata() {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => 0,
                metadata => metadata?.len(),
            };
        }
    }
    Ok(sum)
}

pub fn add(suite: &mut Suite) {
    suite.shared("limits::what_is_beyond_policy_is_denied_by_rule", |instance| async move {
        let base = || request("greedy");
        let limits = |memory_bytes, cpu_millis| Some(Limits { memory_bytes, cpu_millis });
        let environment = |name: &str| [(name.to_owned(), "x".to_owned())].into();
        let cases = [
            (
                StartRequest { limits: limits(Some((128 << 20) + 1), None), ..base() },
                "profiles.standard.limits.memory_ceiling",
            ),
            (
                StartRequest { limits: limits(None, Some(2001)), ..base() },
                "profiles.standard.limits.cpu_ceiling",
            ),
            (StartRequest { runtime: "kata".into(), ..base() }, "profiles.standard.runtimes"),
            (StartRequest { image: "docker.io/evil".into(), ..base() }, "profiles.standard.images"),
            (StartRequest { profile: "unknown".into(), ..base() }, "profiles.*.users"),
            (StartRequest { profile: "tiny-private".into(), ..base() }, "profiles.*.users"),
            (
                StartRequest { environment: environment("LD_PRELOAD"), ..base() },
                "environment_allowed",
            ),
            (
                StartRequest { secret_environment: environment("PATH"), ..base() },
                "environment_allowed",
            ),
            (
                StartRequest { environment: environment("PYTHONPATH"), ..base() },
                "environment_allowed",
            ),
        ];
        for (request, rule) in cases {
            refused(instance.try_start(request).await, Code::PermissionDenied, rule)?;
        }
        refused(instance.get("greedy").await, Code::NotFound, "")
    });

    suite.shared("limits::what_is_asked_within_the_ceiling_is_given", |instance| async move {
        let limits = Some(Limits { memory_bytes: Some(100 << 20), cpu_millis: Some(500) });
        let ready = instance.start_with(StartRequest { limits, ..request("modest") }).await?;
        // Above the profile's default of 64 MiB.
        ensure!(instance.http(ready.address(), "/eat/75")?.1 == "eaten");
        instance.stop("modest", "").await.map(|_| ())
    });

    suite.shared(
        "limits::memory_beyond_the_limit_ends_the_server_and_names_the_limit",
        |instance| async move {
            let neighbour = instance.start("lean").await?;
            let ready = instance.start_with(of_profile("hungry", "", "tiny")).await?;
            instance.http(ready.address(), "/eat/100").ok();
            let exit = instance.exit("hungry", Duration::from_secs(20)).await?;
            ensure!(exit.cause() == ExitCause::OutOfMemory, "{exit:?}");
            ensure!(exit.message.contains("32.0 MiB"), "{exit:?}");
            ensure!(instance.http(neighbour.address(), "/")?.0 == 200);
            instance.stop("lean", "").await.map(|_| ())
        },
    );

    suite.shared(
        "limits::processes_end_at_the_limit_and_neighbours_go_on",
        |instance| async move {
            let neighbour = instance.start("quiet").await?;
            let ready = instance.start_with(of_profile("forks", "", "tiny")).await?;
            let made: u32 = instance.http(ready.address(), "/threads/500")?.1.parse()?;
            ensure!((10..32).contains(&made), "{made} threads with a limit of 32");
            ensure!(instance.http(ready.address(), "/")?.0 == 200, "the server no longer answers");
            ensure!(instance.http(neighbour.address(), "/threads/20")?.1 == "20");
            let other = instance.start("quiet-too").await?;
            ensure!(instance.http(other.address(), "/")?.0 == 200);
            for user in ["quiet", "quiet-too", "forks"] {
                instance.stop(user, "").await?;
            }
            Ok(())
        },
    );

    suite.shared("limits::a_user_has_so_many_servers_and_no_more", |instance| async move {
        for server in ["a", "b"] {
            instance.start_with(of_profile("many", server, "tiny")).await?;
        }
        let third = instance.try_start(of_profile("many", "c", "tiny")).await;
        refused(third, Code::PermissionDenied, "profiles.tiny.limits.servers_per_user")?;
        instance.stop("many", "a").await?;
        instance.start_with(of_profile("many", "c", "tiny")).await?;
        for server in ["b", "c"] {
            instance.stop("many", server).await?;
        }
        Ok(())
    });

    // Of its own, for what other tests ask of a shared launcher would be counted as this one's memory.
    suite.own(
        "limits::a_flood_of_output_costs_neither_disk_nor_memory",
        Options::default(),
        |instance| async move {
            // What the first start costs is no leak.
            instance.start_with(of_profile("flood", "", "tiny")).await?;
            instance.stop("flood", "").await?;
            let ready = instance.start_with(of_profile("flood", "", "tiny")).await?;
            let launcher = instance.pid().context("the launcher does not run")?;
            let before = rss_kib(launcher)?;
            // gVisor moves it far slower; a leak of half of it is seen there.
            let flood_of = if column::has_own_kernel() { "/flood/20" } else { "/flood/200" };
            let (address, flooder) = (ready.address().to_owned(), std::sync::Arc::clone(&instance));
            let flood = tokio::task::spawn_blocking(move || flooder.http(&address, flood_of));
            let (mut highest_log, mut highest_memory) = (0, before);
            while !flood.is_finished() {
                highest_log = highest_log.max(log_bytes(&instance, ready.id())?);
                highest_memory = highest_memory.max(rss_kib(launcher)?);
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            ensure!(flood.await??.1 == "flooded");
            ensure!(
                highest_log > 0 && highest_log <= 64 << 10,
                "the log took {highest_log} bytes; 64 KiB are allowed"
            );
            // Of 200 MiB: a leak of even a twentieth is seen.
            ensure!(
                highest_memory < before + (10 << 10),
                "the launcher grew from {before} to {highest_memory} KiB"
            );
            ensure!(instance.get("flood").await?.phase() == Phase::Ready);
            instance.stop("flood", "").await.map(|_| ())
        },
    );
}
