//! Tells what an image supports, and what would make it start faster, by reading
//! its unpacked layers. Nothing of the image is run.

mod accounts;
mod layers;
mod python;

use std::path::{Path, PathBuf};

use adrastea_runtimes::engine::{EngineImage, ImageDescription};

use self::{
    layers::Layers,
    python::{Missing, Python},
};

/// What JupyterHub's single-user server needs.
const OLDEST_PYTHON: (u32, u32) = (3, 9);
/// Where images of the Jupyter world keep their programs, should they set no PATH.
const USUAL_PATH: &str =
    "/opt/conda/bin:/opt/venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Programs that an image's own entry point goes through.
const START_SCRIPTS: [&str; 6] = [
    "start-singleuser.sh",
    "start-singleuser.py",
    "start-notebook.sh",
    "start-notebook.py",
    "start.sh",
    "tini",
];
const SHOWN: [&str; 6] =
    ["jupyterhub", "jupyterlab", "jupyter-server", "notebook", "ipykernel", "nbclassic"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    Fact,
    /// Costs little and makes a start faster or safer.
    Advice,
    /// No server will start from it.
    Problem,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub level: Level,
    pub text: String,
    /// What to do about it; may be empty.
    pub hint: String,
}

#[derive(Default)]
struct Report(Vec<Finding>);

impl Report {
    fn add(&mut self, level: Level, text: impl Into<String>, hint: impl Into<String>) {
        self.0.push(Finding { level, text: text.into(), hint: hint.into() });
    }

    fn fact(&mut self, text: impl Into<String>) {
        self.add(Level::Fact, text, "");
    }
}

/// Reads an image; blocking.
pub fn check(image: &EngineImage, description: &ImageDescription) -> Vec<Finding> {
    let layers = Layers::new(image.layers.clone());
    let mut report = Report::default();
    let path = image
        .environment
        .iter()
        .find(|(name, _)| name == "PATH")
        .map_or_else(|| USUAL_PATH.to_owned(), |(_, path)| format!("{path}:{USUAL_PATH}"));
    user(&layers, description, &mut report);
    start(&layers, description, &path, &mut report);
    match python::find(&layers, &path) {
        Ok(python) => server(&layers, &python, &mut report),
        Err(missing) => absent(&missing, &mut report),
    }
    report.0
}

fn user(layers: &Layers, description: &ImageDescription, report: &mut Report) {
    match accounts::of_image(layers, &description.user) {
        Some(account) if account.uid == 0 => report.add(
            Level::Advice,
            "its own user is root, which no server ever is",
            "name another one in the profile's `user`",
        ),
        Some(account) => {
            report.add(
                Level::Fact,
                format!("its own user is {} ({}:{})", account.name, account.uid, account.gid),
                format!(
                    "user = {{ uid = {}, gid = {}, home = \"{}\", name = \"{}\" }}",
                    account.uid, account.gid, account.home, account.name
                ),
            );
        }
        None => report.fact("it names no user of its own"),
    }
    if !description.volumes.is_empty() {
        report.fact(format!("its volumes are ignored: {}", description.volumes.join(", ")));
    }
}

fn start(layers: &Layers, description: &ImageDescription, path: &str, report: &mut Report) {
    let words = description.entry_point.iter().chain(&description.command);
    let own: Vec<_> = words.map(String::as_str).collect();
    if !own.is_empty() {
        report.fact(format!("its entry point is ignored: {}", own.join(" ")));
    }
    let scripts: Vec<_> = START_SCRIPTS
        .iter()
        .filter_map(|name| python::on_path(layers, path, name))
        .map(|found| found.inside.display().to_string())
        .collect();
    if let Some(script) = scripts.iter().find(|script| script.contains("start-singleuser")) {
        report.add(
            Level::Fact,
            format!("it has start scripts: {}", scripts.join(", ")),
            format!("to start through it, cold and without a pool: command = [\"{script}\"]"),
        );
    }
}

fn absent(missing: &Missing, report: &mut Report) {
    let (text, hint) = match missing {
        Missing::Program => (
            "it has no jupyterhub-singleuser on its PATH".to_owned(),
            "install the package jupyterhub in it, of the hub's own version",
        ),
        Missing::Interpreter(name) => (
            format!("its jupyterhub-singleuser is run by `{name}`, which is not in it"),
            "install the package jupyterhub anew in it",
        ),
        Missing::Version(interpreter) => (
            format!("the version of its Python `{interpreter}` cannot be told"),
            "look with `adrastea run`: python3 --version",
        ),
        Missing::Other(program) => {
            report.fact(format!("its server is {}", program.display()));
            return cold(&no_script(program), INSTALL.to_owned(), report);
        }
    };
    report.add(Level::Problem, text, hint);
}

