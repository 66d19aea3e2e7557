//! A small image, built by the tests themselves: two layers, one static program
//! that answers HTTP and obeys, and the probe if it was built.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, PoisonError},
};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tar::{Builder, EntryType, Header};

use crate::place;

/// The reference the image is imported under.
pub const REFERENCE: &str = "localhost/adrastea/small:1";
/// The program in the image that answers and obeys.
pub const ANSWER: &str = "/bin/answer";
/// The probe, if it was built.
pub const PROBE: &str = "/bin/probe";

/// The server that can wait for its user; what stands in for its Python lies beside it.
pub const WAITS: &str = "/waits/jupyterhub-singleuser";

/// The hostile tenant, if it was built; a copy that is setuid root lies beside it.
pub const TENANT: &str = "/bin/tenant";

/// An OCI archive on disk.
#[derive(Clone, Debug)]
pub struct Archive {
    pub path: PathBuf,
    /// The manifest's digest.
    pub digest: String,
}

/// The image of the fixture. The same content has the same name and digest.
pub fn small() -> anyhow::Result<Archive> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let answer = answer()?;
    let mut base = Layer::default();
    for directory in ["bin", "etc", "tmp", "home", "home/jovyan", "usr"] {
        base.directory(directory, 0o755)?;
    }
    base.file("etc/passwd", 0o644, b"root:x:0:0::/:\njovyan:x:1000:1000::/home/jovyan:\n")?;
    base.file("etc/owner-is-root", 0o644, b"root\n")?;
    let mut programs = Layer::default();
    programs.file("bin/answer", 0o755, &answer)?;
    can_wait(&mut programs)?;
    if place::probe().exists() {
        programs.file("bin/probe", 0o755, &fs::read(place::probe())?)?;
    }
    if place::tenant().exists() {
        let tenant = fs::read(place::tenant())?;
        programs.file("bin/tenant", 0o755, &tenant)?;
        programs.file("bin/tenant-setuid", 0o6755, &tenant)?;
    }
    write(&[base, programs])
}

/// The server that can wait for its user, and what stands in for its Python. Not on the PATH: the
/// image is no image of Jupyter's.
pub fn can_wait(layer: &mut Layer) -> anyhow::Result<()> {
    layer.directory("waits", 0o755)?;
    layer.file("waits/jupyterhub-singleuser", 0o755, b"#!/waits/python-stand-in\n")?;
    layer.file("waits/python-stand-in", 0o755, &answer()?)
}

/// The static program, compiled alone: it needs nothing but the standard library.
fn answer() -> anyhow::Result<Vec<u8>> {
    let program = answer_program()?;
    fs::read(&program).with_context(|| format!("failed to read `{}`", program.display()))
}

/// Where the static program lies on the host.
pub fn answer_program() -> anyhow::Result<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/bin/adrastea-answer.rs");
    let name = hex(&Sha256::digest(fs::read(&source)?));
    let program = place::scratch().join(format!("answer-{}", &name[..16]));
    if !program.exists() {
        fs::create_dir_all(place::scratch())?;
        let unfinished = program.with_extension(std::process::id().to_string());
        let status = Command::new("rustc")
            .args(["--edition", "2024", "-O", "-C", "panic=abort", "-C", "strip=symbols"])
            .args(["-C", "target-feature=+crt-static", "--target", "x86_64-unknown-linux-gnu"])
            .arg(&source)
            .arg("-o")
            .arg(&unfinished)
            .status()
            .context("failed to run `rustc`")?;
        ensure!(status.success(), "failed to compile `{}`", source.display());
        fs::rename(&unfinished, &program)?;
    }
    Ok(program)
}

/// `sha256:…` of some bytes.
pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(&Sha256::digest(bytes)))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// One layer in the making. Everything in it belongs to root.
pub struct Layer(Builder<Vec<u8>>);

impl Default for Layer {
    fn default() -> Self {
        Self(Builder::new(Vec::new()))
    }
}

impl Layer {
    fn add(
        &mut self,
        name: &str,
        kind: EntryType,
        mode: u32,
        content: &[u8],
    ) -> anyhow::Result<()> {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(content.len() as u64);
        self.0.append_data(&mut header, name, content).context("failed to write a layer")
    }

