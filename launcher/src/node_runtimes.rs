//! Which of the configured runtimes this node can run, and what the engine is to call.
//!
//! What cannot be run is told with the reason. Must never put another runtime in the
//! place of one that is missing.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
};

use adrastea_proto::v1::FailureReason;
use adrastea_runtimes::{Kernel, Runtime, RuntimeSettings, ShimFiles, engine::Engine};
use tokio::{runtime::Handle, task::JoinError};

use crate::{
    boot,
    config::Config,
    config_runtimes::RuntimeConfig,
    host::{HostError, commands, directories, wrapper},
    launch::{
        RuntimeState,
        failure::{Failure, chain},
    },
    self_test::{self, Answer},
};

/// What a shim of a runtime's own reads, beside the launcher's program.
const SHIM_CONFIGURATION: &str = "shim.toml";

fn missing(message: String, hint: &str) -> Failure {
    Failure::new(FailureReason::RuntimeMissing, message, hint)
}

/// Whether it is installed and not below the floor.
pub fn installed(config: &Config, name: &str, runtime: &RuntimeConfig) -> RuntimeState {
    let driver =
        config.driver(name).ok_or_else(|| missing(format!("there is no runtime `{name}`"), ""))?;
    let printed = commands::output(&runtime.binary, &["--version"])
        .map_err(|error| missing(chain(&error), "install it, or set its path under [runtimes]"))?;
    if let Some(reason) = driver.refuses_program(&printed) {
        return Err(missing(
            format!("runtime `{name}`: `{}` cannot be used: {reason}", runtime.binary.display()),
            "set runtimes.<name>.binary to the one in Rust, of Kata's `runtime-rs`",
        ));
    }
    if driver.kernel() == Kernel::Machine {
        let machine = runtime.machine.clone().unwrap_or_default();
        if let Some((key, path)) = machine.files().into_iter().find(|(_, path)| !path.is_file()) {
            return Err(missing(
                format!("runtime `{name}`: there is no file `{}`", path.display()),
                &format!("install it, or set runtimes.{name}.machine.{key}"),
            ));
        }
    }
    if let Some(shim) = &runtime.shim {
        commands::output(shim, &["-v"]).map_err(|error| {
            missing(chain(&error), &format!("install it, or remove runtimes.{name}.shim"))
        })?;
    }
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
        machine: runtime.machine_files(driver),
        // Its file is written where the launcher's own program is put before the runtime.
        shim: runtime.shim.clone().map(|program| ShimFiles {
            program,
            configuration: wrappers(config, name).join(SHIM_CONFIGURATION),
        }),
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
    if driver.kernel() == Kernel::Machine {
        let unknown = || {
            let reason = "a machine is started through the engine, when the launcher starts";
            Answer::Unknown(reason.into())
        };
        let answer = self_test::remembered(config, name, &settings).unwrap_or_else(unknown);
        return Ok((settings, answer));
    }
    let program = |directory: &Path| callable(driver, &settings, directory);
    match self_test::ask(config, name, driver, &settings, &program) {
        Answer::Cannot(reason) => Err(starts_none(name, &reason)),
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
    if driver.flags().is_empty() && !swaps_masks && settings.shim.is_none() {
        return Ok(settings.binary.clone());
    }
    let own_shim = driver.own_shim().filter(|_| settings.shim.is_some());
    let orders = wrapper::Orders {
        program: settings.binary.clone(),
        flags: driver.flags().iter().map(ToString::to_string).collect(),
        hides_network_settings: driver.hides_network_settings(settings.version),
        swaps_masks,
        shim: own_shim.map(|own| wrapper::ForShim {
            annotation: own.annotation.0.to_owned(),
            root: settings.root.clone(),
        }),
    };
    let callable = wrapper::install(directory, &orders)?;
    if let Some(own) = own_shim {
        let text = (own.configuration)(&callable, &settings.root);
        let file = directory.join(SHIM_CONFIGURATION);
        directories::write_atomically(&file, text.as_bytes(), 0o600)?;
    }
    Ok(callable)
}

fn wrappers(config: &Config, name: &str) -> PathBuf {
    config.run_directory().join("wrappers").join(name)
}

/// Has each runtime that starts machines start one, through the engine. None is offered that was
/// not seen to, with every wall standing.
pub async fn try_machines(
    config: &Config,
    engine: &Arc<dyn Engine>,
    states: &mut BTreeMap<String, RuntimeState>,
) -> Result<(), JoinError> {
    for (name, state) in states.iter_mut() {
        let Some(driver) = config.driver(name).filter(|it| it.kernel() == Kernel::Machine) else {
            continue;
        };
        let Ok(settings) = state.clone() else { continue };
        let (config, asked, engine) = (config.clone(), name.clone(), Arc::clone(engine));
        let work = Handle::current();
        let answer = tokio::task::spawn_blocking(move || {
            self_test::ask_machine(&config, &asked, driver, &settings, engine.as_ref(), &work)
        })
        .await?;
        if let Some(why) = driver.unproved() {
            tracing::warn!(runtime = name, why, "an experimental runtime is switched on");
        }
        match answer {
            Answer::Starts(took) => tracing::info!(
                runtime = name,
                milliseconds = took.map(|took| took.as_millis()),
                "runtime starts a machine here, and every wall stands"
            ),
            Answer::Cannot(reason) | Answer::Unknown(reason) => {
                tracing::error!(runtime = name, reason, "runtime starts no machine here");
                *state = Err(starts_none(name, &reason));
            }
        }
    }
    Ok(())
}

fn starts_none(name: &str, reason: &str) -> Failure {
    missing(
        format!("runtime `{name}` starts no sandbox on this node: {reason}"),
        "see what it lacks here; it is asked again when the launcher starts, and by `adrastea doctor`",
    )
}

fn state(config: &Config, name: &str, runtime: &RuntimeConfig) -> RuntimeState {
    let settings = installed(config, name, runtime)?;
    if config.driver(name).is_some_and(|driver| driver.kernel() == Kernel::Machine) {
        return Ok(settings);
    }
    let (settings, answer) = tried(config, name, settings)?;
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
    let binary = callable(driver, &settings, &wrappers(config, name))?;
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
            Ok(settings) if settings.machine.is_some() => {
                let binary = settings.binary.display();
                tracing::info!(runtime = name, %binary, "runtime is installed; it is tried through the engine");
            }
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
