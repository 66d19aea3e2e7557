//! Sandboxes that wait for their user: the table `[pool]`, and `pool` of a profile.
//!
//! Without a profile that asks for slots there are none.

use serde::Deserialize;

use crate::quantity::{ByteSize, Cpus};

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
}

impl Default for PoolConfig {
    fn default() -> Self {
        Self { memory: ByteSize::mebibytes(1024), cpu: Cpus::from_millis(500), max_age: 3600 }
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
        let too_short = "pool.max_age is below 10: slots would be made all the time";
        (self.max_age < 10).then(|| too_short.to_owned())
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
