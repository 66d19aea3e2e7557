//! The ledger of ids when it is lost, damaged, or of another version: nothing is
//! served from what cannot be trusted, servers run on, homes keep their owners.

use std::{fs, os::unix::fs::FileExt as _, path::PathBuf, time::Duration};

use adrastea_proto::v1::Phase;
use adrastea_tests::{Instance, Options, Output, Suite};
use anyhow::{Context as _, ensure};
use nix::sys::signal::Signal;

/// A ledger as an earlier launcher left it: today's turned back by SQL.
const BACK_TO_1: &str = "
    PRAGMA foreign_keys = OFF;
    ALTER TABLE disk_identities RENAME TO later;
    CREATE TABLE disk_identities (
        hub TEXT NOT NULL, user TEXT NOT NULL, id INTEGER NOT NULL UNIQUE, created_at INTEGER NOT NULL,
        PRIMARY KEY (hub, user)
    ) STRICT;
    INSERT INTO disk_identities SELECT hub, user, id, created_at FROM later;
    DROP TABLE later;
    DROP TABLE retired_homes;
    PRAGMA user_version = 1;";

pub fn add(suite: &mut Suite) {
    for (name, signal) in [("in_order", Signal::SIGTERM), ("by_sigkill", Signal::SIGKILL)] {
        suite.own(
            &format!("ledger::an_older_one_is_taken_over_with_running_servers_{name}"),
            Options::default(),
            move |instance| async move { upgrade(&instance, signal).await },
        );
    }

    suite.own(
        "ledger::a_newer_one_is_refused_in_words",
        Options::default(),
        |instance| async move {
            instance.start("ana").await?;
            instance.end_launcher(Signal::SIGTERM)?;
            let today = sql(&instance, "SELECT user_version FROM pragma_user_version")?;
            sql(&instance, "PRAGMA user_version = 99")?;
            refuses(&instance, "newer launcher", "newer launcher").await?;
            let repair = instance.cli(&["repair", "--yes"])?;
            ensure!(repair.code != 0 && repair.stderr.contains("newer launcher"), "{repair:?}");
            sql(&instance, &format!("PRAGMA user_version = {today}"))?;
            goes_on(&instance, "ana").await
        },
    );

    suite.own(
        "ledger::a_lost_one_is_rebuilt_from_the_homes",
        Options::default(),
        |instance| async move {
            let first = settle(&instance, "ana").await?;
            instance.stop("ana", "").await?;
            instance.end_launcher(Signal::SIGTERM)?;
            for file in ledger_files(&instance) {
                fs::remove_file(file).or_else(absent)?;
            }
            refuses(&instance, "homes are in", "adrastea repair").await?;
            let dry = instance.cli(&["repair", "--dry-run"])?;
            ensure!(
                dry.code == 1 && dry.stdout.contains(&format!("belongs to {first}")),
                "{dry:?}"
            );
            ensure!(!ledger(&instance).exists(), "--dry-run changed something");
            let undecided = instance.cli(&["repair"])?;
            ensure!(undecided.code == 1 && undecided.stdout.contains("--yes"), "{undecided:?}");
            ensure!(!ledger(&instance).exists(), "it did not wait for a yes");
            mend(&instance)?;
            instance.serve(None).await?;
            let running = instance.cli(&["repair", "--dry-run"])?;
            ensure!(
                running.code == 1 && running.stderr.contains("another launcher"),
                "{running:?}"
            );
            // Whoever is new gets a number that nobody had; she gets her own, and her home.
            instance.start("ben").await?;
            let second = instance.get("ben").await?.disk_uid;
            ensure!(second > first, "ben was given {second}; ana's home has {first}");
            comes_back(&instance, "ana", first).await?;
            instance.stop("ana", "").await?;
            instance.stop("ben", "").await?;
            instance.nothing_left(Duration::from_secs(5))
        },
    );

    suite.own(
        "ledger::damage_is_told_and_mended_and_servers_run_on",
        Options::default(),
        |instance| async move {
            let mut broken = Vec::new();
            for (way, keeps_rows) in WAYS {
                if let Err(error) = damage_and_mend(&instance, way, *keeps_rows).await {
                    broken.push(format!("{way}: {error:#}"));
                    break;
                }
            }
            ensure!(broken.is_empty(), "{}", broken.join("\n"));
            Ok(())
        },
    );

    suite.own(
        "ledger::two_launchers_of_one_instance_are_refused",
        Options::default(),
        |instance| async move {
            instance.start("ana").await?;
            let second = instance.cli(&["serve"])?;
            ensure!(second.code != 0 && second.stderr.contains("another launcher"), "{second:?}");
            instance.answers("ana").await?;
            instance.start("ben").await.map(|_| ())
        },
    );
}

