//! F4: the power goes while ids are given. What a file system of its own has handed to its
//! disk until then is all that is left; every id that was told must be there.
//!
//! Must never mount anything but the two disks it made.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use adrastea::{names::ServerKey, store::Store};
use adrastea_tests::{Suite, client::HUB, place};
use anyhow::{Context as _, ensure};
use nix::{
    errno::Errno,
    mount::{MntFlags, umount2},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::identity::{DISK_IDS, RESERVE};

const DISK_BYTES: u64 = 16 << 20;
const LOSSES: u64 = 3;

pub fn add(suite: &mut Suite) {
    suite.plain("f4_ids_that_were_told_survive_a_loss_of_power", || {
        for round in 0..LOSSES {
            lose_power(round)?;
        }
        Ok(())
    });
}

/// A disk in a file, mounted. Dropped, it is gone.
struct Disk {
    file: PathBuf,
    place: PathBuf,
}

impl Disk {
    fn new(name: &str) -> anyhow::Result<Self> {
        let directory = place::scratch().join(format!("power-{name}-{}", std::process::id()));
        fs::create_dir_all(&directory)?;
        Ok(Self { file: directory.with_extension("disk"), place: directory })
    }

    fn make(&self) -> anyhow::Result<()> {
        File::create(&self.file)?.set_len(DISK_BYTES)?;
        run(Command::new("/usr/sbin/mkfs.ext4").arg("-q").arg(&self.file))
    }

    /// Nothing goes to the disk by itself for minutes: only what is asked for.
    fn mount(&self) -> anyhow::Result<()> {
        let options = ["-t", "ext4", "-o", "loop,commit=300"];
        run(Command::new("mount").args(options).arg(&self.file).arg(&self.place))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = umount2(&self.place, MntFlags::MNT_DETACH);
        let _ = fs::remove_dir(&self.place);
        let _ = fs::remove_file(&self.file);
    }
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let output = command.output().with_context(|| format!("failed to run {command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// A test beside this one that forks has copies of its descriptors until it executes.
fn unmount(place: &Path) -> anyhow::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        match umount2(place, MntFlags::empty()) {
            Err(Errno::EBUSY) if Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(20));
            }
            ended => {
                return ended.with_context(|| format!("failed to unmount {}", place.display()));
            }
        }
    }
}

fn lose_power(round: u64) -> anyhow::Result<()> {
    let (before, after) = (Disk::new(&format!("{round}-a"))?, Disk::new(&format!("{round}-b"))?);
    before.make()?;
    before.mount()?;
    let store = before.place.join("store.sqlite");
    drop(Store::open(&store)?);
    // The store itself is there; from here on nobody asks for anything but by giving ids.
    run(Command::new("sync").arg("-f").arg(&before.place))?;
    let mut child = Command::new(std::env::current_exe()?)
        .env(RESERVE, &store)
        .stdout(Stdio::piped())
        .spawn()?;
    let mut output = BufReader::new(child.stdout.take().context("no output")?);
    let mut told: BTreeMap<String, u32> = BTreeMap::new();
    let mut take = |line: &str| -> anyhow::Result<()> {
        let (user, id) = line.trim_end().split_once(' ').context("half a line")?;
        told.insert(user.to_owned(), id.parse()?);
        Ok(())
    };
    for _ in 0..=round {
        let mut line = String::new();
        output.read_line(&mut line)?;
        take(&line)?;
    }
    thread::sleep(Duration::from_millis(3 + 5 * round));
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGSTOP)?;
    let copied = fs::copy(&before.file, &after.file);
    child.kill()?;
    child.wait()?;
    copied?;
    // What is in the pipe was told before; its last line may be cut.
    let mut rest = String::new();
    std::io::Read::read_to_string(&mut output, &mut rest)?;
    let whole = rest.rfind('\n').map_or("", |end| &rest[..end]);
    whole.lines().try_for_each(&mut take)?;
    unmount(&before.place)?;

    after.mount()?;
    let kept = kept(&after.place.join("store.sqlite"), &told);
    unmount(&after.place)?;
    kept
}

fn kept(store: &Path, told: &BTreeMap<String, u32>) -> anyhow::Result<()> {
    ensure!(!told.is_empty(), "no id was told");
    let store = Store::open(store)?;
    for (user, id) in told {
        let owner = ServerKey::new(HUB, user, "")?.owner();
        let now = store.disk_identity(&owner, DISK_IDS)?.uid;
        ensure!(now == *id, "{user} was told {id} before the loss of power, and has {now}");
    }
    Ok(())
}
