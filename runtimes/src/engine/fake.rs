//! An engine without containers, for functional tests of everything above it.
//!
//! Keeps its state in memory, records its calls, fails at the nth one, and
//! plays the init's part on the FIFOs: says that it waits, takes the claim,
//! answers. Must never start a process or need root.

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use oci_spec::runtime::Spec;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::unix::pipe,
    sync::watch,
};

use super::{
    Engine, EngineError, EngineImage, EngineSandbox, ExitStatus, Handler, ImageDescription,
    ImportProgress, Leftover, Stdio, TaskState,
};
use crate::plan::SandboxId;

const MAGIC: &[u8] = b"ADRCLAIM1\n";
const STANDBY_MAGIC: &[u8] = b"ADRSTAND1\n";
const REPORT_REQUEST: &[u8; 10] = b"ADRREPORT\n";
const CLAIM_LIMIT: u32 = 1 << 20;

/// What the fake's init does once it runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum InitBehaviour {
    /// Waits, takes the claim, answers `claimed`. A program of the image's can wait in it.
    #[default]
    Claims,
    /// The same, but the program that waited steps aside at the claim.
    ClaimsAnew,
    /// The same, but the server has ended well before its word on the claim is there.
    ClaimsAndEnds,
    /// No program of this image can wait.
    StepsAside,
    /// Waits, takes the claim, refuses it and ends with 125.
    Refuses,
    /// Says nothing at all.
    Silent,
    /// Ends before it waits, with that code.
    Ends(u32),
}

/// An engine in memory. Clones share their state.
#[derive(Clone, Default)]
pub struct FakeEngine {
    shared: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    sandboxes: BTreeMap<String, Sandbox>,
    images: HashMap<String, EngineImage>,
    calls: Vec<String>,
    fail_at: Option<usize>,
    unavailable: bool,
    stubborn: bool,
    behaviour: InitBehaviour,
}

struct Sandbox {
    state: TaskState,
    pid: u32,
    spec: Spec,
    stdio: Stdio,
    claim: Option<Vec<u8>>,
    standby: Option<Vec<u8>>,
    exit: watch::Sender<Option<ExitStatus>>,
}

