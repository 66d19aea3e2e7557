//! Images: from a registry that breaks, from archives that lie, out again, and
//! never more of them than their files and their ENV.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::Read as _,
    os::unix::fs::{FileExt as _, PermissionsExt},
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use adrastea_tests::{
    Instance, Options, Output, Suite, column,
    image::{self, ANSWER, Archive, Layer, REFERENCE},
    place,
    registry::Registry,
    remains::ctr,
};
use anyhow::{Context as _, ensure};
use nix::sys::signal::Signal;
use serde_json::json;
use tar::{Builder, EntryType, Header};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// Bytes of the layer that is broken off.
const LARGE: usize = 6 << 20;
/// `a pass:word`, as a registry keeps it.
const ACCOUNT: &str = "ana:$2b$04$jnKd04oXxkqgjoPXIYTlauc97uSvMF4tgoCEhOfCmW8zfWp5mm9..";

pub fn add(suite: &mut Suite) {
    suite.own("images::from_a_registry", Options::default(), from_a_registry);
    let credentials = credentials_file();
    let store = format!(
        "\n[image_store]\ncredentials = \"{}\"\nmax_unpacked_size = \"48MiB\"\nmax_download_size = \"4MiB\"\n",
        credentials.display()
    );
    let options = Options { append: store, ..Options::default() };
    suite.own("images::credentials_and_bounds", options, move |instance| async move {
        let outcome = credentials_and_bounds(&instance, &credentials);
        let _ = fs::remove_file(&credentials);
        outcome
    });
    suite.own("images::removal_and_docker_save", Options::default(), |instance| async move {
        as_docker_save_writes_them(&instance)?;
        as_docker_save_writes_them_today(&instance)?;
        removal(&instance).await
    });
    suite.own("images::unused_for_long_are_removed", Options::default(), |instance| async move {
        unused_for_long(&instance).await
    });
    suite.shared("images::nothing_but_files_and_env_counts", nothing_but_files_and_env_counts);
    suite.shared("images::check_tells_what_is_missing", |instance| async move {
        let output = instance.cli(&["image", "check", REFERENCE])?;
        ensure!(output.code == 1, "{output:?}");
        ensure!(output.stdout.contains("no jupyterhub-singleuser"), "{output:?}");
        failing(&instance, &["image", "check", "localhost/no/such:1"], "is not on this node")
    });
}

fn credentials_file() -> PathBuf {
    place::scratch().join(format!("credentials-{}.json", std::process::id()))
}

/// Bytes that no compression makes small, the same for the same seed.
fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        bytes.extend(next());
    }
    bytes.truncate(length);
    bytes
}

/// An image of its own for each number: one small layer and one large one.
fn numbered(number: u64, large: usize) -> anyhow::Result<Archive> {
    let (mut first, mut second) = (Layer::default(), Layer::default());
    first.file("small", 0o644, format!("{number}").as_bytes())?;
    second.file("large", 0o644, &noise(large, number))?;
    image::write(&[first, second])
}

fn passing(instance: &Instance, words: &[&str]) -> anyhow::Result<Output> {
    let output = instance.cli(words)?;
    ensure!(output.code == 0, "`{}` failed: {}", words.join(" "), output.stderr);
    Ok(output)
}

fn failing(instance: &Instance, words: &[&str], naming: &str) -> anyhow::Result<()> {
    let output = instance.cli(words)?;
    ensure!(output.code != 0, "`{}` did not fail: {output:?}", words.join(" "));
    ensure!(
        output.stderr.contains(naming),
        "`{}` does not name `{naming}`: {}",
        words.join(" "),
        output.stderr
    );
    Ok(())
}

fn names(instance: &Instance) -> anyhow::Result<String> {
    Ok(passing(instance, &["image", "ls"])?.stdout)
}

/// What of images lies on the disk: directories of layers, and blobs.
fn on_disk(instance: &Instance) -> anyhow::Result<BTreeSet<PathBuf>> {
    let containerd = instance.state().join("containerd");
    let mut found = BTreeSet::new();
    for folder in [
        containerd.join("io.containerd.snapshotter.v1.overlayfs/snapshots"),
        containerd.join("io.containerd.content.v1.content/blobs/sha256"),
        instance.state().join("downloads/blobs/sha256"),
    ] {
        match fs::read_dir(&folder) {
            Ok(entries) => found.extend(entries.flatten().map(|entry| entry.path())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).context(folder.display().to_string()),
        }
    }
    Ok(found)
}