fn server(layers: &Layers, python: &Python, report: &mut Report) {
    let (major, minor) = python.version;
    let program = python.own.as_ref().unwrap_or(&python.program);
    report.fact(format!("its server is {}", program.display()));
    if python.version < OLDEST_PYTHON {
        report.add(
            Level::Problem,
            format!("its Python is {major}.{minor}, older than 3.9"),
            "use an image with a newer one",
        );
    } else {
        report.fact(format!("its Python is {major}.{minor} ({})", python.interpreter.display()));
    }
    waits(python, report);
    let installed = python::distributions(layers, python);
    let shown: Vec<_> = SHOWN
        .iter()
        .filter_map(|name| installed.get(*name).map(|version| format!("{name} {version}")))
        .collect();
    if !shown.is_empty() {
        report.fact(format!("it has {}", shown.join(", ")));
    }
    compiled(layers, python, report);
    if installed.contains_key("rfc3987-syntax") {
        report.add(
            Level::Advice,
            "it has rfc3987-syntax, which costs every start a second or more",
            "pip uninstall rfc3987-syntax (jsonschema does without it)",
        );
    }
    if installed.contains_key("jupyterlab") && !extension_manager_is_read_only(layers, python) {
        report.add(
            Level::Advice,
            "JupyterLab's extension manager asks pypi.org, which costs time and fails offline",
            "in etc/jupyter/jupyter_lab_config.json: {\"LabApp\": {\"extension_manager\": \"readonly\"}}",
        );
    }
}

/// Whether a profile of this image can have a pool.
fn waits(python: &Python, report: &mut Report) {
    if let Some(own) = &python.own {
        let behind = python.program.display();
        let hint = format!("to have it wait, without that program: command = [\"{behind}\"]");
        return cold(&no_script(own), hint, report);
    }
    if python.version < OLDEST_PYTHON {
        return cold("its Python is too old", INSTALL.to_owned(), report);
    }
    if !python.can_wait {
        return cold(&no_script(&python.program), INSTALL.to_owned(), report);
    }
    report.fact("its server can wait for its user (the profile's `pool`)");
}

const INSTALL: &str =
    "install the package jupyterhub with pip or conda in an environment with Python 3.9 or newer";

fn no_script(program: &Path) -> String {
    format!("{} is no script that names its Python alone", program.display())
}

fn cold(why: &str, hint: String, report: &mut Report) {
    let text = format!("its server cannot wait for its user, and starts cold: {why}");
    report.add(Level::Advice, text, hint);
}

fn compiled(layers: &Layers, python: &Python, report: &mut Report) {
    let compiled = python::compiled(layers, python);
    if compiled.wasted() * 20 < compiled.modules {
        report.fact(format!("{} of its Python modules are compiled", compiled.modules));
        return;
    }
    let (major, minor) = python.version;
    report.add(
        Level::Advice,
        format!(
            "of its {} Python modules {} are not compiled and {} are compiled for another time: every start compiles them again",
            compiled.modules, compiled.missing, compiled.stale
        ),
        format!(
            "python{major}.{minor} -m compileall -q -f -j 0 --invalidation-mode unchecked-hash {}",
            python.site_packages.display()
        ),
    );
}

/// Any of the files that JupyterLab reads its settings from.
fn extension_manager_is_read_only(layers: &Layers, python: &Python) -> bool {
    let prefix: PathBuf = python.site_packages.ancestors().skip(3).take(1).collect();
    let folders =
        [prefix.join("etc/jupyter"), "/etc/jupyter".into(), "/usr/local/etc/jupyter".into()];
    folders.iter().any(|folder: &PathBuf| {
        ["jupyter_lab_config", "jupyter_server_config", "jupyter_config"].iter().any(|name| {
            ["json", "py"].iter().any(|ending| {
                let text = layers.text(folder.join(format!("{name}.{ending}")));
                text.is_some_and(|text| says_read_only(&text))
            })
        })
    }) || layers.list(Path::new("/etc/jupyter/jupyter_server_config.d")).into_keys().any(|name| {
        let path = Path::new("/etc/jupyter/jupyter_server_config.d").join(name);
        layers.text(path).is_some_and(|text| says_read_only(&text))
    })
}

