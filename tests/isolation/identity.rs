//! F: whose numbers, whose home, whose files.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{BufRead as _, BufReader, Read as _},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread,
    time::Duration,
};

use adrastea::{host::directories, names::ServerKey, store::Store};
use adrastea_proto::v1::{self, FailureReason};
use adrastea_tests::{
    Instance, Namespace, Suite, User,
    client::{HUB, key},
    image, place,
};
use anyhow::{Context as _, bail, ensure};
use nix::{
    fcntl::{AT_FDCWD, RenameFlags, renameat2},
    mount::{MntFlags, MsFlags, mount, umount2},
};
use serde_json::json;

use crate::{
    posture,
    reference::{Reference, Wishes},
    tenant,
};

pub const RESERVE: &str = "ADRASTEA_TEST_RESERVE";
pub const DISK_IDS: std::ops::RangeInclusive<u32> = 1_879_048_192..=2_013_265_919;
const RACES: u32 = 1000;

pub fn add(suite: &mut Suite) {
    suite.shared("f1_homes_are_their_owners_alone", async |instance| homes(&instance).await);
    suite.shared("f1_a_users_servers_share_home_and_number", async |instance| {
        one_users_servers(&instance).await
    });
    suite.shared("f2_a_planted_home_is_refused", async |instance| planted_home(&instance).await);
    suite.plain("f2_home_creation_wins_every_race", home_race);
    suite.plain("f2_reference_naive_creation_loses_the_race", naive_home_race);
    suite.shared("f3_hostile_names_are_refused_or_hashed", async |instance| {
        hostile_names(&instance).await
    });
    suite.plain("f4_killed_reservations_never_give_an_id_twice", killed_reservations);
    suite.shared("f5_setuid_programs_gain_nothing", async |instance| setuid(&instance));
    suite.plain("f5_reference_setuid_programs_become_root", setuid_reference);
    suite.plain_everywhere("f5_later_mounts_stay_outside", || {
        tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(later_mounts())
    });
}

/// The directory of a user on this host.
pub fn home(instance: &Instance, user: &str) -> PathBuf {
    let owner = ServerKey::new(HUB, user, "").unwrap().owner();
    instance.state().join("homes").join(owner.on_disk())
}

async fn homes(instance: &Instance) -> anyhow::Result<()> {
    tenant::run(instance, "f-ana", &["put", "/home/jovyan/secret", "of ana"])?;
    tenant::start(instance, "f-ana", &["hold"], "holding").await?;
    tenant::start(instance, "f-ben", &["hold"], "holding").await?;
    let (ana, ben) = (instance.get("f-ana").await?, instance.get("f-ben").await?);
    ensure!(
        tenant::run(instance, "f-ana", &["cat", "/home/jovyan/secret"])?.contains("of ana"),
        "ana lost her file"
    );

    let listed = tenant::run(instance, "f-ben", &["list", "/home/jovyan"])?;
    ensure!(!listed.contains("secret"), "ben's home shows ana's file");
    let around = tenant::run(instance, "f-ben", &["list", "/home"])?;
    ensure!(around.trim() == "jovyan", "ben sees other homes: {around}");
    let file = home(instance, "f-ana").join("secret");
    let outcome = tenant::attempt(instance, "f-ben", &["cat", &file.display().to_string()])?;
    ensure!(outcome.code != 0, "ben reads ana's file by its path on the host");
    let mounted = tenant::run(instance, "f-ben", &["cat", "/proc/self/mountinfo"])?;
    let name = home(instance, "f-ana").file_name().unwrap().to_string_lossy().into_owned();
    ensure!(!mounted.contains(&name), "ana's home is mounted in ben's sandbox");

    let metadata = fs::metadata(home(instance, "f-ana"))?;
    ensure!(metadata.mode() & 0o7777 == 0o700, "a home has the mode {:o}", metadata.mode());
    ensure!(
        (metadata.uid(), metadata.gid()) == (ana.disk_uid, ana.disk_gid),
        "a home has a wrong owner"
    );
    let read_as = |sandbox: &v1::Sandbox| {
        let user = User { uid: sandbox.disk_uid, gid: sandbox.disk_gid, groups: Vec::new() };
        let file = file.clone();
        instance.namespace.within(user, move || fs::read_to_string(file).is_ok())
    };
    ensure!(!read_as(&ben)?, "ben's number reads ana's file on the host");
    ensure!(read_as(&ana)?, "not even ana's number reads her file: the test shows nothing");
    for user in ["f-ana", "f-ben"] {
        instance.stop(user, "").await?;
    }
    Ok(())
}

