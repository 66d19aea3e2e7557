//! A real registry on loopback, in a network namespace; and a wire in front of it
//! that breaks when it is told to.
//!
//! Ends with its value. It must never listen outside of its namespace.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use serde_json::Value;

use crate::{Namespace, User, place};

const PORT: u16 = 5000;
/// Where the wire that breaks listens.
const WIRE: u16 = 5001;

pub struct Registry {
    namespace: Namespace,
    directory: PathBuf,
    child: Child,
    /// Bytes that may still pass the wire towards whoever pulls.
    left: Arc<AtomicU64>,
    /// All that have.
    passed: Arc<AtomicU64>,
    /// No further connection through the wire.
    ended: Arc<AtomicBool>,
}

impl Registry {
    /// Starts one in `namespace`, with its files below `directory`. With `password`
    /// it answers only to a user who knows it (a line of a bcrypt `htpasswd` file).
    pub fn start(
        namespace: &Namespace,
        directory: &Path,
        password: Option<&str>,
    ) -> anyhow::Result<Self> {
        let program = place::tools().join("bin/docker-registry");
        ensure!(program.exists(), "`{}` is missing; run `tools/get registry`", program.display());
        fs::create_dir_all(directory)?;
        let mut text = format!(
            "version: 0.1\nlog:\n  level: warn\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:{PORT}\n",
            directory.join("data").display()
        );
        if let Some(line) = password {
            let file = directory.join("htpasswd");
            fs::write(&file, format!("{line}\n"))?;
            let file = file.display();
            text = format!("{text}auth:\n  htpasswd:\n    realm: tests\n    path: {file}\n");
        }
        let config = directory.join("config.yml");
        fs::write(&config, text)?;
        let log = fs::File::create(directory.join("registry.log"))?;
        let child = namespace
            .command(program)
            .arg("serve")
            .arg(config)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("failed to start the registry")?;
        let registry = Self {
            namespace: namespace.clone(),
            directory: directory.to_owned(),
            child,
            left: Arc::new(AtomicU64::new(u64::MAX)),
            passed: Arc::default(),
            ended: Arc::default(),
        };
        let deadline = Instant::now() + Duration::from_secs(20);
        while registry.ask("GET", "/v2/", "", &[]).is_err() {
            ensure!(Instant::now() < deadline, "the registry does not answer");
            thread::sleep(Duration::from_millis(50));
        }
        registry.lay_wire()?;
        Ok(registry)
    }

