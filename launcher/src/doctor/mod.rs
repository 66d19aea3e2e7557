//! `adrastea doctor`: what this node can do, and what it lacks, each with the
//! fix. Looks, and changes nothing that stays; a runtime that was not tried yet is tried.

mod clock;
mod configured;
mod disk;
mod kernel;
mod memory;

use std::{path::Path, process::ExitCode};

use serde_json::json;

use crate::{config::Config, launch::failure::chain, say::say};

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Severity {
    Fine,
    Note,
    Problem,
}

struct Finding {
    severity: Severity,
    what: String,
    fix: String,
}

fn fine(what: impl Into<String>) -> Finding {
    Finding { severity: Severity::Fine, what: what.into(), fix: String::new() }
}

fn note(what: impl Into<String>, fix: impl Into<String>) -> Finding {
    Finding { severity: Severity::Note, what: what.into(), fix: fix.into() }
}

fn problem(what: impl Into<String>, fix: impl Into<String>) -> Finding {
    Finding { severity: Severity::Problem, what: what.into(), fix: fix.into() }
}

/// Prints every finding; 1 if one of them is a problem, and with `strict` 2 if one is a note.
pub async fn print(path: &Path, as_json: bool, strict: bool) -> ExitCode {
    let findings = findings(path).await;
    let worst = findings.iter().map(|finding| finding.severity).max().unwrap_or(Severity::Fine);
    if as_json {
        let list: Vec<_> = findings
            .iter()
            .map(|finding| {
                json!({
                    "severity": name(finding.severity), "what": finding.what, "fix": finding.fix,
                })
            })
            .collect();
        say!("{:#}", json!({"worst": name(worst), "findings": list}));
    } else {
        for finding in &findings {
            let mark = match finding.severity {
                Severity::Fine => "ok     ",
                Severity::Note => "note   ",
                Severity::Problem => "PROBLEM",
            };
            say!("{mark} {}", finding.what);
            if !finding.fix.is_empty() {
                say!("        → {}", finding.fix);
            }
        }
    }
    match worst {
        Severity::Problem => ExitCode::FAILURE,
        Severity::Note if strict => ExitCode::from(2),
        Severity::Note | Severity::Fine => ExitCode::SUCCESS,
    }
}

fn name(severity: Severity) -> &'static str {
    match severity {
        Severity::Fine => "ok",
        Severity::Note => "note",
        Severity::Problem => "problem",
    }
}

async fn findings(path: &Path) -> Vec<Finding> {
    let mut findings = kernel::findings();
    findings.extend(clock::findings());
    match Config::load(path, true) {
        Ok(config) => {
            findings.push(fine(format!("configuration {}", path.display())));
            findings.extend(configured::findings(&config).await);
            findings.extend(disk::findings(&config));
            findings.extend(memory::findings(&config));
        }
        Err(error) => findings.push(problem(chain(&error), error.hint().unwrap_or_default())),
    }
    findings
}