fn says_read_only(text: &str) -> bool {
    text.lines().any(|line| line.contains("extension_manager") && line.contains("readonly"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    /// A layer with these files, all of which may be run.
    fn layer(files: &[(&str, &str)]) -> tempfile::TempDir {
        let layer = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = layer.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        layer
    }

    fn said_of_layer(layer: &tempfile::TempDir, path: &str) -> Vec<Finding> {
        let layers = Layers::new(vec![layer.path().to_owned()]);
        let mut report = Report::default();
        match python::find(&layers, path) {
            Ok(python) => server(&layers, &python, &mut report),
            Err(missing) => absent(&missing, &mut report),
        }
        report.0
    }

    /// What is said of an image whose server begins so, with a Python of this version.
    fn said_of(head: &str, version: &str) -> Vec<Finding> {
        let (named, module) =
            (format!("opt/env/bin/{version}"), format!("opt/env/lib/{version}/site-packages/a.py"));
        let layer = layer(&[
            ("opt/env/bin/jupyterhub-singleuser", head),
            (&named, ""),
            ("opt/env/bin/python3", ""),
            (&module, ""),
        ]);
        said_of_layer(&layer, "/opt/env/bin")
    }

    fn has(findings: &[Finding], level: Level, text: &str) -> bool {
        findings.iter().any(|one| one.level == level && one.text.contains(text))
    }

    #[test]
    fn a_server_that_is_a_program_of_its_own_starts_cold() {
        let script = "#!/bin/bash\nexec /opt/env/bin/jupyterhub-singleuser \"$@\"\n";
        let own = ("own/bin/jupyterhub-singleuser", script);
        let alone = layer(&[own, ("bin/bash", "")]);
        let behind = layer(&[
            own,
            ("bin/bash", ""),
            ("opt/env/bin/jupyterhub-singleuser", "#!/opt/env/bin/python3.12\n"),
            ("opt/env/bin/python3.12", ""),
        ]);
        for layer in [&alone, &behind] {
            let said = said_of_layer(layer, "/own/bin:/opt/env/bin");
            assert!(
                has(&said, Level::Fact, "its server is /own/bin/jupyterhub-singleuser"),
                "{said:?}"
            );
            assert!(has(&said, Level::Advice, "starts cold: /own/bin/"), "{said:?}");
            assert!(!said.iter().any(|one| one.level == Level::Problem), "{said:?}");
            assert!(!has(&said, Level::Fact, "can wait"), "{said:?}");
        }
        let said = said_of_layer(&behind, "/own/bin:/opt/env/bin");
        assert!(has(&said, Level::Fact, "its Python is 3.12"), "{said:?}");
        // The other way round the script is not what a start runs.
        let said = said_of_layer(&behind, "/opt/env/bin:/own/bin");
        assert!(has(&said, Level::Fact, "can wait"), "{said:?}");
        // Nothing starts where its shell is missing.
        let said = said_of_layer(&layer(&[own]), "/own/bin");
        assert!(
            has(&said, Level::Problem, "is run by `/bin/bash`, which is not in it"),
            "{said:?}"
        );
    }

    #[test]
    fn packages_of_debians_own_python_are_found() {
        let local = "usr/local/lib/python3.13/dist-packages";
        let (server, info) = (
            format!("{local}/jupyterhub/a.py"),
            format!("{local}/jupyterhub-6.1.1.dist-info/RECORD"),
        );
        let layer = layer(&[
            ("usr/local/bin/jupyterhub-singleuser", "#!/usr/bin/python3.13\n"),
            ("usr/bin/python3.13", ""),
            ("usr/lib/python3.13/os.py", ""),
            (&server, ""),
            (&info, ""),
        ]);
        let said = said_of_layer(&layer, "/usr/local/bin:/usr/bin");
        assert!(has(&said, Level::Fact, "it has jupyterhub 6.1.1"), "{said:?}");
        assert!(has(&said, Level::Fact, "can wait"), "{said:?}");
    }

    #[test]
    fn it_is_told_whether_a_server_can_wait() {
        let can = |findings: &[Finding]| {
            let told = findings.iter().filter(|one| one.text.contains("wait for its user"));
            let told: Vec<_> = told.collect();
            assert_eq!(told.len(), 1, "{findings:?}");
            assert_eq!(told[0].level == Level::Fact, told[0].text.contains("can wait"));
            told[0].level == Level::Fact
        };
        assert!(can(&said_of("#!/opt/env/bin/python3.11\n", "python3.11")));
        assert!(can(&said_of("#!/usr/bin/env python3\n", "python3.9")));
        assert!(!can(&said_of("#!/opt/env/bin/python3.8\n", "python3.8")));
        assert!(!can(&said_of("#!/usr/bin/env -S python3 -I\n", "python3.11")));
    }
}
