//! Which of the configured runtimes this node can run, and what the engine is to call.
//!
//! What cannot be run is told with the reason. Must never put another runtime in the
//! place of one that is missing.

use std::collections::BTreeMap;

use adrastea_proto::v1::FailureReason;
use adrastea_runtimes::RuntimeSettings;

use crate::{
    boot,
    config::Config,
    config_runtimes::RuntimeConfig,
    host::{commands, wrapper},
    launch::{
        RuntimeState,
        failure::{Failure, chain},
    },
};

fn missing(message: String, hint: &str) -> Failure {
    Failure::new(FailureReason::RuntimeMissing, message, hint)
}

/// Whether it is installed and not below the floor.
pub fn installed(config: &Config, name: &str, runtime: &RuntimeConfig) -> RuntimeState {
    let driver = config
        .driver(name)
        .ok_or_else(|| missing(format!("there is no runtime `{name}`"), ""))?;
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
        root: boot::layout(config).runtime_root(name),
        version: checked.version,
    })
}

/// What the engine calls: the program, or ours before it.
fn callable(config: &Config, name: &str, settings: RuntimeSettings) -> RuntimeState {
    let Some(driver) = config.driver(name).filter(|it| !it.flags().is_empty()) else {
        return Ok(settings);
    };
    let orders = wrapper::Orders {
        program: settings.binary,
        flags: driver.flags().iter().map(ToString::to_string).collect(),
        hides_network_settings: driver.hides_network_settings(settings.version),
    };
    let binary = wrapper::install(&config.run_directory().join("wrappers").join(name), &orders)?;
    Ok(RuntimeSettings { binary, ..settings })
}

/// The state of every configured runtime, said aloud.
pub fn all(config: &Config) -> BTreeMap<String, RuntimeState> {
    let state = |name: &String, runtime| {
        installed(config, name, runtime).and_then(|settings| callable(config, name, settings))
    };
    let states: BTreeMap<_, _> =
        config.runtimes.iter().map(|(name, it)| (name.clone(), state(name, it))).collect();
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
