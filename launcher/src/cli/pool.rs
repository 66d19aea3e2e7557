//! The commands about sandboxes that wait for users.

use std::{path::Path, process::ExitCode};

use adrastea_proto::v1;

use super::client;
use crate::{quantity::display_bytes, say::say};

pub async fn list(config: &Path) -> anyhow::Result<ExitCode> {
    let answer = client::admin(config)
        .await?
        .list_pool(v1::ListPoolRequest { with_proportional_memory: true })
        .await
        .map_err(|status| client::said(&status))?;
    let profiles = answer.into_inner().profiles;
    if profiles.is_empty() {
        say!("no profile has a pool");
        return Ok(ExitCode::SUCCESS);
    }
    say!(
        "{:<24} {:>7} {:>6} {:>7} {:>7} {:>6} {:>6} {:>8} {:>10} {:>8}",
        "PROFILE",
        "WAITING",
        "WANTED",
        "MINIMUM",
        "MAXIMUM",
        "HITS",
        "MISSES",
        "FAILURES",
        "MEMORY",
        "OLDEST"
    );
    for pool in &profiles {
        let memory = pool.waiting.iter().map(|one| one.memory_bytes).sum();
        let oldest = pool.waiting.iter().map(|one| one.age_ms).max().unwrap_or(0);
        say!(
            "{:<24} {:>7} {:>6} {:>7} {:>7} {:>6} {:>6} {:>8} {:>10} {:>6} s  {}{}",
            pool.profile,
            pool.waiting.len(),
            pool.target,
            pool.minimum,
            pool.maximum,
            pool.hits,
            pool.misses,
            pool.failures,
            display_bytes(memory),
            oldest / 1000,
            if pool.drained { "drained " } else { "" },
            pool.problem
        );
    }
    let waiting =
        || profiles.iter().flat_map(|pool| pool.waiting.iter().map(move |one| (pool, one)));
    if waiting().next().is_some() {
        say!("");
        say!(
            "{:<14} {:<24} {:>8} {:>12} {:>12} {:>12}",
            "SANDBOX",
            "PROFILE",
            "AGE",
            "MEMORY",
            "PSS",
            "CPU TO MAKE"
        );
        for (pool, one) in waiting() {
            say!(
                "{:<14} {:<24} {:>6} s {:>12} {:>12} {:>9} ms",
                one.sandbox_id,
                pool.profile,
                one.age_ms / 1000,
                display_bytes(one.memory_bytes),
                one.proportional_memory_bytes.map_or_else(|| "-".to_owned(), display_bytes),
                one.cpu_ms
            );
        }
        say!("");
        say!("MEMORY is what the kernel charges the control group with: it counts pages of the");
        say!("image's files that other sandboxes use, too, with whoever read them first.");
        say!(
            "PSS is what its processes use; pages that are shared are divided among those who do."
        );
    }
    Ok(ExitCode::SUCCESS)
}

pub async fn drain(config: &Path, profile: Option<String>) -> anyhow::Result<ExitCode> {
    let request = v1::DrainPoolRequest { profile: profile.unwrap_or_default() };
    let answer = client::admin(config)
        .await?
        .drain_pool(request)
        .await
        .map_err(|status| client::said(&status))?;
    say!("removed {}; `adrastea pool refill` makes new ones", answer.into_inner().removed);
    Ok(ExitCode::SUCCESS)
}

pub async fn refill(config: &Path, profile: Option<String>) -> anyhow::Result<ExitCode> {
    let request = v1::RefillPoolRequest { profile: profile.unwrap_or_default() };
    client::admin(config)
        .await?
        .refill_pool(request)
        .await
        .map_err(|status| client::said(&status))?;
    say!("the pool is being filled");
    Ok(ExitCode::SUCCESS)
}