async fn one_users_servers(instance: &Instance) -> anyhow::Result<()> {
    let start = async |server: &str| {
        let request = v1::StartRequest {
            key: Some(key("f-two", server)),
            ..tenant::wish("f-two", &["hold"])
        };
        instance.start_with(request).await
    };
    start("").await?;
    let first = instance.get("f-two").await?;
    start("second").await?;
    tenant::run(instance, "f-two", &["put", "/home/jovyan/shared", "by both"])?;
    let named = v1::GetRequest { key: Some(key("f-two", "second")) };
    let second = instance.launcher().await?.get(named).await?.into_inner();
    ensure!(
        first.disk_uid == second.disk_uid && first.disk_gid == second.disk_gid,
        "one user has two numbers"
    );
    ensure!(first.run_range_first != second.run_range_first, "two live sandboxes share a range");
    let text = tenant::run(instance, "f-two", &["cat", "/home/jovyan/shared"])?;
    ensure!(text.contains("by both"), "{text}");
    let file = fs::metadata(home(instance, "f-two").join("shared"))?;
    ensure!(
        (file.uid(), file.gid()) == (first.disk_uid, first.disk_gid),
        "a file has a wrong owner"
    );
    instance.stop("f-two", "").await?;
    instance.stop("f-two", "second").await?;
    // Everything of the run is gone; another user comes in between.
    tenant::run(instance, "f-between", &["exit", "0"])?;
    start("").await?;
    let again = instance.get("f-two").await?;
    ensure!(
        again.disk_uid == first.disk_uid,
        "the number changed from {} to {}",
        first.disk_uid,
        again.disk_uid
    );
    instance.stop("f-two", "").await?;
    Ok(())
}

/// As root would plant it by mistake: a link, or somebody else's directory, where a home should be.
async fn planted_home(instance: &Instance) -> anyhow::Result<()> {
    let victim = instance.scratch().join("victim");
    fs::create_dir(&victim)?;
    fs::write(victim.join("kept"), "of root")?;
    symlink(&victim, home(instance, "f-link"))?;
    let failed = instance.start_failing(tenant::wish("f-link", &["hold"])).await?;
    ensure!(failed.reason() == FailureReason::Home, "{failed:?}");

    let foreign = home(instance, "f-foreign");
    fs::create_dir(&foreign)?;
    chown(&foreign, Some(THIEF), Some(THIEF))?;
    let failed = instance.start_failing(tenant::wish("f-foreign", &["hold"])).await?;
    ensure!(failed.reason() == FailureReason::Home, "{failed:?}");
    let owner = fs::metadata(&foreign)?.uid();
    ensure!(owner == THIEF, "the directory of {THIEF} now belongs to {owner}");
    for path in [victim.clone(), victim.join("kept")] {
        ensure!(fs::metadata(&path)?.uid() == 0, "`{}` changed its owner", path.display());
    }
    fs::remove_file(home(instance, "f-link"))?;
    fs::remove_dir(foreign)?;
    Ok(fs::remove_dir_all(victim)?)
}

