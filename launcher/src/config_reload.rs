//! What a reload of the configuration changes at once, and what waits for a
//! restart. Pure.
//!
//! Must never take half of a change: a key that needs a restart keeps its old
//! value, and if the rest makes no sense without it, nothing is taken at all.

use std::{collections::BTreeMap, path::PathBuf};

use crate::config::{Config, ConfigError};

/// The configuration that holds from now on, and what is different in it.
#[derive(Clone, Debug)]
pub struct Reload {
    pub config: Config,
    /// Keys whose new value holds from now on.
    pub changed: Vec<String>,
    /// Keys whose new value holds after a restart.
    pub needs_restart: Vec<String>,
}

/// Names of entries that are new, different or gone.
fn different<T: PartialEq>(
    table: &str,
    old: &BTreeMap<String, T>,
    new: &BTreeMap<String, T>,
) -> Vec<String> {
    let names: std::collections::BTreeSet<_> = old.keys().chain(new.keys()).collect();
    names
        .into_iter()
        .filter(|name| old.get(*name) != new.get(*name))
        .map(|name| format!("{table}.{name}"))
        .collect()
}

/// Puts a new configuration in the place of an old one, as far as a running launcher can.
pub fn merge(old: &Config, new: Config) -> Result<Reload, ConfigError> {
    let mut needs_restart = Vec::new();
    let mut changed = Vec::new();
    let mut config = new;
    // What was made or opened at the start, and what running sandboxes stand on.
    macro_rules! at_restart {
        ($($key:ident).+) => {
            if old.$($key).+ != config.$($key).+ {
                needs_restart.push(stringify!($($key).+).replace(' ', ""));
                config.$($key).+ = old.$($key).+.clone();
            }
        };
    }
    macro_rules! at_once {
        ($($key:ident).+) => {
            if old.$($key).+ != config.$($key).+ {
                changed.push(stringify!($($key).+).replace(' ', ""));
            }
        };
    }
    at_restart!(instance);
    at_restart!(paths);
    at_restart!(access);
    at_restart!(containerd);
    at_restart!(network);
    at_restart!(identity);
    at_restart!(home.driver);
    at_restart!(home.root);
    at_restart!(audit);
    at_restart!(image_store);
    at_restart!(metrics);
    at_restart!(limits.concurrent_starts);
    at_restart!(limits.starting_servers);
    at_restart!(limits.concurrent_creates);
    needs_restart.extend(different("runtimes", &old.runtimes, &config.runtimes));
    config.runtimes.clone_from(&old.runtimes);
    at_once!(home.on_delete);
    at_once!(home.retention_days);
    at_once!(limits.sandboxes);
    at_once!(limits.servers_per_user);
    at_once!(limits.ready_timeout);
    at_once!(limits.stop_grace);
    at_once!(pool);
    at_once!(runtime_floors);
    changed.extend(different("groups", &old.groups, &config.groups));
    changed.extend(different("images", &old.images, &config.images));
    changed.extend(different("profiles", &old.profiles, &config.profiles));
    let problems: Vec<_> = crate::config_check::problems(&config)
        .into_iter()
        .map(|problem| {
            format!("{problem} (until a restart takes over {})", needs_restart.join(", "))
        })
        .collect();
    if problems.is_empty() {
        Ok(Reload { config, changed, needs_restart })
    } else {
        let path: PathBuf = config.source;
        Err(ConfigError::Invalid { path, problems })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::Path;

    use super::*;

    const EXAMPLE: &str = include_str!("../../docs/adrastea.example.toml");

    fn with(changes: &[(&str, &str)]) -> Config {
        let mut text = EXAMPLE.to_owned();
        for (old, new) in changes {
            assert!(text.contains(old), "{old}");
            text = text.replacen(old, new, 1);
        }
        Config::parse(&text, Path::new("example")).unwrap()
    }

    #[test]
    fn what_can_change_at_once_does_and_the_rest_waits() {
        let reload = merge(
            &with(&[]),
            with(&[
                ("ready_timeout = 120", "ready_timeout = 60"),
                ("memory_ceiling = \"2GiB\"", "memory_ceiling = \"4GiB\""),
                ("hub_port = 8081", "hub_port = 8082"),
                ("concurrent_starts = 8", "concurrent_starts = 9"),
                ("binary = \"/usr/sbin/runc\"", "binary = \"/opt/runc\""),
            ]),
        )
        .unwrap();
        assert_eq!(reload.changed, ["limits.ready_timeout", "profiles.standard"]);
        assert_eq!(reload.needs_restart, ["network", "limits.concurrent_starts", "runtimes.runc"]);
        assert_eq!(reload.config.limits.ready_timeout, 60);
        assert_eq!(reload.config.network.hub_port, 8081);
        assert_eq!(reload.config.limits.concurrent_starts, 8);
        assert_eq!(reload.config.runtimes["runc"].binary, Path::new("/usr/sbin/runc"));
    }

    #[test]
    fn nothing_new_changes_nothing() {
        let reload = merge(&with(&[]), with(&[])).unwrap();
        assert!(reload.changed.is_empty() && reload.needs_restart.is_empty());
    }

    #[test]
    fn what_makes_sense_after_a_restart_only_is_refused_until_then() {
        let old = with(&[("uplink = \"eth0\"", "")]);
        let new = with(&[("egress = \"hub\"", "egress = \"web\"")]);
        let Err(ConfigError::Invalid { problems, .. }) = merge(&old, new) else {
            unreachable!("a profile without its uplink was taken over");
        };
        assert!(problems[0].contains("until a restart takes over network"), "{problems:?}");
    }
}
