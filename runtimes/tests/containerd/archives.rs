//! Small OCI archives for the tests, whole or broken on purpose.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

pub fn sha256(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    hash.iter().fold("sha256:".to_owned(), |text, byte| text + &format!("{byte:02x}"))
}

/// The static program of the images, compiled into `directory`.
pub fn guest(directory: &Path) -> Vec<u8> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/containerd/guest.rs");
    let program = directory.join("guest");
    let mut command = Command::new("rustc");
    command.args(["--edition", "2024", "-O", "-C", "target-feature=+crt-static"]);
    command.args(["-C", "panic=abort", "-C", "strip=symbols", "--target"]);
    command.arg(format!("{}-unknown-linux-gnu", std::env::consts::ARCH));
    let status = command.arg(source).arg("-o").arg(&program).status().unwrap();
    assert!(status.success(), "rustc failed on the guest program");
    fs::read(program).unwrap()
}

#[derive(Default)]
pub struct Layer {
    builder: Option<Builder<Vec<u8>>>,
    pub gzip: bool,
    /// Claims another content than it has.
    pub wrong_diff_id: bool,
}

impl Layer {
    pub fn new() -> Self {
        Self { builder: Some(Builder::new(Vec::new())), ..Self::default() }
    }

    fn add(mut self, name: &str, kind: EntryType, mode: u32, content: &[u8]) -> Self {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(content.len() as u64);
        let builder = self.builder.as_mut().unwrap();
        builder.append_data(&mut header, name, content).unwrap();
        self
    }

    pub fn directory(self, name: &str) -> Self {
        self.add(name, EntryType::Directory, 0o755, b"")
    }

    pub fn file(self, name: &str, content: &[u8]) -> Self {
        self.add(name, EntryType::Regular, 0o755, content)
    }

    pub fn gzip(mut self) -> Self {
        self.gzip = true;
        self
    }
}

/// An archive in the making.
pub struct ArchiveBuilder {
    tar: Builder<Vec<u8>>,
    flip: Option<&'static str>,
}

impl ArchiveBuilder {
    pub fn new() -> Self {
        Self { tar: Builder::new(Vec::new()), flip: None }
    }

    /// Changes one byte in every blob of that kind, after its digest was taken.
    pub fn flip(mut self, kind: &'static str) -> Self {
        self.flip = Some(kind);
        self
    }

    fn blob(&mut self, kind: &str, media_type: &str, mut content: Vec<u8>) -> Value {
        let digest = sha256(&content);
        if self.flip == Some(kind) {
            let middle = content.len() / 2;
            content[middle] ^= 1;
        }
        self.put(&format!("blobs/sha256/{}", &digest[7..]), &content);
        json!({"mediaType": media_type, "digest": digest, "size": content.len()})
    }

    fn put(&mut self, name: &str, content: &[u8]) {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Regular);
        header.set_mode(0o644);
        header.set_size(content.len() as u64);
        self.tar.append_data(&mut header, name, content).unwrap();
    }

    /// Writes the archive; returns its path and the manifest's digest.
    pub fn write(mut self, path: PathBuf, layers: Vec<Layer>) -> (PathBuf, String) {
        self.put("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#);
        let (mut blobs, mut diff_ids) = (Vec::new(), Vec::new());
        for mut layer in layers {
            let mut content = layer.builder.take().unwrap().into_inner().unwrap();
            diff_ids.push(sha256(if layer.wrong_diff_id { b"other" } else { &content }));
            let mut media_type = "application/vnd.oci.image.layer.v1.tar".to_owned();
            if layer.gzip {
                content = gzip(&content);
                media_type.push_str("+gzip");
            }
            blobs.push(self.blob("layer", &media_type, content));
        }
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        let labels = json!({"containerd.io/gc.root": "evil", "adrastea/instance": "evil"});
        let configuration = json!({
            "architecture": architecture, "os": "linux", "history": [],
            "config": {"Env": ["PATH=/bin", "GREETING=a=b"], "Labels": labels},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let media_type = "application/vnd.oci.image.config.v1+json";
        let configuration =
            self.blob("configuration", media_type, configuration.to_string().into_bytes());
        let annotations = json!({"containerd.io/gc.ref.content": "evil"});
        let manifest = json!({"schemaVersion": 2, "config": configuration, "layers": blobs,
            "annotations": annotations});
        let media_type = "application/vnd.oci.image.manifest.v1+json";
        let mut entry = self.blob("manifest", media_type, manifest.to_string().into_bytes());
        entry["annotations"] = json!({"io.containerd.image.name": "evil/name:1"});
        let digest = entry["digest"].as_str().unwrap().to_owned();
        let index = json!({"schemaVersion": 2, "manifests": [entry]});
        self.put("index.json", index.to_string().as_bytes());
        fs::write(&path, self.tar.into_inner().unwrap()).unwrap();
        (path, digest)
    }
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut child = Command::new("gzip")
        .arg("-1n")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let content = content.to_vec();
    let writer = std::thread::spawn(move || input.write_all(&content).unwrap());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    output.stdout
}
