//! Sandboxes that wait for their user: the table `[pool]`, and `pool` of a profile.
//!
//! A profile that says nothing has a small pool, if its command can wait at all.

use serde::Deserialize;

use crate::{
    config::Config,
    quantity::{ByteSize, Cpus},
};

/// What all slots together may take.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PoolConfig {
    /// Memory that waiting slots may use together, as the kernel counts it.
    pub memory: ByteSize,
    /// Processors that filling the pool may take on average.
    pub cpu: Cpus,
    /// Seconds after which a slot that nobody took is made anew.
    pub max_age: u64,
    /// What a profile has that says nothing of its own.
    pub each_profile: ProfilePool,
}

impl Default for PoolConfig {
    fn default() -> Self {
        Self {
            memory: ByteSize::mebibytes(1024),
            cpu: Cpus::from_millis(500),
            max_age: 3600,
            each_profile: ProfilePool { minimum: 1, maximum: 8 },
        }
    }
}

/// How many slots wait for users of a profile, with its first image and its first runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProfilePool {
    /// Always; 0 with a maximum: only while there are starts.
    #[serde(default)]
    pub minimum: u32,
    /// With those for recent starts.
    pub maximum: u32,
}

impl PoolConfig {
    /// What makes no sense in it.
    pub fn problem(&self) -> Option<String> {
        if self.each_profile.minimum > self.each_profile.maximum {
            return Some("pool.each_profile.minimum is above pool.each_profile.maximum".into());
        }
        let too_short = "pool.max_age is below 10: slots would be made all the time";
        (self.max_age < 10).then(|| too_short.to_owned())
    }
}

impl Config {
    /// How many slots wait for the users of a profile: what it says itself, or what every one has
    /// whose command can wait. None where there are none.
    pub fn slots(&self, profile: &str) -> Option<ProfilePool> {
        let profile = self.profiles.get(profile)?;
        let each = || is_server(&profile.command).then_some(self.pool.each_profile);
        profile.pool.or_else(each).filter(|pool| pool.maximum > 0)
    }
}

impl ProfilePool {
    /// What makes no sense in it, for a profile with this command.
    pub fn problem(self, command: &[String]) -> Option<String> {
        if self.minimum > self.maximum {
            return Some("pool.minimum is above pool.maximum".into());
        }
        (!is_server(command)).then(|| {
            "pool: only `jupyterhub-singleuser` can wait for its user, and the command is another"
                .into()
        })
    }
}

/// Whether a command is the server that [`crate::image`]'s waiting program can load.
fn is_server(command: &[String]) -> bool {
    command.first().and_then(|name| name.rsplit('/').next()) == Some("jupyterhub-singleuser")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::Path;

    use super::*;

    /// The pool of the example's profile after a change of the example's text.
    fn slots(changes: &[(&str, &str)]) -> Option<ProfilePool> {
        let mut text = include_str!("../../docs/adrastea.example.toml").to_owned();
        for (from, to) in changes {
            assert!(text.contains(from), "{from}");
            text = text.replacen(from, to, 1);
        }
        Config::parse(&text, Path::new("adrastea.toml")).unwrap().slots("standard")
    }

    #[test]
    fn a_profile_has_the_pool_it_names_or_that_of_each() {
        assert_eq!(slots(&[]), Some(ProfilePool { minimum: 1, maximum: 8 }));
        let own = ("# pool = { minimum = 2, maximum = 8 }", "pool = { minimum = 2, maximum = 3 }");
        assert_eq!(slots(&[own]), Some(ProfilePool { minimum: 2, maximum: 3 }));
        let none = ("# pool = { minimum = 2, maximum = 8 }", "pool = { maximum = 0 }");
        assert_eq!(slots(&[none]), None);
        let each = ("{ minimum = 1, maximum = 8 }", "{ maximum = 0 }");
        assert_eq!(slots(&[each]), None);
        assert_eq!(slots(&[each, own]), Some(ProfilePool { minimum: 2, maximum: 3 }));
        // Another command cannot wait, and nobody has asked it to.
        let other = ("command = [\"jupyterhub-singleuser\"]", "command = [\"/opt/start.sh\"]");
        assert_eq!(slots(&[other]), None);
    }
}
