//! What runs sandboxes: the tables `[runtimes.NAME]`.
//!
//! `NAME` is a driver's, or the operator's own for another program that a driver knows
//! how to drive. Must never make a driver's name stand for another driver.

use std::path::{Path, PathBuf};

use adrastea_runtimes::{Kernel, MachineFiles, Runtime, all, by_name, version::Version};
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
    /// That it is wanted although its walls were never seen to hold on a machine of this project.
    #[serde(default)]
    pub experimental: bool,
    /// What the machines of such a runtime are made of.
    pub machine: Option<MachineConfig>,
    /// The runtime's own shim, in the place of containerd's ordinary one.
    pub shim: Option<PathBuf>,
}

/// The table `[runtimes.NAME.machine]`. The defaults are where Kata's own releases lie.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MachineConfig {
    pub monitor: PathBuf,
    pub file_server: PathBuf,
    pub kernel: PathBuf,
    pub image: PathBuf,
}

impl Default for MachineConfig {
    fn default() -> Self {
        Self {
            monitor: format!("/opt/kata/bin/qemu-system-{}", std::env::consts::ARCH).into(),
            file_server: "/opt/kata/libexec/virtiofsd".into(),
            kernel: "/opt/kata/share/kata-containers/vmlinux.container".into(),
            image: "/opt/kata/share/kata-containers/kata-containers.img".into(),
        }
    }
}

impl MachineConfig {
    /// Each file by its key.
    pub fn files(&self) -> [(&'static str, &Path); 4] {
        [
            ("monitor", &self.monitor),
            ("file_server", &self.file_server),
            ("kernel", &self.kernel),
            ("image", &self.image),
        ]
    }
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
        let mut problems: Vec<_> =
            self.runtimes.iter().filter_map(|(name, runtime)| problem(name, runtime)).collect();
        for (name, runtime) in &self.runtimes {
            let driver = self.driver(name);
            problems.extend(driver.into_iter().flat_map(|driver| of_driver(name, runtime, driver)));
        }
        problems
    }
}

impl RuntimeConfig {
    /// What the machines of that driver are made of; none for one that starts none.
    pub fn machine_files(&self, driver: &dyn Runtime) -> Option<MachineFiles> {
        (driver.kernel() == Kernel::Machine).then(|| {
            let MachineConfig { monitor, file_server, kernel, image } =
                self.machine.clone().unwrap_or_default();
            MachineFiles { monitor, file_server, kernel, image }
        })
    }
}

/// What its driver has to say to the table.
fn of_driver(name: &str, runtime: &RuntimeConfig, driver: &dyn Runtime) -> Vec<String> {
    let mut problems: Vec<_> = shim_problem(name, runtime, driver).into_iter().collect();
    match driver.unproved() {
        Some(why) if !runtime.experimental => problems.push(format!(
            "runtimes.{name} is experimental: {why}; with `experimental = true` it is offered all the same"
        )),
        None if runtime.experimental => problems.push(format!(
            "runtimes.{name}.experimental is for runtimes whose walls were never seen to hold; `{}` is none",
            driver.name()
        )),
        _ => {}
    }
    if driver.kernel() != Kernel::Machine {
        if runtime.machine.is_some() {
            problems
                .push(format!("runtimes.{name}.machine: `{}` starts no machine", driver.name()));
        }
        return problems;
    }
    let machine = runtime.machine.clone().unwrap_or_default();
    let all = machine.files().map(|(key, path)| (format!("machine.{key}"), path));
    for (key, path) in all.into_iter().chain([("binary".to_owned(), runtime.binary.as_path())]) {
        // Kata takes each for a pattern.
        let plain = path.to_str().is_some_and(|text| !text.contains(['*', '?', '[', '\0']));
        if !path.is_absolute() || !plain {
            problems.push(format!(
                "runtimes.{name}.{key} `{}` is not an absolute path without `*`, `?` and `[`",
                path.display()
            ));
        }
    }
    problems
}