/// Ways to damage the ledger, and whether the rows of running servers can be saved.
const WAYS: &[(&str, bool)] = &[
    ("truncated", false),
    ("garbage", false),
    ("empty", false),
    ("a page", false),
    ("a step", true),
    ("facts", false),
];

fn damage(instance: &Instance, way: &str) -> anyhow::Result<()> {
    // The last connection's end merges the log of changes: otherwise that would heal it.
    sql(instance, "SELECT 1")?;
    let size: u64 = sql(instance, "PRAGMA page_size")?.trim().parse()?;
    let file = fs::OpenOptions::new().write(true).open(ledger(instance))?;
    match way {
        "truncated" => file.set_len(size * 3 + 100)?,
        "garbage" => file.write_all_at(&vec![0x5a; usize::try_from(file.metadata()?.len())?], 0)?,
        "empty" => file.set_len(0)?,
        "a page" => {
            let root =
                sql(instance, "SELECT rootpage FROM sqlite_master WHERE name = 'sandboxes'")?;
            let page: u64 = root.trim().parse()?;
            file.write_all_at(&vec![0xa5; usize::try_from(size)?], (page - 1) * size)?;
        }
        "a step" => {
            sql(instance, "UPDATE steps SET step = 'dance' WHERE sequence = 1")?;
        }
        _ => {
            sql(instance, "UPDATE sandboxes SET facts = '{nonsense' WHERE state = 'running'")?;
        }
    }
    Ok(())
}

async fn damage_and_mend(instance: &Instance, way: &str, keeps_rows: bool) -> anyhow::Result<()> {
    let first = settle(instance, "ana").await?;
    let before = instance.get("ana").await?;
    instance.end_launcher(Signal::SIGTERM)?;
    damage(instance, way)?;
    let bytes = fs::read(ledger(instance))?;
    refuses(instance, "damaged", "adrastea repair").await.or_else(|error| {
        // An empty one is as good as none.
        if way == "empty" { Ok(()) } else { Err(error) }
    })?;
    ensure!(fs::read(ledger(instance))? == bytes, "a refused ledger was changed");
    ensure!(instance.http(&before.address, "/")?.0 == 200, "the server went");
    let dry = instance.cli(&["repair", "--dry-run"])?;
    ensure!(dry.code == 1 && !dry.stdout.is_empty(), "{dry:?}");
    let said = if keeps_rows { "takes it over" } else { "ends it and removes what is left" };
    let line =
        dry.stdout.lines().find(|line| line.contains(&before.sandbox_id) && line.contains(said));
    line.with_context(|| format!("it is not said what becomes of the sandbox: {dry:?}"))?;
    ensure!(fs::read(ledger(instance))? == bytes, "--dry-run changed the ledger");
    let mended = mend(instance)?;
    let moved = mended.stdout.lines().find_map(|line| line.strip_prefix("the old ledger is at "));
    let moved = PathBuf::from(moved.context("it is not said where the old ledger is")?);
    ensure!(fs::read(&moved)? == bytes, "the damaged ledger was not kept as it was");
    ensure!(instance.http(&before.address, "/")?.0 == 200, "the repair ended a server");
    instance.serve(None).await?;
    if keeps_rows {
        let after = instance.get("ana").await?;
        ensure!(
            after.phase() == Phase::Ready && after.sandbox_id == before.sandbox_id,
            "{after:?}"
        );
        ensure!(instance.stop("ana", "").await?);
    }
    instance.nothing_left(Duration::from_secs(10))?;
    instance.start("new").await?;
    ensure!(instance.get("new").await?.disk_uid != first, "a number was given twice");
    comes_back(instance, "ana", first).await?;
    ensure!(instance.get("ana").await?.generation > before.generation, "a generation went back");
    instance.stop("new", "").await?;
    Ok(())
}

