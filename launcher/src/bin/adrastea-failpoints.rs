//! The same command with failpoints, for fault tests; never installed.

fn main() -> std::process::ExitCode {
    adrastea::host::wrapper::run().unwrap_or_else(adrastea::cli::main)
}