fn shim_problem(name: &str, runtime: &RuntimeConfig, driver: &dyn Runtime) -> Option<String> {
    let path = runtime.shim.as_deref()?;
    let Some(own) = driver.own_shim() else {
        return Some(format!("runtimes.{name}.shim: `{}` has no shim of its own", driver.name()));
    };
    // The program is known by it among the node's processes, should the engine forget one.
    let is_that = path.is_absolute() && path.file_name().is_some_and(|it| it == own.program);
    (!is_that).then(|| {
        format!(
            "runtimes.{name}.shim `{}` is not the absolute path of a `{}`",
            path.display(),
            own.program
        )
    })
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

    #[test]
    fn a_shim_is_the_drivers_own_and_known_by_its_path() {
        let shim = "/opt/gvisor/containerd-shim-runsc-v1";
        let table = |kind: &str, shim: &str| {
            with(&format!("[runtimes.x]\nkind = \"{kind}\"\nbinary = \"/a\"\nshim = \"{shim}\""))
        };
        let config = table("gvisor", shim).unwrap();
        assert_eq!(config.runtimes["x"].shim.as_deref(), Some(Path::new(shim)));
        assert_eq!(config.runtimes["runc"].shim, None);
        for (kind, shim, said) in [
            ("runc", shim, "`runc` has no shim of its own"),
            ("gvisor", "containerd-shim-runsc-v1", "is not the absolute path"),
            ("gvisor", "/opt/gvisor/shim", "of a `containerd-shim-runsc-v1`"),
        ] {
            let error = table(kind, shim).unwrap_err();
            assert!(error.contains(said), "{error}");
        }
    }

    #[test]
    fn what_was_never_proved_is_had_by_a_word_of_its_own_alone() {
        let shim = "binary = \"/opt/kata/bin/containerd-shim-kata-v2\"\n";
        let table = |more: &str| with(&format!("[runtimes.kata]\n{shim}{more}"));
        let error = table("").unwrap_err();
        assert!(error.contains("with `experimental = true`"), "{error}");
        assert!(table("experimental = false").is_err());
        let config = table("experimental = true").unwrap();
        let runtime = &config.runtimes["kata"];
        let files = runtime.machine_files(config.driver("kata").unwrap()).unwrap();
        assert_eq!(files.file_server, Path::new("/opt/kata/libexec/virtiofsd"));
        assert_eq!(config.runtimes["runc"].machine_files(config.driver("runc").unwrap()), None);
        let own = "experimental = true\n[runtimes.kata.machine]\nkernel = \"/boot/guest\"";
        let files = &table(own).unwrap().runtimes["kata"].machine.clone().unwrap();
        assert_eq!(files.kernel, Path::new("/boot/guest"));
        assert_eq!(files.image, MachineConfig::default().image);
        for (more, said) in [
            ("machine = { kernel = \"guest\" }", "machine.kernel `guest` is not an absolute path"),
            ("machine = { image = \"/a/*\" }", "machine.image `/a/*` is not"),
            ("machine = { kernl = \"/guest\" }", "kernl"),
        ] {
            let error = table(&format!("experimental = true\n{more}")).unwrap_err();
            assert!(error.contains(said), "{more}: {error}");
        }
        for (table, said) in [
            ("[runtimes.y]\nkind = \"runc\"\nbinary = \"/a\"\nexperimental = true", "is none"),
            ("[runtimes.y]\nkind = \"runc\"\nbinary = \"/a\"\nmachine = {}", "starts no machine"),
            (
                "[runtimes.y]\nkind = \"kata\"\nexperimental = true\nbinary = \"shim\"",
                "runtimes.y.binary `shim` is not an absolute path",
            ),
        ] {
            let error = with(table).unwrap_err();
            assert!(error.contains(said), "{table}: {error}");
        }
    }
}
