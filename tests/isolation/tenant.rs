//! Sandboxes of the suite: the hostile program of the test image, started as any
//! user's server or run by the administrator's command line.

use std::time::{Duration, Instant};

use adrastea_proto::v1;
use adrastea_tests::{
    Instance, Options, Ready, claimed,
    client::{HUB, Output, request},
    column, image,
};
use anyhow::{bail, ensure};

/// The profile whose command is the hostile program; a request's arguments say what it does.
pub const PROFILE: &str = "tenant";
/// Memory is smaller than what `/tmp` may hold.
pub const HEAVY: &str = "tenant-heavy";
pub const PROCESSES: u64 = 64;
pub const LOG_BYTES: u64 = 256 << 10;
const PATIENCE: Duration = Duration::from_secs(30);

/// A profile whose command is the hostile program of this image.
pub fn profile(name: &str, image: &str) -> String {
    sized_profile(name, image, "96MiB", "16MiB")
}

fn sized_profile(name: &str, image: &str, memory: &str, tmp: &str) -> String {
    format!(
        r#"
[profiles.{name}]
display_name = "{name}"
image = "{image}"
runtimes = ["{runtime}"]
egress = "hub"
{command}
user = {{ uid = 1000, gid = 1000, home = "/home/jovyan", name = "jovyan" }}
users = ["*"]
environment_allowed = ["TEST_*"]
[profiles.{name}.limits]
memory = "{memory}"
cpu = 1.0
processes = {PROCESSES}
tmp = "{tmp}"
shm = "16MiB"
log = "256KiB"
"#,
        command = claimed::profile_lines(&format!("\"{}\"", image::TENANT)),
        runtime = column::runtime(),
    )
}

/// An instance that offers the hostile program.
pub fn options() -> Options {
    let append = profile(PROFILE, "small") + &sized_profile(HEAVY, "small", "64MiB", "256MiB");
    Options { append: append + claimed::pool_section(), ..Options::default() }
}

/// The same, and a profile with the hostile program's limits whose sandboxes wait for their user.
pub const WAITING: &str = "tenant-waiting";

pub fn waiting_options() -> Options {
    let command = format!("command = [\"{}\"]", image::TENANT);
    let pool = "pool = { minimum = 1, maximum = 1 }";
    let waiting = format!("command = [\"{}\"]\n{pool}", image::WAITS);
    let waiting = profile(WAITING, "small").replace(&command, &waiting);
    let mut options = options();
    options.append += &waiting;
    options.append += "[pool]\ncpu = 100.0\n";
    options
}

/// Behind the profile's command: what the hostile program is to do.
fn command(arguments: &[&str]) -> Vec<String> {
    let mut words = claimed::command(&[&[image::TENANT], arguments].concat());
    // The profile names the program itself.
    words.remove(0);
    words.into_iter().map(str::to_owned).collect()
}

/// A request for a server that does what `arguments` say.
pub fn wish(user: &str, arguments: &[&str]) -> v1::StartRequest {
    v1::StartRequest {
        profile: PROFILE.into(),
        arguments: command(arguments),
        ready_path: String::new(),
        ..request(user)
    }
}

/// Starts a user's server and waits until it has said `word`.
pub async fn start(
    instance: &Instance,
    user: &str,
    arguments: &[&str],
    word: &str,
) -> anyhow::Result<Ready> {
    let ready = instance.start_with(wish(user, arguments)).await?;
    says(instance, user, word).await?;
    Ok(ready)
}

/// Waits until a user's server has said `word`; returns all it said.
pub async fn says(instance: &Instance, user: &str, word: &str) -> anyhow::Result<String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let log = instance.log(user).await?;
        if log.contains(word) {
            return Ok(log);
        }
        if Instant::now() > deadline {
            bail!("`{user}` never said `{word}`, but: {log}");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Runs a program in a sandbox of this user, beside the user's server.
pub fn run_program(
    instance: &Instance,
    user: &str,
    profile: &str,
    command: &[&str],
) -> anyhow::Result<Output> {
    let mut words = vec!["run", "--user", user, "--hub", HUB, "--profile", profile, "--"];
    words.extend(claimed::command(command));
    instance.run_claiming(profile, &words)
}

/// What the hostile program says, run with these arguments to its good end.
pub fn run(instance: &Instance, user: &str, arguments: &[&str]) -> anyhow::Result<String> {
    let output = attempt(instance, user, arguments)?;
    ensure!(output.code == 0, "{arguments:?}: {output:?}");
    Ok(output.stdout)
}

/// As [`run`], however it ends.
pub fn attempt(instance: &Instance, user: &str, arguments: &[&str]) -> anyhow::Result<Output> {
    let mut command = vec![image::TENANT];
    command.extend(arguments);
    run_program(instance, user, PROFILE, &command)
}

/// The lines of a scan that tell of an arrived packet, sorted.
pub fn arrived(output: &str) -> Vec<String> {
    let arrived = |line: &&str| line.starts_with("reached ") || line.starts_with("refused ");
    let mut lines: Vec<_> = output.lines().filter(arrived).map(str::to_owned).collect();
    lines.sort();
    lines.dedup();
    lines
}
