//! Another runc-compatible program behind the same driver, under a name of the operator's:
//! youki, where it has been built as docs/install.md says. In every column, because the
//! node's configuration offers it beside the column's runtime.

use adrastea_proto::v1::StartRequest;
use adrastea_tests::{Instance, Options, Suite, client::request, place};
use anyhow::{Context as _, ensure};

const ABSENT: &str =
    "youki is not in target/tools/youki (its build takes minutes: tools/get youki)";

pub fn add(suite: &mut Suite) {
    let name = "youki::runs_servers_behind_every_wall_under_its_own_name";
    let Some(binary) = place::youki() else { return suite.ignored(name, ABSENT) };
    let mut options = Options::default()
        .replacing("runtimes = [\"runc\"]", "runtimes = [\"runc\", \"youki\"]")
        .replacing("runtimes = [\"gvisor\"]", "runtimes = [\"gvisor\", \"youki\"]");
    options.append = format!(
        "[runtimes.youki]\nkind = \"runc\"\nbinary = \"{}\"\nversion_floor = \"0.7.0\"\n",
        binary.display()
    );
    suite.own(name, options, |instance| async move { runs(&instance).await });
}

async fn runs(instance: &Instance) -> anyhow::Result<()> {
    // Each start is a request of its own.
    let asked = || StartRequest { runtime: "youki".into(), ..request("ana") };
    let server = instance.start_with(asked()).await?;
    let id = instance.get("ana").await?.sandbox_id;
    // What it keeps is apart from runc's, and under its name.
    let states = instance.run_directory().join("runtimes/youki").join(&instance.name);
    ensure!(states.join(&id).is_dir(), "`{}` is not its state", states.display());
    let looked = instance.cli(&["inspect", &id])?;
    ensure!(looked.stdout.contains("every wall stands"), "{looked:?}");
    ensure!(instance.http(server.address(), "/write/kept/home/jovyan/mark")?.1 == "written");
    let listed = instance.cli(&["ls"])?;
    ensure!(listed.stdout.contains("youki"), "{listed:?}");
    let metrics = instance.cli(&["metrics"])?;
    ensure!(metrics.stdout.contains("runtime=\"youki\""), "{metrics:?}");
    let doctor = instance.cli(&["doctor"])?;
    let found = doctor.stdout.lines().find(|line| line.contains("runtime youki:"));
    ensure!(found.is_some_and(|line| line.starts_with("ok")), "{}", doctor.stdout);
    // A launcher that comes back takes it over.
    instance.restart_launcher(nix::sys::signal::Signal::SIGTERM).await?;
    instance.answers("ana").await?;
    instance.stop("ana", "").await?;
    ensure!(!states.join(&id).exists(), "its state is still there");
    instance.nothing_left(std::time::Duration::from_secs(5))?;
    let again = instance.start_with(asked()).await.context("the second start")?;
    ensure!(instance.http(again.address(), "/cat/home/jovyan/mark")?.1 == "kept");
    instance.stop("ana", "").await?;
    Ok(())
}
