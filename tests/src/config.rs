//! The configuration of a test's launcher.

use std::path::Path;

use crate::{Namespace, claimed, column, image, machines, place};

/// How an instance differs from the ordinary one.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Join it to a pretended internet, and offer the profile `web`.
    pub world: bool,
    /// Beside another instance, in its place; or in one of its own.
    pub beside: Option<Namespace>,
    /// Replacements in the configuration's text, in order.
    pub replace: Vec<(String, String)>,
    /// Text at the configuration's end.
    pub append: String,
    /// A profile `waiting` with this pool (`{ minimum = 1, maximum = 2 }`), whose server can wait.
    pub pool: Option<String>,
    /// Sandboxes that can live at once; 0 is the ordinary number. More than that
    /// takes other slots' ids: only for an instance that is alone.
    pub run_ranges: u32,
    /// The state directory gets a disk of its own, of so many bytes.
    pub disk: Option<u64>,
    /// Environment of the launcher; `{scratch}` stands for the instance's directory for tests.
    pub environment: Vec<(String, String)>,
}

impl Options {
    #[must_use]
    pub fn with_world(mut self) -> Self {
        self.world = true;
        self
    }

    #[must_use]
    pub fn replacing(mut self, old: &str, new: &str) -> Self {
        self.replace.push((old.into(), new.into()));
        self
    }
}

impl Options {
    /// Where the shim of Kata is not.
    pub const NO_SHIM: &str = "/nonexistent/containerd-shim-kata-v2";

    /// Offers Kata, with this shim, beside the column's runtime.
    #[must_use]
    pub fn with_kata(mut self, shim: &Path) -> Self {
        self.append += &kata(shim);
        self.replacing("runtimes = [\"runc\"]", "runtimes = [\"runc\", \"kata\"]")
            .replacing("runtimes = [\"gvisor\"]", "runtimes = [\"gvisor\", \"kata\"]")
    }
}

fn kata(shim: &Path) -> String {
    format!(
        "[runtimes.kata]\nexperimental = true\nbinary = \"{}\"\n[runtimes.kata.machine]\n",
        shim.display()
    )
}

/// How many instances can live at once on one host.
pub const SLOTS: u32 = 32;
/// Sandboxes that can live at once in one slot.
const RUN_RANGES: u32 = 64;

/// The whole configuration of the instance in this slot. Slots share no address and no id.
pub fn text(instance: &str, slot: u32, digest: &str, options: &Options) -> String {
    let run_ranges = if options.run_ranges == 0 { RUN_RANGES } else { options.run_ranges };
    let (disk, run) =
        (1_879_048_192 + slot * 4_000_000, 2_013_265_920 + slot * RUN_RANGES * 65_536);
    let mut text = format!(
        r#"version = 1
instance = "{instance}"
[paths]
init = "{init}"
[access]
group = "nogroup"
hub_users = ["nobody"]
[containerd]
binary = "{bin}/containerd"
[network]
subnet = "{subnet}.0.0/16"
{uplink}
[identity]
first_disk_id = {disk}
last_disk_id = {last_disk}
first_run_id = {run}
last_run_id = {last_run}
[limits]
ready_timeout = 30
stop_grace = 2
[runtimes.runc]
binary = "{bin}/runc"
[runtimes.gvisor]
binary = "{bin}/runsc"
accept_vulnerable = ["CVE-2025-2713"]
{shim}
[images.small]
reference = "{reference}"
digest = "{digest}"
[images.changed]
reference = "{reference}"
digest = "sha256:{zeros}"
[images.absent]
reference = "localhost/adrastea/absent:1"
digest = "sha256:{zeros}"
"#,
        init = place::init().display(),
        bin = place::tools().join("bin").display(),
        shim = column::shim().map_or_else(String::new, |it| format!("shim = \"{}\"", it.display())),
        subnet = subnet(slot),
        uplink =
            if options.world { "uplink = \"world\"\nresolvers = [\"203.0.113.53\"]" } else { "" },
        last_disk = disk + 3_999_999,
        last_run = run + run_ranges * 65_536 - 1,
        reference = image::REFERENCE,
        zeros = "0".repeat(64),
    );
    text += &profile("standard", "hub", "*", STANDARD);
    text += &profile("tiny", "hub", "*", TINY);
    text += &profile("tiny-private", "hub", "somebody-else", TINY);
    if column::is_of_machines() {
        text += &kata(&machines::kata_shim().unwrap_or_default());
    }
    if options.world {
        let command = claimed::profile_lines(&format!("\"{}\", \"serve\"", image::ANSWER));
        text += &with_command("web", "web", &command);
    }
    if let Some(pool) = &options.pool {
        text += &waiting_profile(pool);
    }
    text += &options.append;
    for (old, new) in &options.replace {
        text = text.replace(old.as_str(), new);
    }
    text
}

/// The first two numbers of a slot's addresses.
pub fn subnet(slot: u32) -> String {
    format!("10.{}", 100 + slot)
}

const STANDARD: &str = r#"memory = "64MiB"
memory_ceiling = "128MiB"
cpu = 1.0
cpu_ceiling = 2.0
processes = 64
open_files = 1024
tmp = "16MiB"
shm = "16MiB"
log = "256KiB"
"#;

const TINY: &str = r#"memory = "32MiB"
cpu = 0.5
processes = 32
open_files = 64
tmp = "4MiB"
shm = "1MiB"
log = "64KiB"
servers_per_user = 2
"#;

fn profile(name: &str, egress: &str, user: &str, limits: &str) -> String {
    format!(
        r#"[profiles.{name}]
display_name = "{name}"
image = "small"
images = ["changed", "absent"]
runtimes = ["{runtime}"]
egress = "{egress}"
command = ["{answer}", "serve"]
user = {{ uid = 1000, gid = 1000, home = "/home/jovyan", name = "jovyan" }}
users = ["{user}"]
environment_allowed = ["TEST_*"]
[profiles.{name}.environment]
PATH = "/bin"
[profiles.{name}.limits]
{limits}"#,
        answer = image::ANSWER,
        runtime = column::runtime(),
    )
}

/// As `standard`, with the image's server that can wait for its user.
fn waiting_profile(pool: &str) -> String {
    let command = format!("command = [\"{}\"]\npool = {pool}", image::WAITS);
    with_command("waiting", "hub", &command)
}

/// As `standard`, with another line for the command.
fn with_command(name: &str, egress: &str, command: &str) -> String {
    let ordinary = format!("command = [\"{}\", \"serve\"]", image::ANSWER);
    profile(name, egress, "*", STANDARD).replace(&ordinary, command)
}

/// Writes a configuration as an administrator must.
pub fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(path, text)?;
    Ok(std::fs::set_permissions(path, PermissionsExt::from_mode(0o600))?)
}