/// Races a creation against somebody who swaps the place for a link to a victim;
/// tells whether the victim ever changed hands.
fn race(create: impl Fn(&Path, &str) + Send + 'static) -> anyhow::Result<bool> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let directory = place::scratch().join(format!(
        "race-{}-{}",
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    ));
    let homes = directory.join("homes");
    fs::create_dir_all(&homes)?;
    let victim = directory.join("victim");
    fs::create_dir(&victim)?;
    let planted = homes.join("planted");
    symlink(&victim, &planted)?;
    let over = Arc::new(AtomicBool::new(false));
    let racer = thread::spawn({
        let (over, place) = (Arc::clone(&over), homes.join("u-target"));
        move || {
            while !over.load(Ordering::Relaxed) {
                // Both ways: the link takes the name, and the directory takes it back.
                let _ =
                    renameat2(AT_FDCWD, &planted, AT_FDCWD, &place, RenameFlags::RENAME_EXCHANGE);
                let _ =
                    renameat2(AT_FDCWD, &planted, AT_FDCWD, &place, RenameFlags::RENAME_NOREPLACE);
                if fs::symlink_metadata(&planted).is_err() {
                    let _ = symlink(planted.with_file_name("../victim"), &planted);
                }
            }
        }
    });
    let place = homes.join("u-target");
    for _ in 0..RACES {
        create(&homes, "u-target");
        let _ = fs::remove_dir(&place);
        let _ = fs::remove_file(&place);
    }
    over.store(true, Ordering::Relaxed);
    racer.join().expect("the racer ends");
    let lost = fs::metadata(&victim)?.uid() != 0;
    fs::remove_dir_all(&directory)?;
    Ok(lost)
}

const THIEF: u32 = 1_879_050_000;

fn home_race() -> anyhow::Result<()> {
    let made = Arc::new(AtomicU32::new(0));
    let counter = Arc::clone(&made);
    let lost = race(move |homes, name| {
        if directories::make_owned(homes, name, THIEF, THIEF).is_ok() {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    })?;
    ensure!(!lost, "a directory outside of the homes changed its owner");
    ensure!(made.load(Ordering::Relaxed) > 0, "no home was ever made: the test shows nothing");
    Ok(())
}

fn naive_home_race() -> anyhow::Result<()> {
    let lost = race(|homes, name| {
        let place = homes.join(name);
        let _ = fs::create_dir(&place);
        let _ = chown(&place, Some(THIEF), Some(THIEF));
    })?;
    ensure!(lost, "even naive creation wins: the racer is too slow to show anything");
    Ok(())
}

async fn hostile_names(instance: &Instance) -> anyhow::Result<()> {
    let around = [
        instance.state(),
        PathBuf::from("/var/lib"),
        PathBuf::from("/run"),
        instance.run_directory(),
    ];
    let entries = |directories: &[PathBuf]| -> Vec<BTreeSet<String>> {
        let names = |directory: &PathBuf| {
            let entries = fs::read_dir(directory).into_iter().flatten().flatten();
            let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
            // Other instances come and go beside this one, those of the tests with a hub, too.
            names
                .filter(|name| !["at", "hub", "pool", "two"].iter().any(|it| name.starts_with(it)))
                .collect()
        };
        directories.iter().map(names).collect()
    };
    let before = entries(&around);
    let homes = instance.state().join("homes");
    let longest = "x".repeat(255);
    let too_long = "x".repeat(256);
    let refused = [
        "",
        "a\0b",
        "new\nline",
        "\u{202e}evil",
        "e\u{301}",
        "tab\t",
        "\u{7f}",
        "\u{200b}ana",
        "\u{feff}",
        "\r",
        "\u{1b}[31m",
        too_long.as_str(),
    ];
    let accepted = [
        "..",
        ".",
        "/",
        "../../etc",
        "/etc/passwd",
        "root",
        "é",
        "名前",
        "a b",
        "Ana",
        "ana",
        "-rf",
        "~",
        "%2e%2e",
        "$(reboot)",
        "u-aaaa",
        "a;b",
        "'\"",
        "\\..\\",
        "*",
        "con",
        longest.as_str(),
    ];
    for name in refused {
        let status = instance.try_start(tenant::wish(name, &["exit", "0"])).await;
        let error = match status {
            Ok(started) => bail!("{name:?} was accepted: {started:?}"),
            Err(error) => error,
        };
        let status = error.downcast_ref::<tonic::Status>().context("no status")?;
        ensure!(status.code() == tonic::Code::InvalidArgument, "{name:?}: {status:?}");
    }
    let mut numbers = BTreeMap::new();
    for name in accepted {
        tenant::start(instance, name, &["hold"], "holding")
            .await
            .with_context(|| format!("{name:?}"))?;
        let sandbox = instance.get(name).await?;
        if let Some(other) = numbers.insert(sandbox.disk_uid, name) {
            bail!("{name:?} and {other:?} have one number");
        }
        let owner = fs::metadata(home(instance, name))?.uid();
        ensure!(owner == sandbox.disk_uid, "the home of {name:?} belongs to {owner}");
        instance.stop(name, "").await?;
    }
    let after = entries(&around);
    ensure!(before == after, "a name left its directory: {before:?} became {after:?}");
    let now: Vec<_> = fs::read_dir(&homes)?
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    let own: BTreeSet<_> = accepted.iter().map(|name| home(instance, name)).collect();
    ensure!(own.len() == accepted.len(), "two names share a home");
    ensure!(
        own.iter().all(|home| home.parent() == Some(&homes) && home.is_dir()),
        "a home is elsewhere"
    );
    let hashed = |name: &String| {
        name.strip_prefix("u-").is_some_and(|hash| {
            hash.len() == 52
                && hash.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
        })
    };
    ensure!(now.iter().all(hashed), "{now:?}");
    Ok(())
}

/// In the process that is killed: reserves ids and tells each, until its end.
pub fn reserve_if_asked() -> bool {
    let Some(path) = std::env::var_os(RESERVE) else { return false };
    let store = Store::open(Path::new(&path)).expect("a store");
    for number in 0.. {
        let user = format!("{}-{number}", std::process::id());
        let owner = ServerKey::new(HUB, &user, "").expect("a name").owner();
        let identity = store.disk_identity(&owner, DISK_IDS).expect("an id");
        println!("{user} {}", identity.uid);
    }
    true
}

fn killed_reservations() -> anyhow::Result<()> {
    let directory = place::scratch().join(format!("reserve-{}", std::process::id()));
    fs::create_dir_all(&directory)?;
    let path = directory.join("store.sqlite");
    let mut given: BTreeMap<u32, String> = BTreeMap::new();
    for round in 0..20 {
        let mut child = Command::new(std::env::current_exe()?)
            .env(RESERVE, &path)
            .stdout(Stdio::piped())
            .spawn()?;
        let mut output = BufReader::new(child.stdout.take().context("no output")?);
        let mut text = String::new();
        output.read_line(&mut text)?;
        // At a different moment each time.
        thread::sleep(Duration::from_micros(700 * (round % 7) + 150));
        child.kill()?;
        child.wait()?;
        output.read_to_string(&mut text)?;
        // The last line may be cut.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        for line in whole.lines() {
            let (user, id) = line.split_once(' ').context("half a line")?;
            let id: u32 = id.parse()?;
            ensure!(DISK_IDS.contains(&id), "{id} is outside of the range");
            if let Some(other) = given.insert(id, user.to_owned()) {
                bail!("{id} was given to {other} and to {user}");
            }
        }
    }
    let store = Store::open(&path)?;
    for (id, user) in &given {
        let owner = ServerKey::new(HUB, user, "")?.owner();
        let kept = store.disk_identity(&owner, DISK_IDS)?.uid;
        ensure!(kept == *id, "{user} had {id} and has {kept}");
    }
    ensure!(given.len() >= 20, "only {} ids were given", given.len());
    fs::remove_dir_all(directory)?;
    Ok(())
}

