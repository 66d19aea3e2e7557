//! The command line. Reads arguments and prints; everything else is elsewhere.

mod client;
mod commands;
mod serve;

use std::{path::PathBuf, process::ExitCode};

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
    Doctor,
    /// Check the configuration, change nothing.
    CheckConfig,
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
    },
    /// Images of this node.
    #[command(subcommand)]
    Image(ImageCommand),
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
    /// Print the version.
    Version,
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
enum ImageCommand {
    /// Import an OCI archive.
    Import {
        archive: PathBuf,
        /// The name it gets on this node, e.g. localhost/adrastea/singleuser:1
        reference: String,
    },
    /// List images.
    Ls,
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
        if let Some(hint) = error
            .downcast_ref::<crate::config::ConfigError>()
            .and_then(crate::config::ConfigError::hint)
        {
            eprintln!("hint: {hint}");
        }
        ExitCode::FAILURE
    })
}

fn explain(error: &anyhow::Error) -> String {
    crate::launch::failure::chain(error.as_ref())
}

async fn dispatch(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let config = &arguments.config;
    match arguments.command {
        Command::Serve => serve::serve(config).await,
        Command::Doctor => Ok(crate::doctor::print(config)),
        Command::CheckConfig => {
            let checked = crate::config::Config::load(config, false)?;
            println!(
                "{}: {} profiles, {} images, {} runtimes; no problem found",
                config.display(),
                checked.profiles.len(),
                checked.images.len(),
                checked.runtimes.len()
            );
            Ok(ExitCode::SUCCESS)
        }
        Command::Ls { all } => commands::list(config, all).await,
        Command::Logs { server, follow, tail } => {
            commands::logs(config, server, follow, tail).await
        }
        Command::Stop { server, all, grace } => commands::stop(config, server, all, grace).await,
        Command::Image(ImageCommand::Import { archive, reference }) => {
            commands::import(config, &archive, reference).await
        }
        Command::Image(ImageCommand::Ls) => commands::images(config).await,
        Command::Run { server, profile, runtime, verbose, command } => {
            commands::run(config, server, profile, runtime, verbose, command).await
        }
        Command::Version => {
            println!("adrastea {}", env!("CARGO_PKG_VERSION"));
            Ok(ExitCode::SUCCESS)
        }
    }
}
