//! The commands about homes. How large one is nobody here finds out: the launcher
//! never walks inside a home.

use std::{path::Path, process::ExitCode};

use adrastea_proto::v1::{self, HomeState};

use super::client;
use crate::{host::removal, say::say, store};

fn state_name(state: HomeState) -> String {
    state.as_str_name().trim_start_matches("HOME_STATE_").to_lowercase().replace('_', " ")
}

/// How long ago, or how long until: in the largest unit that fits.
fn span(seconds: u64) -> String {
    for (unit, length) in [("d", 86_400), ("h", 3600), ("min", 60)] {
        if seconds >= length {
            return format!("{} {unit}", seconds / length);
        }
    }
    format!("{seconds} s")
}

pub async fn list(config: &Path, all: bool) -> anyhow::Result<ExitCode> {
    let answer = client::admin(config)
        .await?
        .list_homes(v1::ListHomesRequest {})
        .await
        .map_err(|status| client::said(&status))?;
    say!(
        "{:<56} {:<14} {:<24} {:<12} {:<16} {:<10} {:<10}",
        "NAME",
        "HUB",
        "USER",
        "DISK UID",
        "STATE",
        "AGE",
        "PURGED IN"
    );
    let now = store::now();
    for home in answer.into_inner().homes {
        if !all && home.state() == HomeState::Owned {
            continue;
        }
        let since = if home.set_aside_at > 0 { home.set_aside_at } else { home.owned_since };
        let due = match home.purged_at {
            0 => "never".to_owned(),
            at => span(at.saturating_sub(now)),
        };
        say!(
            "{:<56} {:<14} {:<24} {:<12} {:<16} {:<10} {:<10} {}",
            home.name,
            home.hub,
            home.user,
            home.disk_uid,
            state_name(home.state()),
            span(now.saturating_sub(since)),
            if home.state() == HomeState::Owned { "" } else { &due },
            home.problem
        );
    }
    Ok(ExitCode::SUCCESS)
}

pub async fn purge(config: &Path, name: String) -> anyhow::Result<ExitCode> {
    eprintln!("purging {name}");
    client::admin(config)
        .await?
        .purge_home(v1::PurgeHomeRequest { name })
        .await
        .map_err(|status| client::said(&status))?;
    say!("purged");
    Ok(ExitCode::SUCCESS)
}

pub async fn restore(config: &Path, name: String) -> anyhow::Result<ExitCode> {
    let answer = client::admin(config)
        .await?
        .restore_home(v1::RestoreHomeRequest { name })
        .await
        .map_err(|status| client::said(&status))?
        .into_inner();
    say!("restored to {} of {}", answer.user, answer.hub);
    Ok(ExitCode::SUCCESS)
}

/// The launcher's child: what it says goes to the launcher, in few words.
pub fn empty_directory(uid: u32, gid: u32) -> anyhow::Result<ExitCode> {
    let left = removal::empty_standard_input(uid, gid)?;
    if left.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("{}", left.join("; "));
    Ok(ExitCode::from(3))
}
