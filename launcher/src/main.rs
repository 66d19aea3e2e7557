//! The `adrastea` command.

fn main() -> std::process::ExitCode {
    adrastea::cli::main()
}