    pub fn directory(&mut self, name: &str, mode: u32) -> anyhow::Result<()> {
        self.add(name, EntryType::Directory, mode, b"")
    }

    pub fn file(&mut self, name: &str, mode: u32, content: &[u8]) -> anyhow::Result<()> {
        self.add(name, EntryType::Regular, mode, content)
    }

    /// A symbolic link, to anywhere.
    pub fn link(&mut self, name: &str, target: &str) -> anyhow::Result<()> {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Symlink);
        header.set_mode(0o777);
        header.set_size(0);
        self.0.append_link(&mut header, name, target).context("failed to write a layer")
    }

    /// A character device, for everybody.
    pub fn device(&mut self, name: &str, major: u32, minor: u32) -> anyhow::Result<()> {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Char);
        header.set_mode(0o666);
        header.set_size(0);
        header.set_device_major(major)?;
        header.set_device_minor(minor)?;
        self.0.append_data(&mut header, name, io::empty()).context("failed to write a layer")
    }

    /// Extended attributes of the entry that comes next.
    pub fn attributes(&mut self, attributes: &[(&str, &[u8])]) -> anyhow::Result<()> {
        let records: Vec<_> = attributes
            .iter()
            .map(|(name, value)| (format!("SCHILY.xattr.{name}"), *value))
            .collect();
        let records = records.iter().map(|(name, value)| (name.as_str(), *value));
        self.0.append_pax_extensions(records).context("failed to write a layer")
    }

    /// The layer as it lies in an archive.
    pub fn content(&self) -> Vec<u8> {
        // A tar ends with two empty blocks.
        let mut content = self.0.get_ref().clone();
        content.resize(content.len() + 1024, 0);
        content
    }
}

/// Writes an archive of these layers, the lowest first.
pub fn write(layers: &[Layer]) -> anyhow::Result<Archive> {
    let mut archive = Layer::default();
    archive.file("oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    let mut blob = |media: &str, content: &[u8]| -> anyhow::Result<Value> {
        let digest = hex(&Sha256::digest(content));
        archive.file(&format!("blobs/sha256/{digest}"), 0o644, content)?;
        let media = format!("application/vnd.oci.image.{media}");
        Ok(json!({"mediaType": media, "digest": format!("sha256:{digest}"), "size": content.len()}))
    };
    let (mut blobs, mut ids) = (Vec::new(), Vec::new());
    for layer in layers {
        let layer = blob("layer.v1.tar", &layer.content())?;
        ids.push(layer["digest"].clone());
        blobs.push(layer);
    }
    // A hostile image's wishes: root, a volume, an entry point, labels. None may count.
    let evil = json!({"containerd.io/gc.root": "evil", "containerd.io/restart.status": "evil",
        "containerd.io/snapshot/uidmapping": "evil", "io.containerd.image.unpack": "evil"});
    let configuration = json!({
        "architecture": "amd64", "os": "linux", "history": [],
        "config": {
            "User": "0:0", "Env": ["PATH=/bin", "FROM_IMAGE=a=b", "LD_PRELOAD=/evil.so"],
            "Volumes": {"/volume": {}}, "Entrypoint": ["/evil"], "WorkingDir": "/proc/self/fd/7",
            "Labels": evil,
        },
        "rootfs": {"type": "layers", "diff_ids": ids},
    });
    let configuration = blob("config.v1+json", configuration.to_string().as_bytes())?;
    let manifest = json!({"schemaVersion": 2, "config": configuration, "layers": blobs,
        "mediaType": "application/vnd.oci.image.manifest.v1+json", "annotations": evil});
    let mut entry = blob("manifest.v1+json", manifest.to_string().as_bytes())?;
    entry["annotations"] = evil.clone();
    let digest = entry["digest"].as_str().context("the manifest has no digest")?.to_owned();
    let index = json!({"schemaVersion": 2, "manifests": [entry], "annotations": evil});
    archive.file("index.json", 0o644, index.to_string().as_bytes())?;
    let name = format!("image-{}.oci.tar", &digest["sha256:".len()..][..16]);
    let path = place::scratch().join(name);
    if !path.exists() {
        fs::create_dir_all(place::scratch())?;
        let unfinished = path.with_extension(std::process::id().to_string());
        fs::write(&unfinished, archive.content())?;
        fs::rename(&unfinished, &path)?;
    }
    Ok(Archive { path, digest })
}
