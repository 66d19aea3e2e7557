//! The command line. Reads arguments and prints; everything else is elsewhere.

mod bench;
mod client;
mod commands;
mod explain;
mod homes;
mod images;
mod pool;
mod repair;
mod runtimes;
mod serve;
mod stopping;

use std::{path::PathBuf, process::ExitCode};

use crate::say::say;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(
    name = "adrastea",
    version,
    about = "Starts JupyterHub user servers in sandboxes that untrusted users cannot leave"
)]
struct Arguments {
    /// The configuration.
    #[arg(long, global = true, default_value = "/etc/adrastea/adrastea.toml", value_name = "FILE")]
    config: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the launcher.
    Serve,
    /// Tell what this node can do, and what it lacks.
    Doctor {
        /// As one JSON object.
        #[arg(long)]
        json: bool,
        /// Fail, with exit code 2, for a note, too.
        #[arg(long)]
        strict: bool,
    },
    /// Check the configuration, change nothing.
    CheckConfig,
    /// List the runtimes there are, and what each cannot do.
    Runtimes {
        /// Their names alone.
        #[arg(long)]
        names: bool,
    },
    /// Show and steer the sandboxes that wait for users.
    Pool {
        #[command(subcommand)]
        command: Option<PoolCommand>,
    },
    /// List servers.
    Ls {
        /// Those that ended, too.
        #[arg(long)]
        all: bool,
    },
    /// Print what a server wrote.
    Logs {
        #[command(flatten)]
        server: Server,
        /// Go on printing.
        #[arg(long, short)]
        follow: bool,
        /// Only the last so many bytes.
        #[arg(long, default_value_t = 0)]
        tail: u64,
    },
    /// Stop servers, and wait until nothing of them is left.
    Stop {
        #[command(flatten)]
        server: OptionalServer,
        /// Every server of this node.
        #[arg(long)]
        all: bool,
        /// Seconds between SIGTERM and SIGKILL.
        #[arg(long)]
        grace: Option<f64>,
        /// What the user is told; for root.
        #[arg(long, conflicts_with = "all")]
        reason: Option<String>,
    },
    /// Start no servers from now on, until `undrain` or a restart of the launcher.
    Drain {
        /// Stop those that run, too, and wait until nothing of them is left.
        #[arg(long)]
        stop: bool,
        /// Seconds between SIGTERM and SIGKILL.
        #[arg(long, requires = "stop")]
        grace: Option<f64>,
    },
    /// Start servers again.
    Undrain,
    /// Read the configuration again, without a restart. An error changes nothing.
    Reload,
    /// Measure this node's runtimes through the running launcher, and write a report with pictures.
    Bench(bench::Options),
    /// Print what the launcher has counted, in Prometheus' text format.
    Metrics,
    /// Images of this node.
    #[command(subcommand)]
    Image(images::ImageCommand),
    /// Tell what a start would get, and which rule says so. Starts and changes nothing.
    Explain {
        #[command(flatten)]
        server: Server,
        #[arg(long, default_value = "")]
        profile: String,
        #[arg(long, default_value = "")]
        runtime: String,
        #[arg(long, default_value = "")]
        image: String,
        /// As one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Tell what a sandbox got, and how it stands.
    Inspect {
        /// As `ls` prints it.
        #[arg(required_unless_present = "user", conflicts_with = "user")]
        sandbox: Option<String>,
        #[arg(long)]
        user: Option<String>,
        #[arg(long = "server", default_value = "")]
        name: String,
        /// The hub whose user it is.
        #[arg(long, default_value = "jupyterhub")]
        hub: String,
        /// As one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Homes: those in use, and those of deleted users.
    #[command(subcommand)]
    Home(HomeCommand),
    /// Start a sandbox as a user's server would get it, with another command.
    Run {
        #[command(flatten)]
        server: Server,
        #[arg(long, default_value = "")]
        profile: String,
        #[arg(long, default_value = "")]
        runtime: String,
        /// Say what happens, on standard error.
        #[arg(long, short)]
        verbose: bool,
        /// The command and its arguments.
        #[arg(required = true, last = true)]
        command: Vec<String>,
    },
    /// Look at the ledger of ids, tell what is wrong with it, and mend it. The launcher must not run.
    Repair {
        /// Explain, and change nothing.
        #[arg(long, conflicts_with = "yes")]
        dry_run: bool,
        /// Do not ask.
        #[arg(long)]
        yes: bool,
    },
    /// Print the version.
    Version,
    /// Used by the launcher itself: empties its standard input, a directory, with its owner's rights.
    #[command(hide = true, name = crate::host::removal::COMMAND)]
    EmptyDirectory { uid: u32, gid: u32 },
}

#[derive(clap::Args)]
struct Server {
    #[arg(long)]
    user: String,
    #[arg(long = "server", default_value = "")]
    name: String,
    /// The hub whose user it is.
    #[arg(long, default_value = "jupyterhub")]
    hub: String,
}

#[derive(clap::Args)]
struct OptionalServer {
    #[arg(long, required_unless_present = "all")]
    user: Option<String>,
    #[arg(long = "server", default_value = "")]
    name: String,
    /// The hub whose user it is.
    #[arg(long, default_value = "jupyterhub")]
    hub: String,
}

#[derive(Subcommand)]
enum PoolCommand {
    /// List what waits, what it costs, and how often it was there.
    Ls,
    /// Take waiting sandboxes away, and make no new ones until `refill`.
    Drain {
        /// Of this profile alone.
        profile: Option<String>,
    },
    /// Make waiting sandboxes again, now.
    Refill {
        /// Of this profile alone.
        profile: Option<String>,
    },
}

#[derive(Subcommand)]
enum HomeCommand {
    /// List the homes that are set aside.
    Ls {
        /// Those in use, too.
        #[arg(long)]
        all: bool,
    },
    /// Remove a home that is set aside, for good; returns when nothing of it is left.
    Purge {
        /// As `home ls` prints it.
        name: String,
    },
    /// Give a home that is set aside back to its user, with its ids.
    Restore {
        /// As `home ls` prints it.
        name: String,
    },
}

/// Runs the command line; errors are printed once, here, with their causes and a hint.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("adrastea: failed to start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(dispatch(arguments));
    // Threads that wait for the kernel must not hold up the end.
    runtime.shutdown_background();
    result.unwrap_or_else(|error| {
        eprintln!("adrastea: {}", explain(&error));
        if let Some(hint) = hint(&error) {
            eprintln!("hint: {hint}");
        }
        ExitCode::FAILURE
    })
}

/// What somebody can do about it, if the error or one of its sources knows.
fn hint(error: &anyhow::Error) -> Option<String> {
    use crate::{config::ConfigError, store::StoreError};
    error.chain().find_map(|cause| {
        let of_config = cause.downcast_ref::<ConfigError>().and_then(ConfigError::hint);
        let of_store = || cause.downcast_ref::<StoreError>().and_then(StoreError::hint);
        of_config.or_else(|| of_store().map(str::to_owned))
    })
}

fn explain(error: &anyhow::Error) -> String {
    crate::launch::failure::chain(error.as_ref())
}

async fn dispatch(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let config = &arguments.config;
    match arguments.command {
        Command::Serve => serve::serve(config).await,
        Command::Doctor { json, strict } => Ok(crate::doctor::print(config, json, strict).await),
        Command::CheckConfig => {
            let checked = crate::config::Config::load(config, false)?;
            say!(
                "{}: {} profiles, {} images, {} runtimes; no problem found",
                config.display(),
                checked.profiles.len(),
                checked.images.len(),
                checked.runtimes.len()
            );
            Ok(ExitCode::SUCCESS)
        }
        Command::Runtimes { names } => {
            runtimes::list(names);
            Ok(ExitCode::SUCCESS)
        }
        Command::Ls { all } => commands::list(config, all).await,
        Command::Logs { server, follow, tail } => {
            commands::logs(config, server, follow, tail).await
        }
        Command::Stop { server, all, grace, reason } => {
            stopping::stop(config, server, all, grace, reason).await
        }
        Command::Drain { stop, grace } => stopping::drain(config, stop, grace).await,
        Command::Undrain => stopping::undrain(config).await,
        Command::Reload => commands::reload(config).await,
        Command::Bench(options) => bench::bench(config, options).await,
        Command::Pool { command } => match command.unwrap_or(PoolCommand::Ls) {
            PoolCommand::Ls => pool::list(config).await,
            PoolCommand::Drain { profile } => pool::drain(config, profile).await,
            PoolCommand::Refill { profile } => pool::refill(config, profile).await,
        },
        Command::Metrics => commands::metrics(config).await,
        Command::Image(command) => images::run(config, command).await,
        Command::Explain { server, profile, runtime, image, json } => {
            let start = adrastea_proto::v1::StartRequest {
                key: Some(server.key()),
                profile,
                runtime,
                image,
                ..Default::default()
            };
            explain::explain(config, start, json).await
        }
        Command::Inspect { sandbox, user, name, hub, json } => {
            let key = user.map(|user| adrastea_proto::v1::ServerKey { hub, user, server: name });
            explain::inspect(config, sandbox.unwrap_or_default(), key, json).await
        }
        Command::Home(HomeCommand::Ls { all }) => homes::list(config, all).await,
        Command::Home(HomeCommand::Purge { name }) => homes::purge(config, name).await,
        Command::Home(HomeCommand::Restore { name }) => homes::restore(config, name).await,
        Command::EmptyDirectory { uid, gid } => homes::empty_directory(uid, gid),
        Command::Run { server, profile, runtime, verbose, command } => {
            commands::run(config, server, profile, runtime, verbose, command).await
        }
        Command::Repair { dry_run, yes } => {
            let answer = match (dry_run, yes) {
                (true, _) => repair::Answer::Never,
                (false, true) => repair::Answer::Yes,
                (false, false) => repair::Answer::Ask,
            };
            repair::repair(config, answer)
        }
        Command::Version => {
            say!("adrastea {}", env!("CARGO_PKG_VERSION"));
            Ok(ExitCode::SUCCESS)
        }
    }
}
