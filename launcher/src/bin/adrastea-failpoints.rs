//! The same command with failpoints, for fault tests; never installed.

fn main() -> std::process::ExitCode {
    adrastea::cli::main()
}