/// Bytes of the download that has not ended.
fn partial(instance: &Instance) -> anyhow::Result<u64> {
    let folder = instance.state().join("downloads/blobs/sha256");
    let mut bytes = 0;
    for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())?.flatten() {
        if entry.path().extension().is_some_and(|extension| extension == "part") {
            bytes += entry.metadata()?.len();
        }
    }
    Ok(bytes)
}

async fn from_a_registry(instance: std::sync::Arc<Instance>) -> anyhow::Result<()> {
    let before = on_disk(&instance)?;
    ensure!(before.len() > 4, "the small image must show on the disk: {before:?}");
    let registry =
        Registry::start(&instance.namespace, &instance.scratch().join("registry"), None)?;
    let archive = numbered(1, LARGE)?;
    let manifest = registry.push(&archive.path, "course/lab", "1")?;
    let here = format!("{}/course/lab", registry.address());

    // By tag, by digest, under another name; and out again, to the last byte.
    let by_tag = format!("{here}:1");
    let output = passing(&instance, &["image", "pull", &by_tag])?;
    ensure!(output.stdout.contains(&archive.digest), "{output:?}");
    ensure!(output.stderr.contains("downloading layers"), "no progress: {output:?}");
    ensure!(names(&instance)?.contains(&by_tag));
    let by_digest = format!("{here}@{}", archive.digest);
    passing(&instance, &["image", "pull", &by_digest, "--as", "localhost/lab:1"])?;
    ensure!(names(&instance)?.contains("localhost/lab:1"));
    passing(&instance, &["image", "rm", &by_tag])?;
    passing(&instance, &["image", "rm", "localhost/lab:1"])?;
    let left = on_disk(&instance)?;
    ensure!(left == before, "left: {:?}", left.difference(&before).collect::<Vec<_>>());

    // An index: this node's platform, and no other one's.
    let entry = |architecture: &str, digest: &str, size: usize| {
        json!({"mediaType": MANIFEST, "digest": digest, "size": size,
            "platform": {"os": "linux", "architecture": architecture}})
    };
    let other = numbered(10, 1 << 12)?;
    let foreign = registry.push(&other.path, "course/lab", "foreign")?;
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [
        entry("arm64", &other.digest, foreign.len()),
        entry("amd64", &archive.digest, manifest.len()),
    ]});
    registry.put_manifest("course/lab", "multi", INDEX, index.to_string().as_bytes())?;
    let output = passing(&instance, &["image", "pull", &format!("{here}:multi")])?;
    ensure!(output.stdout.contains(&archive.digest), "{output:?}");
    passing(&instance, &["image", "rm", &format!("{here}:multi")])?;
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [
        entry("arm64", &other.digest, foreign.len()),
    ]});
    registry.put_manifest("course/lab", "arm", INDEX, index.to_string().as_bytes())?;
    failing(&instance, &["image", "pull", &format!("{here}:arm")], "has no image for linux/amd64")?;
    let absent = format!("{here}@sha256:{}", "1".repeat(64));
    failing(&instance, &["image", "pull", &absent], "failed to ask")?;
    failing(&instance, &["image", "pull", "Not/A Reference"], "is no image reference")?;

    broken_connections(&instance, &registry).await?;
    a_lying_registry(&instance, &registry)?;
    let left = on_disk(&instance)?;
    ensure!(left == before, "left: {:?}", left.difference(&before).collect::<Vec<_>>());
    Ok(())
}

