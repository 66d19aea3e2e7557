//! Containers and their tasks: create, start, kill, wait, delete, list.
//!
//! Removal tolerates absence everywhere; [`Containerd::wait_task`] outlives a
//! restart of containerd. Must never cancel a running tasks.Create: that
//! orphans its shim and spoils the id.

use std::{collections::HashMap, path::Path, time::Duration};

use containerd_client::{
    services::v1::{
        Container, CreateContainerRequest, CreateTaskRequest, DeleteContainerRequest,
        DeleteTaskRequest, GetRequest, KillRequest, ListContainersRequest, ListTasksRequest,
        StartRequest, WaitRequest, containers_client::ContainersClient, tasks_client::TasksClient,
    },
    types::v1::{Process, Status},
};
use oci_spec::runtime::Spec;
use tokio::{
    sync::oneshot,
    time::{Instant, sleep, timeout},
};
use tonic::Code;

use super::{
    Containerd, INSTANCE_LABEL, LONG, SHORT,
    call::{CallError, failed},
    options, shim_socket,
};
use crate::{
    engine::{EngineError, EngineSandbox, ExitStatus, Handler, Stdio, TaskState},
    plan::SandboxId,
};

/// How long a create nobody waits for any more may still take before its
/// connection is given up.
const ABANDONED: Duration = Duration::from_secs(120);
/// From SIGKILL until everything of a task is gone.
const REMOVAL: Duration = Duration::from_secs(20);
/// containerd's own code for "ended, nobody knows how".
const UNKNOWN_EXIT: u32 = 255;

