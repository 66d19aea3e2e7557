//! What runs sandboxes: the tables `[runtimes.NAME]`.
//!
//! `NAME` is a driver's, or the operator's own for another program that a driver knows
//! how to drive. Must never make a driver's name stand for another driver.

use std::path::PathBuf;

use adrastea_runtimes::{Runtime, all, by_name, version::Version};
use serde::{Deserialize, Deserializer, de::Error as _};

use crate::config::Config;

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuntimeConfig {
    /// Which driver drives it. Default: the one of its name.
    pub kind: Option<String>,
    pub binary: PathBuf,
    /// Older ones are refused, whatever else is known of them.
    #[serde(default, deserialize_with = "version")]
    pub version_floor: Option<Version>,
    /// CVEs this node accepts in a runtime below the version floor, by name.
    #[serde(default)]
    pub accept_vulnerable: Vec<String>,
}

/// As a runtime prints it, `1.2.3`, or a day and a number as gVisor's releases have it.
fn version<'text, D: Deserializer<'text>>(deserializer: D) -> Result<Option<Version>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let parsed = text.parse().or_else(|()| format!("release-{text}").parse());
    parsed.map(Some).map_err(|()| {
        D::Error::custom(format!(
            "`{text}` is no version; one is `1.2.3`, or a day and a number, `20250319.0`"
        ))
    })
}

/// The longest name: it is a word of paths, of metrics and of the start form.
const LONGEST_NAME: usize = 32;

impl Config {
    /// Which driver drives the runtime of this name.
    pub fn runtime_kind<'name>(&'name self, name: &'name str) -> &'name str {
        self.runtimes.get(name).and_then(|runtime| runtime.kind.as_deref()).unwrap_or(name)
    }

    /// The driver of the runtime of this name.
    pub fn driver(&self, name: &str) -> Option<&'static dyn Runtime> {
        by_name(self.runtime_kind(name))
    }

    /// What contradicts itself in the tables of runtimes.
    pub(crate) fn runtime_problems(&self) -> Vec<String> {
        self.runtimes.iter().filter_map(|(name, runtime)| problem(name, runtime)).collect()
    }
}

fn problem(name: &str, runtime: &RuntimeConfig) -> Option<String> {
    let known: Vec<_> = all().iter().map(|driver| driver.name()).collect();
    let Some(kind) = &runtime.kind else {
        return by_name(name).is_none().then(|| {
            format!(
                "runtimes.{name} is no runtime; there is: {}; for another program of one of these, set `kind`",
                known.join(", ")
            )
        });
    };
    if by_name(kind).is_none() {
        return Some(format!(
            "runtimes.{name}.kind `{kind}` does not exist; there is: {}{}",
            known.join(", "),
            nearest(kind, &known)
        ));
    }
    if by_name(name).is_some() && name != kind {
        return Some(format!("runtimes.{name} is `{kind}`: call it by another name"));
    }
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let well_formed = name.len() <= LONGEST_NAME
        && name.bytes().all(allowed)
        && name.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase());
    (!well_formed).then(|| {
        format!("runtimes.{name}: a name is of [a-z0-9-], begins with a letter, and has at most {LONGEST_NAME}")
    })
}

fn nearest(word: &str, known: &[&str]) -> String {
    known
        .iter()
        .map(|known| (strsim::damerau_levenshtein(word, known), known))
        .filter(|(distance, known)| *distance <= known.len().max(4) / 2)
        .min()
        .map_or_else(String::new, |(_, known)| format!("; did you mean `{known}`?"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::Path;

    use super::*;

    const EXAMPLE: &str = include_str!("../../docs/adrastea.example.toml");

    fn with(table: &str) -> Result<Config, String> {
        let text = EXAMPLE.replace("[runtimes.runc]", &format!("{table}\n[runtimes.runc]"));
        Config::parse(&text, Path::new("example")).map_err(|error| error.to_string())
    }

    #[test]
    fn another_program_of_a_driver_has_a_name_of_its_own() {
        let config = with(
            "[runtimes.youki]\nkind = \"runc\"\nbinary = \"/opt/youki\"\nversion_floor = \"0.5.7\"",
        )
        .unwrap();
        assert_eq!(config.driver("youki").unwrap().name(), "runc");
        assert_eq!(config.driver("runc").unwrap().name(), "runc");
        assert!(config.driver("absent").is_none());
        let floor = config.runtimes["youki"].version_floor.unwrap();
        assert_eq!(floor.to_string(), "0.5.7");
        let dated = with(
            "[runtimes.sentry]\nkind = \"gvisor\"\nbinary = \"/a\"\nversion_floor = \"20250319.0\"",
        );
        assert_eq!(
            dated.unwrap().runtimes["sentry"].version_floor.unwrap().to_string(),
            "20250319.0"
        );
    }

    #[test]
    fn a_wrong_kind_name_or_floor_is_refused() {
        for (table, said) in [
            ("[runtimes.youki]\nkind = \"rnuc\"\nbinary = \"/a\"", "did you mean `runc`?"),
            ("[runtimes.youki]\nkind = \"firecracker\"\nbinary = \"/a\"", "does not exist"),
            ("[runtimes.youki]\nbinary = \"/a\"", "set `kind`"),
            ("[runtimes.gvisor]\nkind = \"runc\"\nbinary = \"/a\"", "call it by another name"),
            ("[runtimes.Youki]\nkind = \"runc\"\nbinary = \"/a\"", "a name is of [a-z0-9-]"),
            ("[runtimes.\"../x\"]\nkind = \"runc\"\nbinary = \"/a\"", "a name is of [a-z0-9-]"),
            (
                "[runtimes.youki]\nkind = \"runc\"\nbinary = \"/a\"\nversion_floor = \"new\"",
                "`new` is no version",
            ),
        ] {
            let error = with(table).unwrap_err();
            assert!(error.contains(said), "{table}: {error}");
        }
    }
}