/// How long a word may be on its way.
const ON_ITS_WAY: Duration = Duration::from_millis(100);

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Told(&'static str);

impl FakeEngine {
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes the nth call from now on fail (1 is the next one), once.
    pub fn fail_at(&self, nth: usize) {
        let mut state = self.state();
        let made = state.calls.len();
        state.fail_at = Some(made + nth);
    }

    /// As if containerd were down: every call fails, tasks go on.
    pub fn set_unavailable(&self, unavailable: bool) {
        self.state().unavailable = unavailable;
    }

    /// Tasks ignore every signal but SIGKILL.
    pub fn set_stubborn(&self, stubborn: bool) {
        self.state().stubborn = stubborn;
    }

    pub fn set_behaviour(&self, behaviour: InitBehaviour) {
        self.state().behaviour = behaviour;
    }

    pub fn add_image(&self, image: EngineImage) {
        self.state().images.insert(image.reference.clone(), image);
    }

    /// Ends a task by itself, as an exiting server does.
    pub fn end(&self, id: &str, code: u32) {
        self.finish(id, ExitStatus { code, known: true });
    }

    /// Takes a sandbox away behind everybody's back, status and all.
    pub fn lose(&self, id: &str) {
        self.finish(id, ExitStatus { code: 255, known: false });
        self.state().sandboxes.remove(id);
    }

    /// All calls so far, as `verb subject`.
    pub fn calls(&self) -> Vec<String> {
        self.state().calls.clone()
    }

    /// The payload of the claim that the sandbox's init was sent.
    pub fn claim(&self, id: &str) -> Option<Vec<u8>> {
        self.state().sandboxes.get(id)?.claim.clone()
    }

    /// The payload of the standby that the sandbox's init was sent.
    pub fn standby(&self, id: &str) -> Option<Vec<u8>> {
        self.state().sandboxes.get(id)?.standby.clone()
    }

    /// The spec that the sandbox was created with.
    pub fn spec(&self, id: &str) -> Option<Spec> {
        self.state().sandboxes.get(id).map(|sandbox| sandbox.spec.clone())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn record(&self, verb: &'static str, thing: &str) -> Result<(), EngineError> {
        let mut state = self.state();
        state.calls.push(format!("{verb} {thing}").trim_end().to_owned());
        if state.unavailable {
            return Err(EngineError::Unavailable {
                socket: PathBuf::from("/fake"),
                source: Box::new(Told("told to be unavailable")),
            });
        }
        if state.fail_at == Some(state.calls.len()) {
            state.fail_at = None;
            return Err(failed(verb, thing, "told to fail"));
        }
        Ok(())
    }

    fn finish(&self, id: &str, status: ExitStatus) {
        if let Some(sandbox) = self.state().sandboxes.get_mut(id)
            && !matches!(sandbox.state, TaskState::Stopped)
        {
            sandbox.state = TaskState::Stopped;
            sandbox.exit.send_replace(Some(status));
        }
    }

    /// The init's part; returns the exit code when it ends by itself.
    async fn play(&self, id: &str, stdio: &Stdio, behaviour: InitBehaviour) -> Option<u32> {
        match behaviour {
            InitBehaviour::Ends(code) => return Some(code),
            InitBehaviour::Silent => return self.ended(id).await,
            InitBehaviour::Claims
            | InitBehaviour::ClaimsAnew
            | InitBehaviour::ClaimsAndEnds
            | InitBehaviour::StepsAside
            | InitBehaviour::Refuses => {}
        }
        // For reading too, or a FIFO without its other end refuses or says
        // "end of file".
        let mut input =
            pipe::OpenOptions::new().read_write(true).open_receiver(&stdio.stdin).ok()?;
        let mut output =
            pipe::OpenOptions::new().read_write(true).open_sender(&stdio.stdout).ok()?;
        output
            .write_all(b"adrastea-init 1 waiting, landlock 0, filter lets through:\n")
            .await
            .ok()?;
        let message = tokio::select! {
            message = read_message(&mut input, &mut output) => message,
            code = self.ended(id) => return code,
        };
        let message = match message {
            Ok((true, _)) if behaviour == InitBehaviour::StepsAside => {
                output.write_all(b"adrastea-init 1 aside: told to step aside\n").await.ok()?;
                return Some(125);
            }
            Ok((true, standby)) => {
                if let Some(sandbox) = self.state().sandboxes.get_mut(id) {
                    sandbox.standby = Some(standby);
                }
                output.write_all(b"adrastea-init 1 ready\n").await.ok()?;
                tokio::select! {
                    message = read_message(&mut input, &mut output) => message,
                    code = self.ended(id) => return code,
                }
            }
            other => other,
        };
        let claim = match message {
            Ok((false, claim)) if behaviour != InitBehaviour::Refuses => claim,
            Ok(_) => {
                output.write_all(b"adrastea-init 1 refused: told to refuse\n").await.ok()?;
                return Some(125);
            }
            Err(why) => {
                let line = format!("adrastea-init 1 refused: {why}\n");
                output.write_all(line.as_bytes()).await.ok()?;
                return Some(125);
            }
        };
        if let Some(sandbox) = self.state().sandboxes.get_mut(id) {
            sandbox.claim = Some(claim);
        }
        if behaviour == InitBehaviour::ClaimsAndEnds {
            self.end(id, 0);
            tokio::time::sleep(ON_ITS_WAY).await;
        }
        let answer = match behaviour {
            InitBehaviour::ClaimsAnew => "adrastea-init 1 claimed, anew: told to step aside\n",
            _ => "adrastea-init 1 claimed\n",
        };
        output.write_all(answer.as_bytes()).await.ok()?;
        // Keeps the log open as long as the server runs.
        self.ended(id).await
    }

    async fn ended(&self, id: &str) -> Option<u32> {
        let mut exit = self.state().sandboxes.get(id)?.exit.subscribe();
        let _ = exit.wait_for(Option::is_some).await;
        None
    }
}

/// A message's payload, and whether it is a standby.
async fn read_message(
    input: &mut pipe::Receiver,
    output: &mut pipe::Sender,
) -> Result<(bool, Vec<u8>), String> {
    let told = |error: std::io::Error| error.to_string();
    let mut magic = [0; MAGIC.len()];
    input.read_exact(&mut magic).await.map_err(told)?;
    // What an init tells of its surroundings is for a proof, which no stand-in makes.
    while magic == *REPORT_REQUEST {
        output.write_all(b"adrastea-init 1 report 0\n").await.map_err(told)?;
        input.read_exact(&mut magic).await.map_err(told)?;
    }
    if ![MAGIC, STANDBY_MAGIC].contains(&magic.as_slice()) {
        return Err("the claim has another magic".to_owned());
    }
    let mut length = [0; 4];
    input.read_exact(&mut length).await.map_err(told)?;
    let length = u32::from_le_bytes(length);
    if length > CLAIM_LIMIT {
        return Err("the claim is too long".to_owned());
    }
    let mut payload = vec![0; length as usize];
    input.read_exact(&mut payload).await.map_err(|error| error.to_string())?;
    Ok((magic == STANDBY_MAGIC, payload))
}

fn failed(verb: &'static str, thing: &str, why: &'static str) -> EngineError {
    EngineError::Failed { verb, thing: thing.to_owned(), source: Box::new(Told(why)) }
}

#[async_trait]
impl Engine for FakeEngine {
    async fn version(&self) -> Result<String, EngineError> {
        self.record("version", "")?;
        Ok("2.0.0".to_owned())
    }

    async fn create(
        &self,
        id: &SandboxId,
        spec: &Spec,
        _: &Handler,
        stdio: &Stdio,
    ) -> Result<u32, EngineError> {
        self.record("create", id.as_str())?;
        let mut state = self.state();
        if state.sandboxes.contains_key(id.as_str()) {
            return Err(failed("create", id.as_str(), "it exists"));
        }
        // No real process has such a number.
        let pid = 0x4000_0000 + u32::try_from(state.calls.len()).unwrap_or(0);
        let sandbox = Sandbox {
            state: TaskState::Created,
            pid,
            spec: spec.clone(),
            stdio: stdio.clone(),
            claim: None,
            standby: None,
            exit: watch::Sender::new(None),
        };
        state.sandboxes.insert(id.to_string(), sandbox);
        Ok(pid)
    }

    async fn start(&self, id: &SandboxId) -> Result<(), EngineError> {
        self.record("start", id.as_str())?;
        let (stdio, behaviour) = {
            let mut state = self.state();
            let behaviour = state.behaviour;
            match state.sandboxes.get_mut(id.as_str()) {
                Some(sandbox) if sandbox.state == TaskState::Created => {
                    sandbox.state = TaskState::Running;
                    (sandbox.stdio.clone(), behaviour)
                }
                _ => return Err(failed("start", id.as_str(), "no task waits to be started")),
            }
        };
        if stdio.stdin.exists() && stdio.stdout.exists() {
            let (engine, id) = (self.clone(), id.to_string());
            tokio::spawn(async move {
                if let Some(code) = engine.play(&id, &stdio, behaviour).await {
                    engine.end(&id, code);
                }
            });
        }
        Ok(())
    }

    async fn kill(&self, id: &SandboxId, signal: i32) -> Result<(), EngineError> {
        self.record("kill", &format!("{id} {signal}"))?;
        if signal == 9 || !self.state().stubborn {
            let code = 128 + u32::try_from(signal).unwrap_or(0);
            self.finish(id.as_str(), ExitStatus { code, known: true });
        }
        Ok(())
    }

    /// Not counted: when it is called is a matter of scheduling.
    async fn wait(&self, id: &SandboxId) -> Result<ExitStatus, EngineError> {
        let lost = ExitStatus { code: 255, known: false };
        let subscribed = {
            let state = self.state();
            state.sandboxes.get(id.as_str()).map(|sandbox| sandbox.exit.subscribe())
        };
        let Some(mut exit) = subscribed else {
            return Ok(lost);
        };
        // Closed without a status: removed meanwhile.
        let ended = exit.wait_for(Option::is_some).await;
        Ok(ended.ok().and_then(|status| *status).unwrap_or(lost))
    }

    async fn delete(&self, id: &SandboxId) -> Result<(), EngineError> {
        self.record("delete", id.as_str())?;
        self.finish(id.as_str(), ExitStatus { code: 137, known: true });
        self.state().sandboxes.remove(id.as_str());
        Ok(())
    }

    async fn list(&self) -> Result<Vec<EngineSandbox>, EngineError> {
        self.record("list", "")?;
        let state = self.state();
        let describe = |(id, sandbox): (&String, &Sandbox)| EngineSandbox {
            id: id.clone(),
            state: sandbox.state,
            pid: if sandbox.state == TaskState::Stopped { 0 } else { sandbox.pid },
        };
        Ok(state.sandboxes.iter().map(describe).collect())
    }

    async fn image(&self, reference: &str) -> Result<EngineImage, EngineError> {
        self.record("image", reference)?;
        let image = self.state().images.get(reference).cloned();
        image.ok_or_else(|| EngineError::ImageMissing { reference: reference.to_owned() })
    }

    async fn images(&self) -> Result<Vec<EngineImage>, EngineError> {
        self.record("images", "")?;
        let mut images: Vec<_> = self.state().images.values().cloned().collect();
        images.sort_by(|left, right| left.reference.cmp(&right.reference));
        Ok(images)
    }

    /// Takes no archive apart: the image must have been added beforehand.
    async fn import(
        &self,
        archive: &Path,
        reference: &str,
        progress: &(dyn Fn(ImportProgress) + Send + Sync),
    ) -> Result<EngineImage, EngineError> {
        self.record("import", reference)?;
        progress(ImportProgress { step: "importing".to_owned(), done_bytes: 1, total_bytes: 1 });
        let image = self.state().images.get(reference).cloned();
        image.ok_or_else(|| EngineError::BadArchive {
            path: archive.to_owned(),
            reason: "the fake knows no such image".to_owned(),
        })
    }

    /// There is nothing to tidy in memory. Not counted: every sweep asks.
    async fn tidy(&self) -> Result<Vec<Leftover>, EngineError> {
        Ok(Vec::new())
    }

    async fn missing_blobs(&self, digests: &[String]) -> Result<Vec<String>, EngineError> {
        self.record("missing_blobs", "")?;
        Ok(digests.to_vec())
    }

    async fn describe(&self, reference: &str) -> Result<ImageDescription, EngineError> {
        self.record("describe", reference)?;
        if self.state().images.contains_key(reference) {
            Ok(ImageDescription::default())
        } else {
            Err(EngineError::ImageMissing { reference: reference.to_owned() })
        }
    }

    async fn remove_image(&self, reference: &str) -> Result<bool, EngineError> {
        self.record("remove_image", reference)?;
        Ok(self.state().images.remove(reference).is_some())
    }

    async fn collect(&self, live: &[String]) -> Result<(), EngineError> {
        self.record("collect", &live.join(" "))
    }
}

#[cfg(test)]
mod tests;
