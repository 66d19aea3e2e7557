//! The `adrastea` command.

fn main() -> std::process::ExitCode {
    adrastea::host::wrapper::run().unwrap_or_else(adrastea::cli::main)
}