fn gained(text: &str) -> bool {
    let ids = |name| text.lines().filter_map(move |line: &str| line.strip_prefix(name));
    let root = |ids: &str| ids.split_whitespace().any(|id| id == "0");
    let privileged = |set: &str| set.trim().bytes().any(|digit| digit != b'0');
    ids("Uid:").any(root) || ids("Gid:").any(root) || ids("CapEff:").any(privileged)
}

fn setuid(instance: &Instance) -> anyhow::Result<()> {
    let of_image =
        tenant::run_program(instance, "f-setuid", tenant::PROFILE, &["/bin/tenant-setuid", "who"])?;
    let planted_home = tenant::attempt(instance, "f-setuid", &["setuid", "/home/jovyan"])?;
    let planted_tmp = tenant::attempt(instance, "f-setuid", &["setuid", "/tmp"])?;
    for (place, output) in [("image", of_image), ("home", planted_home), ("/tmp", planted_tmp)] {
        ensure!(output.stdout.contains("CapEff:"), "{place}: it did not run: {output:?}");
        ensure!(
            !gained(&output.stdout),
            "{place}: a setuid program gained something: {}",
            output.stdout
        );
    }
    // A device node that somebody with the right to make one has put there opens nothing.
    let node = home(instance, "f-setuid").join("planted-memory");
    nix::sys::stat::mknod(
        &node,
        nix::sys::stat::SFlag::S_IFCHR,
        nix::sys::stat::Mode::from_bits_truncate(0o666),
        nix::sys::stat::makedev(1, 1),
    )?;
    fs::set_permissions(&node, fs::Permissions::from_mode(0o666))?;
    let opened = tenant::run(instance, "f-setuid", &["open", "/home/jovyan/planted-memory"])?;
    fs::remove_file(&node)?;
    ensure!(opened.contains("no /home/jovyan/planted-memory: Permission denied"), "{opened}");
    // On the host the bit is there, on a file of nobody but the user.
    let file = fs::metadata(home(instance, "f-setuid").join("setuid-copy"))?;
    ensure!(
        u64::from(file.uid()) >= posture::FIRST_ID,
        "a setuid file of {} lies in a home",
        file.uid()
    );
    let stat = tenant::run(instance, "f-setuid", &["stat", "/tmp"])?;
    ensure!(stat.starts_with("1777 "), "/tmp is {stat}");
    Ok(())
}

