//! Trials side by side, each with an instance of its own or a shared one; and a
//! last one that looks for what all of them left on the host.

use std::{
    process::ExitCode,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context as _, anyhow, ensure};
use libtest_mimic::{Arguments, Failed, Trial};
use tokio::{runtime::Runtime, sync::OnceCell};

use crate::{Instance, Options, column, machines, remains};

/// How many trials run at once unless `--test-threads` says otherwise.
const THREADS: usize = 4;

pub struct Suite {
    runtime: Arc<Runtime>,
    shared: Arc<OnceCell<Result<Arc<Instance>, String>>>,
    options: Options,
    trials: Vec<Trial>,
    own: Arc<Mutex<()>>,
}

fn outcome(result: anyhow::Result<()>) -> Result<(), Failed> {
    result.map_err(|error| Failed::from(format!("{error:#}")))
}

impl Suite {
    /// `options` are those of the shared instance.
    pub fn new(options: Options) -> anyhow::Result<Self> {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build()?;
        Ok(Self {
            runtime: Arc::new(runtime),
            shared: Arc::new(OnceCell::new()),
            options,
            trials: Vec::new(),
            own: Arc::default(),
        })
    }

    /// A trial without an instance; not again in a column that only claims.
    pub fn plain(&mut self, name: &str, act: impl FnOnce() -> anyhow::Result<()> + Send + 'static) {
        if !column::claims() {
            self.plain_everywhere(name, act);
        }
    }

    /// The same in every column: a trial that makes its instance itself.
    pub fn plain_everywhere(
        &mut self,
        name: &str,
        act: impl FnOnce() -> anyhow::Result<()> + Send + 'static,
    ) {
        self.trials.push(Trial::test(name, move || outcome(act())));
    }

    /// A trial on the instance that all such trials share: with a user of its own, and leaving the launcher alone.
    pub fn shared<F>(&mut self, name: &str, act: impl FnOnce(Arc<Instance>) -> F + Send + 'static)
    where
        F: Future<Output = anyhow::Result<()>> + Send,
    {
        let (runtime, shared, options) =
            (Arc::clone(&self.runtime), Arc::clone(&self.shared), self.options.clone());
        self.trials.push(Trial::test(name, move || {
            outcome(runtime.block_on(async {
                let make = || async {
                    Instance::new(&options)
                        .await
                        .map(Arc::new)
                        .map_err(|error| format!("{error:#}"))
                };
                let instance = shared.get_or_init(make).await.clone();
                act(instance
                    .map_err(|error| anyhow!("the shared instance did not start: {error}"))?)
                .await
            }))
        }));
    }

    /// A trial that may do anything to an instance of its own.
    pub fn own<F>(
        &mut self,
        name: &str,
        options: Options,
        act: impl FnOnce(Arc<Instance>) -> F + Send + 'static,
    ) where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let (runtime, turn) = (Arc::clone(&self.runtime), Arc::clone(&self.own));
        self.trials.push(Trial::test(name, move || {
            // Two at once would only stretch each other's deadlines.
            let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
            outcome(runtime.block_on(async {
                let instance = Arc::new(Instance::new(&options).await?);
                let acted = tokio::spawn(act(Arc::clone(&instance))).await;
                let log = instance.launcher_log();
                let finished = instance.finish().await;
                match acted {
                    Ok(Ok(())) => finished,
                    Ok(Err(error)) => {
                        Err(error.context(format!("the launcher's log ends:\n{log}\n")))
                    }
                    Err(panic) => Err(anyhow!("{panic}\nthe launcher's log ends:\n{log}")),
                }
            }))
        }));
    }

    /// A trial that this machine cannot run; the reason is shown and it never counts as passed.
    pub fn ignored(&mut self, name: &str, reason: &str) {
        let trial = Trial::test(format!("{name} [ignored: {reason}]"), || Ok(()));
        self.trials.push(trial.with_ignored_flag(true));
    }

    /// Trials that say nothing under one runtime, each with the reason.
    pub fn not_under(&mut self, runtime: &str, trials: &[(&str, &str)]) -> anyhow::Result<()> {
        for (name, reason) in trials {
            // Under the runtime of an earlier list it is ignored already, with that list's reason.
            let ignored = format!("{name} [ignored: ");
            let is_it = |trial: &Trial| trial.name() == *name || trial.name().starts_with(&ignored);
            let place = self.trials.iter().position(is_it);
            let place = place.with_context(|| format!("there is no trial `{name}`"))?;
            if column::runtime() == runtime {
                self.trials.remove(place);
                self.ignored(name, reason);
            }
        }
        Ok(())
    }

    /// Where this machine cannot run the column's runtime at all, every trial says so instead of
    /// running: none of them is started.
    fn without_runtime(&mut self, reason: &str) {
        for trial in std::mem::take(&mut self.trials) {
            if trial.has_ignored_flag() {
                self.trials.push(trial);
            } else {
                self.ignored(trial.name(), reason);
            }
        }
    }

    /// Runs all, ends the shared instance, and looks at the host.
    pub fn run(mut self) -> ExitCode {
        if column::is_of_machines()
            && let Some(reason) = machines::why_none()
        {
            self.without_runtime(&reason);
        }
        let mut arguments = Arguments::from_args();
        arguments.test_threads.get_or_insert(THREADS);
        let conclusion = libtest_mimic::run(&arguments, self.trials);
        if arguments.list {
            return conclusion.exit_code();
        }
        let ended = self.runtime.block_on(async {
            match self.shared.get() {
                Some(Ok(instance)) => end_shared(instance).await,
                _ => Ok(()),
            }
        });
        drop(self.shared);
        match ended.and_then(|()| nothing_on_host()) {
            Ok(()) => conclusion.exit_code(),
            Err(error) => {
                println!("FAILED after the last test: {error:#}");
                ExitCode::FAILURE
            }
        }
    }
}

async fn end_shared(instance: &Arc<Instance>) -> anyhow::Result<()> {
    let request = adrastea_proto::v1::StopAllRequest { grace_ms: Some(0) };
    instance.admin().await?.stop_all(request).await?;
    instance.turn_pool("drain")?;
    let left = instance.nothing_left(std::time::Duration::from_secs(10));
    let finished = instance.finish().await;
    left.and(finished)
}

/// Nothing on the host carries the name of an instance of this process.
fn nothing_on_host() -> anyhow::Result<()> {
    let own = format!("at{}-", std::process::id());
    let snapshot = String::from_utf8(remains::of_host()?)?;
    let left: Vec<_> = snapshot.lines().filter(|line| line.contains(&own)).collect();
    ensure!(left.is_empty(), "the tests left something on the host:\n{}", left.join("\n"));
    Ok(())
}
