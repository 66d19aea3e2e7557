//! `adrastea-probe [--list] [NAME…]`: all checks, or those named.

use std::{env, io::Write, process::ExitCode};

use adrastea_probe::{Check, all, run};

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let mut output = std::io::stdout();
    if arguments.iter().any(|argument| argument == "--list") {
        for check in all() {
            let _ = writeln!(output, "{}", check.name);
        }
        return ExitCode::SUCCESS;
    }

    let unknown = arguments.iter().find(|name| all().all(|check| check.name != name.as_str()));
    if let Some(name) = unknown {
        let _ = writeln!(std::io::stderr(), "no check is named `{name}`; see --list");
        return ExitCode::from(2);
    }
    let wanted =
        |check: &&Check| arguments.is_empty() || arguments.iter().any(|name| name == check.name);
    for check in all().filter(wanted) {
        // Line by line, so that what was found before an unexpected end is not lost.
        let _ = writeln!(output, "{}\t{}", check.name, run(check)).and_then(|()| output.flush());
    }
    ExitCode::SUCCESS
}