fn setuid_reference() -> anyhow::Result<()> {
    let wishes = Wishes { uid: 1000, ..Wishes::default() };
    let mut reference =
        Reference::start(&Namespace::new()?, &["/bin/tenant-setuid", "who"], &wishes)?;
    let output = reference.says("Seccomp:")?;
    ensure!(gained(&output), "a setuid program gains nothing even without walls: {output}");
    Ok(())
}

/// A shared file system, and what was mounted on it later. Dropped, both are gone.
struct SharedPlace(PathBuf);

impl SharedPlace {
    fn new(path: PathBuf) -> anyhow::Result<Self> {
        fs::create_dir_all(&path)?;
        mount(Some("tmpfs"), &path, Some("tmpfs"), MsFlags::empty(), Some("mode=0711"))?;
        let place = Self(path);
        mount(None::<&str>, &place.0, None::<&str>, MsFlags::MS_SHARED, None::<&str>)?;
        Ok(place)
    }
}

impl Drop for SharedPlace {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
        let _ = fs::remove_dir(&self.0);
    }
}

fn mount_later(below: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(below)?;
    mount(Some("tmpfs"), below, Some("tmpfs"), MsFlags::empty(), None::<&str>)?;
    Ok(fs::write(below.join("later"), "of the host")?)
}

async fn later_mounts() -> anyhow::Result<()> {
    let place = SharedPlace::new(place::scratch().join(format!("shared-{}", std::process::id())))?;
    let mut options = tenant::options();
    let section = format!("\n[home]\nroot = \"{}\"\n", place.0.display());
    options.append += &section;
    let instance = Instance::new(&options).await?;
    let owner = ServerKey::new(HUB, "f-later", "")?.owner().on_disk();
    tenant::start(&instance, "f-later", &["watch", "/home/jovyan/below", "/tmp/none"], "watching")
        .await?;
    mount_later(&place.0.join(&owner).join("below"))?;
    let said = tenant::says(&instance, "f-later", "watched").await?;
    ensure!(
        said.contains("/home/jovyan/below: \n"),
        "a later mount of the host is seen inside: {said}"
    );
    instance.stop("f-later", "").await?;
    instance.finish().await?;
    umount2(&place.0.join(&owner).join("below"), MntFlags::MNT_DETACH)?;

    let shared = place.0.join("reference");
    fs::create_dir(&shared)?;
    let bind = json!({"destination": "/shared", "type": "none", "source": shared, "options": ["rbind", "rw", "rslave"]});
    let wishes = Wishes { mounts: vec![bind], ..Wishes::default() };
    let mut reference =
        Reference::start(&Namespace::new()?, &[image::TENANT, "watch", "/shared/below"], &wishes)?;
    reference.says("watching")?;
    mount_later(&shared.join("below"))?;
    let said = reference.says("watched")?;
    ensure!(said.contains("/shared/below: later"), "even the reference does not see it: {said}");
    drop(reference);
    Ok(())
}