impl Containerd {
    /// Container and task; what was made is removed again on any failure, and
    /// also when the caller has gone away meanwhile.
    pub(super) async fn create_sandbox(
        &self,
        id: &SandboxId,
        spec: &Spec,
        handler: &Handler,
        stdio: &Stdio,
    ) -> Result<u32, EngineError> {
        let container = Container {
            id: id.to_string(),
            labels: HashMap::from([(INSTANCE_LABEL.to_owned(), self.inner.namespace.clone())]),
            runtime: Some(options::runtime(handler)),
            spec: Some(options::spec(spec, handler.annotation).map_err(|source| {
                EngineError::Failed {
                    verb: "encode the spec of",
                    thing: id.to_string(),
                    source: Box::new(source),
                }
            })?),
            ..Container::default()
        };
        let stdout = stdio.stdout.to_string_lossy().into_owned();
        let task = CreateTaskRequest {
            container_id: id.to_string(),
            stdin: stdio.stdin.to_string_lossy().into_owned(),
            stderr: stdout.clone(),
            stdout,
            ..CreateTaskRequest::default()
        };

        let (sender, receiver) = oneshot::channel();
        let engine = self.clone();
        let name = id.to_string();
        tokio::spawn(async move {
            let result = engine.create_both(container, task).await;
            if sender.send(result).is_err() {
                tracing::warn!(sandbox = name, "created too late, removing it");
                engine.undo_create(&name).await;
            }
        });
        match timeout(LONG, receiver).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(failed("create", id.as_str(), "the creating task ended early")),
            Err(_) => {
                Err(EngineError::Timeout { verb: "create", thing: id.to_string(), after: LONG })
            }
        }
    }

    async fn create_both(
        &self,
        container: Container,
        task: CreateTaskRequest,
    ) -> Result<u32, EngineError> {
        let id = container.id.clone();
        let request = self.request(CreateContainerRequest { container: Some(container) });
        let created = self
            .call(SHORT, |channel| async { ContainersClient::new(channel).create(request).await })
            .await;
        // An id that exists is not ours to remove.
        if let Err(error) = created {
            if !error.is(Code::AlreadyExists) {
                self.undo_create(&id).await;
            }
            return Err(self.error("create container", &id)(error));
        }

        let request = self.request(task);
        let created = self
            .call(ABANDONED, |channel| async {
                Ok(TasksClient::new(channel).create(request).await?.into_inner().pid)
            })
            .await;
        if created.is_err() {
            self.undo_create(&id).await;
        }
        created.map_err(self.error("create task", &id))
    }

    async fn undo_create(&self, id: &str) {
        if let Err(error) = self.delete_sandbox(id).await {
            tracing::warn!(sandbox = id, %error, "failed to remove a container half made");
        }
    }

    pub(super) async fn start_task(&self, id: &str) -> Result<(), EngineError> {
        let request =
            self.request(StartRequest { container_id: id.to_owned(), exec_id: String::new() });
        self.call(LONG, |channel| async { TasksClient::new(channel).start(request).await })
            .await
            .map(|_| ())
            .map_err(self.error("start", id))
    }

    pub(super) async fn kill_task(&self, id: &str, signal: i32) -> Result<(), EngineError> {
        let signal = u32::try_from(signal).map_err(|source| EngineError::Failed {
            verb: "signal",
            thing: id.to_owned(),
            source: Box::new(source),
        })?;
        let request = self.request(KillRequest {
            container_id: id.to_owned(),
            exec_id: String::new(),
            signal,
            all: false,
        });
        let killing = self
            .call(SHORT, |channel| async { TasksClient::new(channel).kill(request).await })
            .await;
        match killing {
            Err(error) if !error.is_absence() => Err(self.error("signal", id)(error)),
            _ => Ok(()),
        }
    }

    /// The engine's call ends with the connection, so it is followed by asking
    /// for the state until the state says that the task has ended.
    pub(super) async fn wait_task(&self, id: &str) -> Result<ExitStatus, EngineError> {
        let mut pause = Duration::from_millis(50);
        loop {
            match self.wait_once(id).await {
                Ok(code) => return Ok(ExitStatus { code, known: true }),
                Err(error) => tracing::debug!(sandbox = id, ?error, "wait was interrupted"),
            }
            match self.process(id, SHORT).await {
                Ok(process) if process.status() == Status::Stopped => {
                    return Ok(ExitStatus { code: process.exit_status, known: true });
                }
                Ok(_) | Err(CallError::Unreachable(_) | CallError::Late(_)) => {}
                Err(error) if error.is_absence() => {
                    return Ok(ExitStatus { code: UNKNOWN_EXIT, known: false });
                }
                Err(error) => return Err(self.error("wait for", id)(error)),
            }
            sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(1));
        }
    }

    async fn wait_once(&self, id: &str) -> Result<u32, CallError> {
        let request =
            self.request(WaitRequest { container_id: id.to_owned(), exec_id: String::new() });
        self.call_unbounded(|channel| async {
            Ok(TasksClient::new(channel).wait(request).await?.into_inner().exit_status)
        })
        .await
    }

    async fn process(&self, id: &str, deadline: Duration) -> Result<Process, CallError> {
        let request =
            self.request(GetRequest { container_id: id.to_owned(), exec_id: String::new() });
        self.call(deadline, |channel| async {
            Ok(TasksClient::new(channel).get(request).await?.into_inner().process)
        })
        .await?
        .ok_or_else(|| CallError::Refused {
            code: Code::Internal,
            message: "containerd answered without a process".to_owned(),
        })
    }

    pub(super) async fn delete_sandbox(&self, id: &str) -> Result<(), EngineError> {
        self.delete_task(id).await?;
        let request = self.request(DeleteContainerRequest { id: id.to_owned() });
        let deleting = self
            .call(SHORT, |channel| async { ContainersClient::new(channel).delete(request).await });
        match deleting.await {
            Err(error) if !error.is_absence() => Err(self.error("delete container", id)(error)),
            _ => {
                let root = Path::new(shim_socket::ROOT);
                shim_socket::remove_left(root, &self.inner.socket, &self.inner.namespace, id);
                Ok(())
            }
        }
    }

    /// Kill, wait, delete, and again: a task in the middle of a change of state
    /// refuses either for a moment.
    async fn delete_task(&self, id: &str) -> Result<(), EngineError> {
        let until = Instant::now() + REMOVAL;
        let mut pause = Duration::from_millis(20);
        loop {
            let error = match self.kill_and_delete(id).await {
                Ok(()) => return Ok(()),
                Err(error) if error.is_absence() => return Ok(()),
                Err(error @ CallError::Unreachable(_)) => {
                    return Err(self.error("delete task", id)(error));
                }
                Err(error) => error,
            };
            if Instant::now() + pause > until {
                return Err(self.error("delete task", id)(error));
            }
            sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(1));
        }
    }

    async fn kill_and_delete(&self, id: &str) -> Result<(), CallError> {
        if self.process(id, SHORT).await?.status() != Status::Stopped {
            // Its failure shows in what follows.
            let _ = self.kill_task(id, 9).await;
            let _ = timeout(Duration::from_secs(5), self.wait_once(id)).await;
        }
        let request = self.request(DeleteTaskRequest { container_id: id.to_owned() });
        self.call(LONG, |channel| async { TasksClient::new(channel).delete(request).await })
            .await
            .map(|_| ())
    }

    pub(super) async fn list_sandboxes(&self) -> Result<Vec<EngineSandbox>, EngineError> {
        let mut found: HashMap<String, EngineSandbox> = HashMap::new();
        for id in self.container_ids().await.map_err(self.error("list", "containers"))? {
            let sandbox = EngineSandbox { id: id.clone(), state: TaskState::None, pid: 0 };
            found.insert(id, sandbox);
        }
        let request = self.request(ListTasksRequest::default());
        let tasks = self
            .call(LONG, |channel| async {
                Ok(TasksClient::new(channel).list(request).await?.into_inner().tasks)
            })
            .await
            .map_err(self.error("list", "tasks"))?;
        for task in tasks {
            let state = match task.status() {
                Status::Created => TaskState::Created,
                Status::Stopped => TaskState::Stopped,
                // A shim that does not answer is not dead.
                Status::Running | Status::Paused | Status::Pausing | Status::Unknown => {
                    TaskState::Running
                }
            };
            // The task service calls it by its own id where there is no container.
            let id = if task.container_id.is_empty() { task.id } else { task.container_id };
            let pid = if state == TaskState::Stopped { 0 } else { task.pid };
            found.insert(id.clone(), EngineSandbox { id, state, pid });
        }
        let mut sandboxes: Vec<_> = found.into_values().collect();
        sandboxes.sort_by(|left, right| left.id.cmp(&right.id));
        Ok(sandboxes)
    }

    /// By a stream: a plain list carries every spec in one message, which
    /// outgrows the message limit at a few hundred containers.
    async fn container_ids(&self) -> Result<Vec<String>, CallError> {
        let request = self.request(ListContainersRequest::default());
        self.call(LONG, |channel| async {
            let mut stream =
                ContainersClient::new(channel).list_stream(request).await?.into_inner();
            let mut ids = Vec::new();
            while let Some(message) = stream.message().await? {
                ids.extend(message.container.map(|container| container.id));
            }
            Ok(ids)
        })
        .await
    }
}
