//! The containerd engine against real containerds and a real runc.
//!
//! Needs root and, in `ADRASTEA_TOOLS`, a directory with `bin/containerd`,
//! `bin/containerd-shim-runc-v2` and `bin/runc`; refuses to run without.
//! `ADRASTEA_CONTAINERD_1_7` may name such a directory with containerd 1.7.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod archives;
mod bench;
mod cases;

use std::{future::Future, path::PathBuf, pin::Pin, process::ExitCode, sync::Arc};

use libtest_mimic::{Arguments, Completion, Failed, Trial};

use crate::bench::Bench;

type Case = fn(Arc<Bench>) -> Pin<Box<dyn Future<Output = ()> + Send>>;

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // They share two cores with real containerds; more at once only stretches deadlines.
    arguments.test_threads.get_or_insert(2);
    let tools = std::env::var_os("ADRASTEA_TOOLS").map(PathBuf::from);
    let older = std::env::var_os("ADRASTEA_CONTAINERD_1_7").map(PathBuf::from);
    let mut trials = Vec::new();
    for (name, case) in cases::ALL {
        let (current, tools) = (tools.clone(), tools.clone());
        trials.push(Trial::test(format!("containerd_2::{name}"), {
            let tools = tools.clone();
            move || run(*case, current, tools)
        }));
        let older = older.clone();
        trials.push(Trial::ignorable_test(format!("containerd_1_7::{name}"), move || {
            if older.is_none() {
                return Ok(Completion::ignored_with("ADRASTEA_CONTAINERD_1_7 is not set"));
            }
            run(*case, older, tools).map(|()| Completion::Completed)
        }));
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn run(case: Case, binaries: Option<PathBuf>, tools: Option<PathBuf>) -> Result<(), Failed> {
    if !nix::unistd::geteuid().is_root() {
        return Err("this test needs root: it runs a real containerd".into());
    }
    let (Some(binaries), Some(tools)) = (binaries, tools) else {
        return Err("ADRASTEA_TOOLS is not set: name a directory with bin/containerd, \
                    bin/containerd-shim-runc-v2 and bin/runc"
            .into());
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    runtime.block_on(async {
        let bench = Arc::new(Bench::new(&binaries, &tools).await);
        let outcome = tokio::spawn(case(Arc::clone(&bench))).await;
        let Some(bench) = Arc::into_inner(bench) else {
            return Err("the case kept its bench".into());
        };
        let log = std::fs::read_to_string(bench.settings.log()).unwrap_or_default();
        let finished = bench.finish().await;
        if let Err(error) = outcome {
            return Err(format!("{error}\ncontainerd's log:\n{log}").into());
        }
        finished.map_err(Failed::from)
    })
}