/// A download that breaks off is continued: by the next attempt, and after the
/// launcher was killed under it.
async fn broken_connections(instance: &Instance, registry: &Registry) -> anyhow::Result<()> {
    let first = numbered(2, LARGE)?;
    registry.push(&first.path, "course/lab", "2")?;
    let reference = format!("{}/course/lab:2", registry.wire());
    registry.break_after(4 << 20);
    failing(instance, &["image", "pull", &reference], "failed to ask")?;
    ensure!(!names(instance)?.contains(&reference), "a half image is visible");
    let arrived = registry.passed();
    ensure!(arrived > 3 << 20, "only {arrived} bytes came through");
    registry.mend();
    passing(instance, &["image", "pull", &reference])?;
    let again = registry.passed() - arrived;
    ensure!(again < (LARGE as u64) / 2, "{again} bytes were fetched again");
    passing(instance, &["image", "rm", &reference])?;

    let second = numbered(3, LARGE)?;
    registry.push(&second.path, "course/lab", "3")?;
    let reference = format!("{}/course/lab:3", registry.wire());
    let before = registry.passed();
    registry.break_after(4 << 20);
    let mut pull = instance
        .namespace
        .command(place::launcher())
        .arg("--config")
        .arg(instance.config())
        .args(["image", "pull", &reference])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let deadline = Instant::now() + Duration::from_secs(60);
    // What is on the way is lost with the launcher; what is on the disk is not.
    while registry.passed() - before < 3 << 20 || partial(instance)? < 2 << 20 {
        ensure!(Instant::now() < deadline, "nothing comes through");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    instance.end_launcher(Signal::SIGKILL)?;
    pull.wait()?;
    instance.serve(None).await?;
    ensure!(!names(instance)?.contains(&reference), "a half image is visible");
    registry.mend();
    let arrived = registry.passed();
    passing(instance, &["image", "pull", &reference])?;
    let again = registry.passed() - arrived;
    ensure!(again < (LARGE as u64) * 5 / 6, "{again} bytes were fetched again");
    passing(instance, &["image", "rm", &reference]).map(|_| ())
}

/// Bytes that do not fit their digest never become visible.
fn a_lying_registry(instance: &Instance, registry: &Registry) -> anyhow::Result<()> {
    let archive = numbered(4, 1 << 20)?;
    let manifest: serde_json::Value =
        serde_json::from_slice(&registry.push(&archive.path, "course/lab", "4")?)?;
    let digest = manifest["layers"][1]["digest"].as_str().context("no digest")?;
    let file = File::options().read(true).write(true).open(registry.file_of(digest))?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, 100_000)?;
    file.write_all_at(&[!byte[0]], 100_000)?;
    let reference = format!("{}/course/lab:4", registry.address());
    failing(instance, &["image", "pull", &reference], "is not what its digest says")?;
    ensure!(!names(instance)?.contains(&reference), "it is visible");
    file.write_all_at(&byte, 100_000)?;
    passing(instance, &["image", "pull", &reference])?;
    passing(instance, &["image", "rm", &reference]).map(|_| ())
}