    /// The registry's own address, for references.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{PORT}")
    }

    /// The address behind the wire that breaks.
    pub fn wire(&self) -> String {
        format!("127.0.0.1:{WIRE}")
    }

    /// Every connection through the wire breaks once so many bytes have passed it.
    pub fn break_after(&self, bytes: u64) {
        self.left.store(bytes, Ordering::SeqCst);
    }

    /// The wire holds again.
    pub fn mend(&self) {
        self.left.store(u64::MAX, Ordering::SeqCst);
    }

    /// Bytes that have passed the wire so far.
    pub fn passed(&self) -> u64 {
        self.passed.load(Ordering::SeqCst)
    }

    fn lay_wire(&self) -> anyhow::Result<()> {
        let (left, passed) = (Arc::clone(&self.left), Arc::clone(&self.passed));
        let ended = Arc::clone(&self.ended);
        let listener =
            self.namespace.within(User::ROOT, || TcpListener::bind(("127.0.0.1", WIRE)))??;
        let namespace = self.namespace.clone();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if ended.load(Ordering::SeqCst) {
                    return;
                }
                let (left, passed, namespace) =
                    (Arc::clone(&left), Arc::clone(&passed), namespace.clone());
                thread::spawn(move || {
                    let server =
                        namespace.within(User::ROOT, || TcpStream::connect(("127.0.0.1", PORT)));
                    if let Ok(Ok(server)) = server {
                        carry(&client, &server, &left, &passed);
                    }
                });
            }
        });
        Ok(())
    }

    /// One request; status, headers and body.
    fn ask(
        &self,
        method: &str,
        path: &str,
        headers: &str,
        body: &[u8],
    ) -> anyhow::Result<(u16, String, Vec<u8>)> {
        let head = format!(
            "{method} {path} HTTP/1.0\r\nhost: {}\r\ncontent-length: {}\r\n{headers}\r\n",
            self.address(),
            body.len()
        );
        let body = body.to_vec();
        let answer = self.namespace.within(User::ROOT, move || -> anyhow::Result<Vec<u8>> {
            let to = SocketAddr::from(([127, 0, 0, 1], PORT));
            let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(3))?;
            stream.set_read_timeout(Some(Duration::from_secs(30)))?;
            stream.write_all(head.as_bytes())?;
            stream.write_all(&body)?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer)?;
            Ok(answer)
        })??;
        let end = answer
            .windows(4)
            .position(|window| window == b"\r\n\r\n")
            .context("the registry's answer has no end of its head")?;
        let head = String::from_utf8_lossy(&answer[..end]).into_owned();
        let code = head.split(' ').nth(1).and_then(|code| code.parse().ok());
        Ok((code.context("no status")?, head, answer[end + 4..].to_vec()))
    }

    fn put_blob(&self, repository: &str, digest: &str, content: &[u8]) -> anyhow::Result<()> {
        let (code, head, _) =
            self.ask("POST", &format!("/v2/{repository}/blobs/uploads/"), "", &[])?;
        ensure!(code == 202, "an upload was not begun: {head}");
        let place = head
            .lines()
            .find_map(|line| line.strip_prefix("Location: "))
            .context("the registry names no place for an upload")?
            .trim();
        let place = place.split_once("/v2/").map_or(place, |(_, rest)| rest);
        let mark = if place.contains('?') { '&' } else { '?' };
        let path = format!("/v2/{place}{mark}digest={digest}");
        let octets = "content-type: application/octet-stream\r\n";
        let (code, head, body) = self.ask("PUT", &path, octets, content)?;
        ensure!(code == 201, "{head}\n{}", String::from_utf8_lossy(&body));
        Ok(())
    }

    /// Puts a manifest or an index under a tag or a digest.
    pub fn put_manifest(
        &self,
        repository: &str,
        name: &str,
        media_type: &str,
        content: &[u8],
    ) -> anyhow::Result<()> {
        let path = format!("/v2/{repository}/manifests/{name}");
        let headers = format!("content-type: {media_type}\r\n");
        let (code, head, body) = self.ask("PUT", &path, &headers, content)?;
        ensure!(code == 201, "{head}\n{}", String::from_utf8_lossy(&body));
        Ok(())
    }

    /// Pushes the image of an OCI archive under a tag; answers its manifest's bytes.
    pub fn push(&self, archive: &Path, repository: &str, tag: &str) -> anyhow::Result<Vec<u8>> {
        let read = |wanted: &str| -> anyhow::Result<Vec<u8>> {
            let mut tar = tar::Archive::new(fs::File::open(archive)?);
            for entry in tar.entries()? {
                let mut entry = entry?;
                if entry.path()?.as_os_str() == wanted {
                    let mut content = Vec::new();
                    entry.read_to_end(&mut content)?;
                    return Ok(content);
                }
            }
            anyhow::bail!("`{wanted}` is not in the archive")
        };
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let blob = |digest: &str| read(&format!("blobs/sha256/{}", &digest["sha256:".len()..]));
        let index: Value = serde_json::from_slice(&read("index.json")?)?;
        let manifest = blob(&text(&index["manifests"][0]["digest"]))?;
        let parsed: Value = serde_json::from_slice(&manifest)?;
        let layers = parsed["layers"].as_array().context("no layers")?;
        for descriptor in layers.iter().chain([&parsed["config"]]) {
            let digest = text(&descriptor["digest"]);
            self.put_blob(repository, &digest, &blob(&digest)?)?;
        }
        self.put_manifest(repository, tag, &text(&parsed["mediaType"]), &manifest)?;
        Ok(manifest)
    }

    /// The file in which the registry keeps a blob.
    pub fn file_of(&self, digest: &str) -> PathBuf {
        let hex = digest.trim_start_matches("sha256:");
        let blobs = self.directory.join("data/docker/registry/v2/blobs/sha256");
        blobs.join(&hex[..2]).join(hex).join("data")
    }
}

/// Both ways, until one side ends or the wire breaks.
fn carry(client: &TcpStream, server: &TcpStream, left: &AtomicU64, passed: &AtomicU64) {
    let (Ok(from_client), Ok(to_server)) = (client.try_clone(), server.try_clone()) else { return };
    thread::spawn(move || {
        let (mut from, mut to) = (from_client, to_server);
        let _ = std::io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Write);
    });
    let (mut from, mut to) = (server, client);
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        let taken = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
            if left == u64::MAX { Some(left) } else { left.checked_sub(count as u64) }
        });
        if taken.is_err() || to.write_all(&buffer[..count]).is_err() {
            break;
        }
        passed.fetch_add(count as u64, Ordering::SeqCst);
    }
    let _ = client.shutdown(Shutdown::Both);
    let _ = server.shutdown(Shutdown::Both);
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        // Wakes the thread that listens, so that the port is free again.
        let _ = self.namespace.within(User::ROOT, || TcpStream::connect(("127.0.0.1", WIRE)));
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
