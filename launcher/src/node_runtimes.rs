//! Which of the configured runtimes this node can run, and what the engine is to call.
//!
//! What cannot be run is told with the reason. Must never put another runtime in the
//! place of one that is missing.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    thread,
};

use adrastea_proto::v1::FailureReason;
use adrastea_runtimes::{Runtime, RuntimeSettings};

use crate::{
    boot,
    config::Config,
    config_runtimes::RuntimeConfig,
    host::{HostError, commands, wrapper},
    launch::{
        RuntimeState,
        failure::{Failure, chain},
    },
    self_test::{self, Answer},
};

fn missing(message: String, hint: &str) -> Failure {
    Failure::new(FailureReason::RuntimeMissing, message, hint)
}

/// Whether it is installed and not below the floor.
pub fn installed(config: &Config, name: &str, runtime: &RuntimeConfig) -> RuntimeState {
    let driver =
        config.driver(name).ok_or_else(|| missing(format!("there is no runtime `{name}`"), ""))?;
    let printed = commands::output(&runtime.binary, &["--version"])
        .map_err(|error| missing(chain(&error), "install it, or set its path under [runtimes]"))?;
    let checked = driver
        .version_floor()
        .admit(&printed, &runtime.accept_vulnerable, runtime.version_floor)
        .map_err(|error| missing(chain(&error), error.hint()))?;
    for hole in &checked.accepted {
        tracing::warn!(runtime = name, version = %checked.version, hole = hole.name, "running a runtime with a known way out, because the configuration accepts it");
    }
    Ok(RuntimeSettings {
        binary: runtime.binary.clone(),
        program: printed.split_whitespace().next().unwrap_or_default().to_owned(),
        root: boot::layout(config).runtime_root(name),
        version: checked.version,
    })
}

/// Whether it can start a sandbox here, and what is known of that.
pub fn tried(
    config: &Config,
    name: &str,
    settings: RuntimeSettings,
) -> Result<(RuntimeSettings, Answer), Failure> {
    let Some(driver) = config.driver(name) else {
        return Err(missing(format!("there is no runtime `{name}`"), ""));
    };
    let program = |directory: &Path| callable(driver, &settings, directory);
    match self_test::ask(config, name, driver, &settings, &program) {
        Answer::Cannot(reason) => Err(missing(
            format!("runtime `{name}` starts no sandbox on this node: {reason}"),
            "see what it lacks here; it is asked again when the launcher starts, and by `adrastea doctor`",
        )),
        answer => Ok((settings, answer)),
    }
}

/// What the engine calls: the program itself, or ours before it, in that directory.
fn callable(
    driver: &dyn Runtime,
    settings: &RuntimeSettings,
    directory: &Path,
) -> Result<PathBuf, HostError> {
    let swaps_masks = driver.swaps_masks(&settings.program, settings.version);
    if driver.flags().is_empty() && !swaps_masks {
        return Ok(settings.binary.clone());
    }
    let orders = wrapper::Orders {
        program: settings.binary.clone(),
        flags: driver.flags().iter().map(ToString::to_string).collect(),
        hides_network_settings: driver.hides_network_settings(settings.version),
        swaps_masks,
    };
    wrapper::install(directory, &orders)
}

fn state(config: &Config, name: &str, runtime: &RuntimeConfig) -> RuntimeState {
    let (settings, answer) = tried(config, name, installed(config, name, runtime)?)?;
    match answer {
        Answer::Starts(Some(took)) => {
            tracing::info!(
                runtime = name,
                milliseconds = took.as_millis(),
                "runtime starts a sandbox here"
            );
        }
        Answer::Unknown(reason) => tracing::warn!(
            runtime = name,
            reason,
            "it was not tried whether the runtime can start a sandbox here"
        ),
        Answer::Starts(None) | Answer::Cannot(_) => {}
    }
    let Some(driver) = config.driver(name) else { return Ok(settings) };
    let wrappers = config.run_directory().join("wrappers").join(name);
    let binary = callable(driver, &settings, &wrappers)?;
    Ok(RuntimeSettings { binary, ..settings })
}

/// The state of every configured runtime, said aloud; they are tried side by side.
pub fn all(config: &Config) -> BTreeMap<String, RuntimeState> {
    let states: BTreeMap<_, _> = thread::scope(|scope| {
        let asked: Vec<_> = config
            .runtimes
            .iter()
            .map(|(name, runtime)| (name, scope.spawn(move || state(config, name, runtime))))
            .collect();
        let lost = || missing("asking the runtime ended early".into(), "report it");
        let answers = asked.into_iter();
        answers
            .map(|(name, asked)| (name.clone(), asked.join().unwrap_or_else(|_| Err(lost()))))
            .collect()
    });
    for (name, state) in &states {
        match state {
            Ok(settings) => {
                tracing::info!(runtime = name, binary = %settings.binary.display(), "runtime is ready");
            }
            Err(failure) => tracing::error!(
                runtime = name,
                message = failure.message,
                hint = failure.hint,
                "runtime cannot be used"
            ),
        }
    }
    states
}
