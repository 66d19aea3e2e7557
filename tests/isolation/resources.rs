//! D: a tenant that takes all there is gets its share, and nobody else notices.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use adrastea_proto::v1::{Exit, ExitCause};
use adrastea_tests::{Instance, Namespace, Suite, column, image};
use anyhow::{Context as _, ensure};

use crate::{
    reference::{Reference, Wishes},
    tenant,
};

/// What the neighbour's start may take while a bomb goes off.
const NEIGHBOUR: Duration = Duration::from_secs(5);
const FLOOD_MEBIBYTES: &str = "200";
/// How much larger the launcher may be after a flood.
const GROWTH_KIBIBYTES: u64 = 24 << 10;

pub fn add(suite: &mut Suite) {
    suite.shared("d1_a_fork_bomb_stays_inside", async |instance| fork_bomb(&instance).await);
    suite.plain("d1_reference_a_fork_bomb_has_no_end", fork_bomb_reference);
    suite
        .shared("d2_a_memory_bomb_is_killed_inside", async |instance| memory_bomb(&instance).await);
    suite.shared("d2_a_full_tmp_is_killed_inside_or_refused", async |instance| {
        full_tmp(&instance).await
    });
    suite.shared("d2_files_without_content_end_at_the_number_of_inodes", async |instance| {
        full_of_files(&instance)
    });
    suite.plain("d2_reference_files_without_content_have_no_end", full_of_files_reference);
    suite.plain("d2_reference_a_memory_bomb_has_no_end", memory_bomb_reference);
    suite.own(
        "d5_a_flooded_log_costs_neither_disk_nor_memory",
        tenant::options(),
        async |instance| flood(&instance).await,
    );
    suite.plain("d5_reference_a_flood_fills_the_disk", flood_reference);
}

/// A neighbour can start and end meanwhile.
async fn neighbour_starts(instance: &Instance, user: &str) -> anyhow::Result<()> {
    let since = Instant::now();
    tenant::start(instance, user, &["hold"], "holding").await?;
    ensure!(since.elapsed() < NEIGHBOUR, "a neighbour's start took {:?}", since.elapsed());
    instance.stop(user, "").await?;
    Ok(())
}

/// How the end of a server that takes more memory than it may is told.
fn killed_for_memory(exit: &Exit) -> anyhow::Result<()> {
    // Of a machine the node sees the signal alone.
    let told = if column::is_of_machines() {
        exit.cause() == ExitCause::Signaled
    } else {
        exit.cause() == ExitCause::OutOfMemory && exit.message.contains("out of memory")
    };
    ensure!(told && exit.code == 137, "{exit:?}");
    Ok(())
}

/// The places in memory that have a size of their own; a machine's `/dev/shm` has none.
fn bounded() -> impl Iterator<Item = &'static str> {
    let places = ["/tmp", "/dev/shm"];
    places.into_iter().filter(|place| !column::is_of_machines() || *place == "/tmp")
}

async fn fork_bomb(instance: &Instance) -> anyhow::Result<()> {
    instance.start_with(tenant::wish("d-fork", &["fork-bomb", "300"])).await?;
    if column::has_own_kernel() {
        // That kernel counts no processes; the node's limits on its own hold, and neighbours go on.
        neighbour_starts(instance, "d-fork-neighbour").await?;
        // On a busy node it is at one of its limits, and so at its end, before the neighbour is up.
        if !instance.stop("d-fork", "").await? {
            let exit = instance.exit("d-fork", NEIGHBOUR).await?;
            let limits = [ExitCause::TooManyProcesses, ExitCause::OutOfMemory];
            ensure!(limits.contains(&exit.cause()), "{exit:?}");
        }
        return Ok(());
    }
    let said = tenant::says(instance, "d-fork", "forked").await?;
    neighbour_starts(instance, "d-fork-neighbour").await?;
    let count = said.lines().find_map(|line| {
        let (count, _) = line.strip_prefix("forked ")?.split_once(':')?;
        count.parse::<u64>().ok()
    });
    let count = count.with_context(|| said.clone())?;
    ensure!(count < tenant::PROCESSES && said.contains("temporarily unavailable"), "{said}");
    ensure!(count > tenant::PROCESSES / 2, "the limit is far below what was promised: {said}");
    instance.stop("d-fork", "").await?;
    Ok(())
}

fn fork_bomb_reference() -> anyhow::Result<()> {
    let said =
        Reference::output_of(&Namespace::new()?, &[image::TENANT, "fork-bomb", "300"], "forked")?;
    ensure!(said.contains("forked 300: no end"), "{said}");
    Ok(())
}