async fn upgrade(instance: &Instance, signal: Signal) -> anyhow::Result<()> {
    for user in ["ana", "ben", "gone"] {
        settle(instance, user).await?;
    }
    instance.stop("gone", "").await?;
    let before = [instance.get("ana").await?, instance.get("ben").await?];
    let gone = instance.get("gone").await?;
    instance.end_launcher(signal)?;
    sql(instance, BACK_TO_1)?;
    instance.serve(None).await?;
    for old in &before {
        let user = &old.key.as_ref().context("no key")?.user;
        let new = instance.get(user).await?;
        ensure!(
            new.phase() == Phase::Ready
                && (&old.sandbox_id, old.disk_uid, old.generation, &old.address)
                    == (&new.sandbox_id, new.disk_uid, new.generation, &new.address),
            "{old:?} became {new:?}"
        );
        instance.answers(user).await?;
    }
    let copy = instance.state().join("launcher.sqlite.v1");
    ensure!(copy.exists(), "there is no copy of the older ledger");
    for user in ["ana", "ben"] {
        ensure!(instance.stop(user, "").await?, "{user} was not there to stop");
    }
    comes_back(instance, "gone", gone.disk_uid).await?;
    ensure!(instance.get("gone").await?.generation > gone.generation);
    instance.stop("gone", "").await?;
    instance.nothing_left(Duration::from_secs(10))
}

/// Starts a user who writes into the home; returns the user's number.
async fn settle(instance: &Instance, user: &str) -> anyhow::Result<u32> {
    let ready = instance.start(user).await?;
    ensure!(instance.http(ready.address(), "/write/kept/home/jovyan/file")?.1 == "written");
    Ok(instance.get(user).await?.disk_uid)
}

/// The user has the old number and the old home.
async fn comes_back(instance: &Instance, user: &str, uid: u32) -> anyhow::Result<()> {
    let ready = instance.start(user).await?;
    let now = instance.get(user).await?.disk_uid;
    ensure!(now == uid, "{user} had {uid} and has {now}");
    ensure!(
        instance.http(ready.address(), "/cat/home/jovyan/file")?.1 == "kept",
        "a home was lost"
    );
    Ok(())
}

/// The launcher does not start, says why, and what to do.
async fn refuses(instance: &Instance, naming: &str, hint: &str) -> anyhow::Result<()> {
    let error = instance.serve(None).await.err().context("the launcher served")?;
    let log = instance.launcher_log();
    let words = log.lines().rev().take(4).collect::<Vec<_>>().join("\n");
    ensure!(
        words.contains(naming) && words.contains("hint: ") && words.contains(hint),
        "{words}\n{error:#}"
    );
    Ok(())
}

/// The launcher starts, the server was there all the time.
async fn goes_on(instance: &Instance, user: &str) -> anyhow::Result<()> {
    instance.serve(None).await?;
    instance.answers(user).await
}

fn mend(instance: &Instance) -> anyhow::Result<Output> {
    let mended = instance.cli(&["repair", "--yes"])?;
    ensure!(mended.code == 0 && mended.stdout.contains("mended"), "{mended:?}");
    Ok(mended)
}

fn ledger(instance: &Instance) -> PathBuf {
    instance.state().join("launcher.sqlite")
}

fn ledger_files(instance: &Instance) -> [PathBuf; 3] {
    ["", "-wal", "-shm"].map(|ending| instance.state().join(format!("launcher.sqlite{ending}")))
}

fn absent(error: std::io::Error) -> std::io::Result<()> {
    if error.kind() == std::io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

/// SQL on the ledger, as an administrator would; the first value of the last query.
fn sql(instance: &Instance, text: &str) -> anyhow::Result<String> {
    let connection = rusqlite::Connection::open(ledger(instance))?;
    if text.starts_with("SELECT") || text == "PRAGMA page_size" {
        return Ok(connection.query_row(text, [], |row| row.get::<_, i64>(0))?.to_string());
    }
    connection.execute_batch(text)?;
    Ok(String::new())
}