fn credentials_and_bounds(instance: &Instance, credentials: &Path) -> anyhow::Result<()> {
    let folder = instance.scratch().join("registry");
    let archive = numbered(5, 1 << 20)?;
    {
        let registry = Registry::start(&instance.namespace, &folder, None)?;
        registry.push(&archive.path, "private/lab", "1")?;
        let large = numbered(6, 8 << 20)?;
        registry.push(&large.path, "private/lab", "large")?;
    }
    let registry = Registry::start(&instance.namespace, &folder, Some(ACCOUNT))?;
    let reference = format!("{}/private/lab:1", registry.address());
    let pull = ["image", "pull", &reference];
    // "a pass:word", as docker writes it.
    let entry = |auth: &str| json!({"auths": {registry.address(): {"auth": auth}}}).to_string();
    let write = |text: &str, mode: u32| -> anyhow::Result<()> {
        fs::write(credentials, text)?;
        Ok(fs::set_permissions(credentials, PermissionsExt::from_mode(mode))?)
    };
    failing(instance, &pull, "failed to read")?;
    write(&entry("YW5hOmEgcGFzczp3b3Jk"), 0o644)?;
    failing(instance, &pull, "others than root may read it")?;
    write(r#"{"auths": {}}"#, 0o600)?;
    failing(instance, &pull, "asks for a user and a password")?;
    write(&entry("YW5hOndyb25nLW9uZQ=="), 0o600)?;
    failing(instance, &pull, "asks for a user and a password")?;
    write(&entry("YW5hOmEgcGFzczp3b3Jk"), 0o600)?;
    passing(instance, &pull)?;
    let log = fs::read_to_string(instance.scratch().join("serve.log"))?;
    for secret in ["a pass:word", "YW5hOmEgcGFzczp3b3Jk", "wrong-one", "YW5hOndyb25nLW9uZQ"] {
        ensure!(!log.contains(secret), "the launcher's log holds `{secret}`");
    }

    // Bounds: of a download, and of what an archive unpacks to.
    let large = format!("{}/private/lab:large", registry.address());
    failing(instance, &["image", "pull", &large], "rule image_store.max_download_size")?;
    let mut bomb = Layer::default();
    bomb.file("zeros", 0o644, &vec![0; 64 << 20])?;
    let bomb = image::write(&[bomb])?;
    let path = bomb.path.display().to_string();
    let imported = failing(
        instance,
        &["image", "import", &path, "localhost/bomb:1"],
        "rule image_store.max_unpacked_size",
    );
    fs::remove_file(&bomb.path)?;
    imported?;
    ensure!(!names(instance)?.contains("bomb"), "it is visible");
    Ok(())
}

async fn removal(instance: &Instance) -> anyhow::Result<()> {
    let before = on_disk(instance)?;
    // Nothing of a replaced image stays, but what a live sandbox is made of.
    let archives = [numbered(7, 1 << 16)?, numbered(8, 1 << 16)?];
    for archive in &archives {
        let path = archive.path.display().to_string();
        passing(instance, &["image", "import", &path, "localhost/replaced:1"])?;
    }
    let listed = names(instance)?;
    ensure!(listed.contains(&archives[1].digest) && !listed.contains(&archives[0].digest));

    let ready = instance.start("user").await?;
    failing(instance, &["image", "rm", REFERENCE], &format!("sandbox {}", ready.id()))?;
    failing(instance, &["image", "rm", REFERENCE], "profile standard")?;
    failing(instance, &["image", "rm", "--force", REFERENCE], "stop these sandboxes first")?;
    ensure!(names(instance)?.contains(&format!("live sandboxes: {}", ready.id())));
    // Replaced under a live sandbox: its layers stay, and it goes on.
    let path = archives[0].path.display().to_string();
    passing(instance, &["image", "import", &path, REFERENCE])?;
    let dry = passing(instance, &["image", "prune", "--dry-run"])?;
    ensure!(dry.stdout.contains("localhost/replaced:1"), "{dry:?}");
    ensure!(names(instance)?.contains("localhost/replaced:1"), "a dry run removes nothing");
    let pruned = passing(instance, &["image", "prune"])?;
    ensure!(pruned.stdout.contains("1 images removed"), "{pruned:?}");
    instance.answers("user").await?;
    ensure!(instance.http(ready.address(), "/cat/etc/owner-is-root")?.1.contains("root"));
    instance.stop("user", "").await?;
    // Now nobody needs them.
    passing(instance, &["image", "rm", "--force", REFERENCE])?;
    let left = on_disk(instance)?;
    ensure!(left.is_empty(), "left: {left:?}");
    failing(instance, &["image", "rm", "--force", REFERENCE], "is not on this node")?;

    let path = instance.archive.path.display().to_string();
    passing(instance, &["image", "import", &path, REFERENCE])?;
    ensure!(on_disk(instance)?.len() == before.len());
    let ready = instance.start("user").await?;
    ensure!(instance.http(ready.address(), "/")?.0 == 200);
    instance.stop("user", "").await.map(|_| ())
}

/// Since version 25 an OCI layout, with the old `manifest.json` beside it, and one entry in
/// the index for each name that the image has.
fn as_docker_save_writes_them_today(instance: &Instance) -> anyhow::Result<()> {
    let archive = numbered(10, 1 << 16)?;
    let path = instance.scratch().join("docker-25.tar");
    let mut tar = Builder::new(Vec::new());
    let mut add = |name: &str, content: &[u8]| -> anyhow::Result<()> {
        let mut header = Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(content.len() as u64);
        Ok(tar.append_data(&mut header, name, content)?)
    };
    for entry in tar::Archive::new(File::open(&archive.path)?).entries()? {
        let mut entry = entry?;
        let name = entry.path()?.display().to_string();
        let mut content = Vec::new();
        entry.read_to_end(&mut content)?;
        if name == "index.json" {
            let mut index: serde_json::Value = serde_json::from_slice(&content)?;
            let named = |name: &str| {
                let mut entry = index["manifests"][0].clone();
                entry["annotations"] = json!({"io.containerd.image.name": name});
                entry
            };
            index["manifests"] = json!([named("localhost/one:1"), named("localhost/two:1")]);
            content = index.to_string().into_bytes();
        }
        add(&name, &content)?;
    }
    add("manifest.json", br#"[{"Config":"blobs/sha256/0","RepoTags":["localhost/one:1"],"Layers":["../etc/passwd"]}]"#)?;
    add("repositories", b"{}")?;
    fs::write(&path, tar.into_inner()?)?;
    let name = "localhost/docker:25";
    passing(instance, &["image", "import", &path.display().to_string(), name])?;
    let listed = names(instance)?;
    ensure!(listed.contains(&archive.digest), "another digest than the layout's: {listed}");
    ensure!(!listed.contains("localhost/one:1"), "its own names count: {listed}");
    fs::remove_file(&path)?;
    passing(instance, &["image", "rm", name]).map(|_| ())
}

async fn unused_for_long(instance: &Instance) -> anyhow::Result<()> {
    let archive = numbered(9, 1 << 16)?;
    let path = archive.path.display().to_string();
    for name in ["localhost/forgotten:1", "localhost/recent:1"] {
        passing(instance, &["image", "import", &path, name])?;
    }
    let ages = instance.state().join("unused-images.json");
    let deadline = Instant::now() + Duration::from_secs(120);
    // The first look writes both down, and what the configuration names not.
    instance.restart_launcher(Signal::SIGKILL).await?;
    let known = loop {
        let known: BTreeMap<String, u64> = fs::read(&ages)
            .ok()
            .and_then(|text| serde_json::from_slice(&text).ok())
            .unwrap_or_default();
        if known.len() == 2 {
            break known;
        }
        ensure!(Instant::now() < deadline, "unused images are not written down: {known:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    ensure!(
        known.keys().all(|name| name.ends_with(&format!(":1@{}", archive.digest))),
        "{known:?}"
    );
    instance.end_launcher(Signal::SIGKILL)?;
    let long_ago = |(name, age): (&String, &u64)| {
        (name.clone(), if name.contains("forgotten") { 31 * 24 * 60 * 60 } else { *age })
    };
    let planted: BTreeMap<_, _> = known.iter().map(long_ago).collect();
    fs::write(&ages, serde_json::to_vec(&planted)?)?;
    instance.serve(None).await?;
    while names(instance)?.contains("localhost/forgotten:1") {
        ensure!(Instant::now() < deadline, "an image that nobody used for 31 days is still there");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let left = names(instance)?;
    ensure!(left.contains("localhost/recent:1") && left.contains(REFERENCE), "{left}");
    instance.start("user").await?;
    instance.answers("user").await?;
    instance.stop("user", "").await.map(|_| ())
}

/// An archive in the form of `docker save` before OCI; a link stands for a layer that occurs twice.
fn docker_save(path: &Path, layers: &[Vec<u8>], link: Option<(&str, &str)>) -> anyhow::Result<()> {
    let mut tar = Builder::new(Vec::new());
    let mut add = |name: &str, content: &[u8]| -> anyhow::Result<()> {
        let mut header = Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(content.len() as u64);
        Ok(tar.append_data(&mut header, name, content)?)
    };
    let digest = |bytes: &[u8]| image::digest(bytes);
    let configuration = json!({"architecture": "amd64", "os": "linux", "history": [],
        "config": {"Env": ["FROM_DOCKER=yes"]},
        "rootfs": {"type": "layers", "diff_ids": layers.iter().map(|one| digest(one)).collect::<Vec<_>>()}})
    .to_string();
    let mut named = Vec::new();
    for (number, layer) in layers.iter().enumerate() {
        let name = format!("{number}/layer.tar");
        if link.is_none_or(|(from, _)| from != name) {
            add(&name, layer)?;
        }
        add(&format!("{number}/VERSION"), b"1.0")?;
        named.push(name);
    }
    add("config.json", configuration.as_bytes())?;
    let manifest =
        json!([{"Config": "config.json", "RepoTags": ["lab:1"], "Layers": named}]).to_string();
    add("manifest.json", manifest.as_bytes())?;
    if let Some((from, to)) = link {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Symlink);
        header.set_size(0);
        tar.append_link(&mut header, from, to)?;
    }
    Ok(fs::write(path, tar.into_inner()?)?)
}

fn as_docker_save_writes_them(instance: &Instance) -> anyhow::Result<()> {
    let (mut first, mut second) = (Layer::default(), Layer::default());
    first.file("first", 0o644, b"1")?;
    second.file("second", 0o644, b"2")?;
    let (first, second) = (first.content(), second.content());
    let path = instance.scratch().join("docker.tar");
    let import = |reference: &str| {
        instance.cli(&["image", "import", &path.display().to_string(), reference])
    };
    let layers = [first.clone(), second, first.clone()];
    docker_save(&path, &layers, Some(("2/layer.tar", "../0/layer.tar")))?;
    let output = import("localhost/docker:1")?;
    ensure!(output.code == 0 && output.stdout.contains("3 layers"), "{output:?}");
    let again = import("localhost/docker:1")?;
    ensure!(again.stdout == output.stdout, "the digest is not the same: {output:?} {again:?}");

    for target in ["../../0/layer.tar", "/etc/passwd", "../1"] {
        docker_save(&path, &layers, Some(("2/layer.tar", target)))?;
        let output = import("localhost/docker:2")?;
        ensure!(output.code != 0 && output.stderr.contains("is not in it"), "{output:?}");
    }
    // A layer that is not what the configuration says.
    let mut lying = Layer::default();
    lying.file("lying", 0o644, &noise(4096, 9))?;
    docker_save(&path, &[lying.content()], None)?;
    let mut text = fs::read(&path)?;
    let at = text.windows(64).position(|window| window == &noise(4096, 9)[..64]);
    text[at.context("the layer is not in the archive")?] ^= 1;
    fs::write(&path, text)?;
    let output = import("localhost/docker:2")?;
    ensure!(output.code != 0 && output.stderr.contains("another digest"), "{output:?}");
    ensure!(!names(instance)?.contains("localhost/docker:2"), "it is visible");
    fs::remove_file(&path)?;
    passing(instance, &["image", "rm", "localhost/docker:1"]).map(|_| ())
}

/// The test image asks for root, a volume, an entry point and labels of containerd's.
async fn nothing_but_files_and_env_counts(
    instance: std::sync::Arc<Instance>,
) -> anyhow::Result<()> {
    let ready = instance.start("plain").await?;
    let mounts = instance.http(ready.address(), "/cat/proc/self/mountinfo")?.1;
    // gVisor shows the mount above the home, in which the home is attached.
    let home = if column::has_own_kernel() { " /home " } else { " /home/jovyan " };
    ensure!(mounts.contains(home), "{mounts}");
    ensure!(!mounts.contains("/volume"), "the image's VOLUME is mounted:\n{mounts}");
    let status = instance.http(ready.address(), "/cat/proc/self/status")?.1;
    ensure!(status.contains("Uid:\t1000\t1000\t1000\t1000"), "{status}");
    let environment = instance.run("plain", &[ANSWER, "env"])?.stdout;
    ensure!(environment.contains("FROM_IMAGE=a=b") && !environment.contains("LD_PRELOAD"));
    // Neither label nor entry point is known to containerd.
    let container = format!("containers info {}", ready.id());
    for words in ["images ls", "content ls", "snapshots ls", container.as_str()] {
        let lines = ctr(&instance, words)?.join("\n");
        for planted in ["evil", "restart.status", "FROM_IMAGE"] {
            ensure!(!lines.contains(planted), "ctr {words} shows `{planted}`:\n{lines}");
        }
    }
    for snapshot in ctr(&instance, "snapshots ls")?.iter().skip(1) {
        let key = snapshot.split_whitespace().next().unwrap_or_default();
        let info = ctr(&instance, &format!("snapshots info {key}"))?.join("\n");
        ensure!(!info.contains("evil") && !info.contains("restart.status"), "{info}");
    }
    instance.stop("plain", "").await.map(|_| ())
}