async fn memory_bomb(instance: &Instance) -> anyhow::Result<()> {
    let launcher = instance.pid();
    instance.start_with(tenant::wish("d-memory", &["memory-bomb", "2000"])).await?;
    neighbour_starts(instance, "d-memory-neighbour").await?;
    let exit = instance.exit("d-memory", Duration::from_secs(20)).await?;
    killed_for_memory(&exit)?;
    ensure!(
        launcher.is_some() && instance.pid() == launcher && instance.ended().is_none(),
        "the launcher was hit"
    );
    instance.containerd_pid()?;
    Ok(())
}

async fn full_tmp(instance: &Instance) -> anyhow::Result<()> {
    for path in bounded().map(|place| format!("{place}/file")) {
        let path = path.as_str();
        let said = tenant::run(instance, "d-tmp", &["fill", path, "64"])?;
        ensure!(said.contains("filled 16 MiB: No space left"), "{path}: {said}");
    }
    for path in ["/run/file", "/dev/file", "/file"] {
        let output = tenant::attempt(instance, "d-tmp", &["fill", path, "64"])?;
        ensure!(output.stdout.contains("failed"), "{path}: {output:?}");
    }
    // Where /tmp may hold more than the memory, the memory is the limit.
    let mut request = tenant::wish("d-heavy", &["fill", "/tmp/file", "200"]);
    request.profile = tenant::HEAVY.into();
    instance.start_with(request).await?;
    let exit = instance.exit("d-heavy", Duration::from_secs(30)).await?;
    killed_for_memory(&exit)?;
    neighbour_starts(instance, "d-heavy-neighbour").await
}

/// 16 MiB of `/tmp` and of `/dev/shm` are 4096 inodes, one of them the directory itself.
fn full_of_files(instance: &Instance) -> anyhow::Result<()> {
    for place in bounded() {
        let said = tenant::run(instance, "d-inodes", &["fill-inodes", place, "6000"])?;
        ensure!(said.contains("made 4095 files: No space left"), "{place}: {said}");
    }
    for place in ["/run", "/dev"] {
        let said = tenant::run(instance, "d-inodes", &["fill-inodes", place, "6000"])?;
        ensure!(said.contains("made 0 files: "), "{place}: {said}");
    }
    Ok(())
}

fn full_of_files_reference() -> anyhow::Result<()> {
    let command = [image::TENANT, "fill-inodes", "/tmp", "6000"];
    let said = Reference::output_of(&Namespace::new()?, &command, "made")?;
    ensure!(said.contains("made 6000 files: no end"), "{said}");
    Ok(())
}

fn memory_bomb_reference() -> anyhow::Result<()> {
    // More than a sandbox has, and little for a host.
    let said =
        Reference::output_of(&Namespace::new()?, &[image::TENANT, "memory-bomb", "200"], "held")?;
    ensure!(said.contains("held 200 MiB"), "{said}");
    Ok(())
}

/// Resident kibibytes of a process.
fn resident(pid: u32) -> anyhow::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

fn bytes_below(directory: &Path, found: &str) -> u64 {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(found))
        .filter_map(|entry| Some(entry.metadata().ok()?.len()))
        .sum()
}

async fn flood(instance: &Instance) -> anyhow::Result<()> {
    let pid = instance.pid().context("no launcher")?;
    neighbour_starts(instance, "d-flood-neighbour").await?;
    let before = resident(pid)?;
    let ready = instance.start_with(tenant::wish("d-flood", &["flood", FLOOD_MEBIBYTES])).await?;
    let logs = instance.state().join("logs");
    let deadline = Instant::now() + Duration::from_secs(120);
    let (mut most_memory, mut most_disk) = (0, 0);
    let exit = loop {
        most_memory = resident(pid)?.max(most_memory);
        most_disk = bytes_below(&logs, ready.id()).max(most_disk);
        if let Some(exit) = instance.get("d-flood").await?.exit {
            break exit;
        }
        ensure!(Instant::now() < deadline, "the flood does not end");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    ensure!(exit.cause() == ExitCause::Exited && exit.code == 0, "{exit:?}");
    ensure!(most_disk > 0 && most_disk <= tenant::LOG_BYTES, "{most_disk} bytes of log");
    ensure!(
        most_memory <= before + GROWTH_KIBIBYTES,
        "the launcher grew from {before} to {most_memory} KiB"
    );
    neighbour_starts(instance, "d-flood-neighbour").await
}

fn flood_reference() -> anyhow::Result<()> {
    let command = [image::TENANT, "flood", "20"];
    let mut reference = Reference::start(&Namespace::new()?, &command, &Wishes::default())?;
    reference.says("flooded")?;
    let kept = fs::metadata(reference.directory.join("output"))?.len();
    ensure!(kept >= 20 << 20, "only {kept} bytes were kept");
    Ok(())
}
