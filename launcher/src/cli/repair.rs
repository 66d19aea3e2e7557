//! `adrastea repair`: prints what was found and what will be done, and asks.

use std::{
    io::{BufRead as _, IsTerminal as _, Write as _},
    path::Path,
    process::ExitCode,
};

use crate::{config::Config, repair::Repair, say::say};

/// What is to be done with what was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    Ask,
    Yes,
    /// Explain, and change nothing.
    Never,
}

/// Ends with 0 if the ledger is sound now, and with 1 if it is not.
pub fn repair(path: &Path, answer: Answer) -> anyhow::Result<ExitCode> {
    anyhow::ensure!(nix::unistd::geteuid().is_root(), "the ledger is root's: run this as root");
    let repair = Repair::examine(&Config::load(path, true)?)?;
    for line in repair.lines() {
        say!("{line}");
    }
    if !repair.is_needed() {
        return Ok(ExitCode::SUCCESS);
    }
    match answer {
        Answer::Never => {
            say!("nothing was changed (--dry-run)");
            return Ok(ExitCode::FAILURE);
        }
        Answer::Ask if !std::io::stdin().is_terminal() => {
            say!("nothing was changed; run it again with --yes to do this");
            return Ok(ExitCode::FAILURE);
        }
        Answer::Ask => {
            crate::say::print(format_args!("do this? [y/N] "));
            std::io::stdout().flush()?;
            let mut line = String::new();
            std::io::stdin().lock().read_line(&mut line)?;
            if !matches!(line.trim(), "y" | "Y" | "yes") {
                say!("nothing was changed");
                return Ok(ExitCode::FAILURE);
            }
        }
        Answer::Yes => {}
    }
    if let Some(moved) = repair.carry_out()? {
        say!("the old ledger is at {}", moved.display());
    }
    say!("mended; start the launcher again");
    Ok(ExitCode::SUCCESS)
}
