//! The launcher's own program under another name, between the engine's shim and an
//! OCI runtime that must be told more than the shim tells, or less: adds flags, hides the
//! node's network settings where an old gVisor would take them for a sign, writes a filter the
//! way in which a runtime reads it, and takes out of the spec what was for the shim alone.
//!
//! Must never start anything in the node's own network namespace: gVisor takes the
//! addresses out of the namespace it is given.

use std::{
    convert::Infallible,
    env,
    ffi::{OsStr, OsString},
    fs, io,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    sys::resource::{Resource, setrlimit},
};
use oci_spec::runtime::{LinuxNamespaceType, Spec};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Attempt as _, HostError, chain, directories, processes};

/// The program's other name.
const NAME: &str = "adrastea-runtime";
/// What it is to do, in the directory it is called from.
const ORDERS: &str = "orders.json";
const NETWORK_SETTINGS: &str = "/proc/sys/net";

#[derive(Debug, Serialize, Deserialize)]
pub struct Orders {
    pub program: PathBuf,
    pub flags: Vec<String>,
    pub hides_network_settings: bool,
    /// Whether the runtime takes the mask of a filter's rule for its value.
    #[serde(default)]
    pub swaps_masks: bool,
    /// What a shim of the runtime's own is told, which is not for the runtime.
    #[serde(default)]
    pub shim: Option<ForShim>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct ForShim {
    /// The name of the annotation that it needs.
    pub annotation: String,
    /// Where the runtime keeps its state, whatever the shim says: when it cleans up after a shim
    /// that was killed, gVisor's has forgotten it.
    pub root: PathBuf,
}

/// Puts the other name into `directory`, which only root can write; returns its path.
pub fn install(directory: &Path, orders: &Orders) -> Result<PathBuf, HostError> {
    directories::make_root_directory(directory, 0o700, 0)?;
    let own = env::current_exe().attempt("find", "/proc/self/exe")?;
    let text = serde_json::to_vec(orders).map_err(io::Error::other);
    let (file, fresh) = (directory.join(ORDERS), directory.join(".orders.new"));
    // In one step: a runtime may be called while this launcher boots.
    text.and_then(|text| fs::write(&fresh, text))
        .and_then(|()| fs::rename(&fresh, &file))
        .attempt("write", &file)?;
    let (link, fresh) = (directory.join(NAME), directory.join(".link.new"));
    super::tolerate_absence(fs::remove_file(&fresh)).attempt("remove", &fresh)?;
    std::os::unix::fs::symlink(own, &fresh)
        .and_then(|()| fs::rename(&fresh, &link))
        .attempt("link", &link)?;
    Ok(link)
}

/// Becomes the runtime, if the program was called by its other name.
pub fn run() -> Option<ExitCode> {
    let mut words = env::args_os();
    let called = PathBuf::from(words.next()?);
    if called.file_name()? != NAME {
        return None;
    }
    let words: Vec<_> = words.collect();
    let Err(error) = become_runtime(called.parent()?, &words);
    eprintln!("adrastea: {}", chain(&error));
    Some(ExitCode::from(127))
}

fn become_runtime(directory: &Path, words: &[OsString]) -> Result<Infallible, HostError> {
    let file = directory.join(ORDERS);
    let orders: Orders = fs::read(&file)
        .and_then(|text| serde_json::from_slice(&text).map_err(io::Error::other))
        .attempt("read", &file)?;
    let command =
        words.iter().find(|word| ["create", "start", "run"].iter().any(|name| word == name));
    if let Some(command) = command {
        if command != "start" {
            refuse_node_network(&bundle(words))?;
            if orders.swaps_masks {
                rewrite(&bundle(words).join("config.json"), with_swapped_masks)?;
            }
            if let Some(shim) = &orders.shim {
                let without = |spec| without_annotation(spec, &shim.annotation);
                rewrite(&bundle(words).join("config.json"), without)?;
            }
        }
        if orders.hides_network_settings {
            hide_network_settings()?;
        }
    }
    let root = orders.shim.as_ref().map(|shim| shim.root.as_path());
    let words = words.iter().map(|word| root.map_or_else(|| word.clone(), |it| below(it, word)));
    // A core of the sentry would hold the tenant's memory, and lie on the node.
    setrlimit(Resource::RLIMIT_CORE, 0, 0).attempt("take core files from", &orders.program)?;
    Err(HostError::new(
        "execute",
        &orders.program,
        Command::new(&orders.program).args(&orders.flags).args(words).exec(),
    ))
}

/// `--bundle DIRECTORY`, or the working directory.
fn bundle(words: &[OsString]) -> PathBuf {
    let after = words.iter().skip_while(|word| *word != "--bundle" && *word != "-b").nth(1);
    after.map_or_else(|| PathBuf::from("."), PathBuf::from)
}

fn refuse_node_network(bundle: &Path) -> Result<(), HostError> {
    let file = bundle.join("config.json");
    let spec = Spec::load(&file).map_err(io::Error::other).attempt("read", &file)?;
    let namespaces = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
    let network = namespaces
        .into_iter()
        .flatten()
        .find(|namespace| namespace.typ() == LinuxNamespaceType::Network)
        .and_then(|namespace| namespace.path().clone())
        .ok_or_else(|| io::Error::other("it names no network namespace"))
        .attempt("use", &file)?;
    let own = processes::namespace(std::process::id(), "net")?;
    if processes::namespace_at(&network)? == own {
        let refused = io::Error::other("it is the node's own network namespace");
        return Err(HostError::new("use", network, refused));
    }
    Ok(())
}

/// `--root=…/NAMESPACE` with that directory of the engine's namespace below `root`; any other word
/// as it is.
fn below(root: &Path, word: &OsStr) -> OsString {
    let given = word.to_str().and_then(|word| word.strip_prefix("--root="));
    let Some(namespace) = given.and_then(|given| Path::new(given).file_name()) else {
        return word.to_owned();
    };
    let mut told = OsString::from("--root=");
    told.push(root.join(namespace));
    told
}

/// In the bundle that is about to be run, and nowhere else.
fn rewrite(file: &Path, change: impl FnOnce(Value) -> Value) -> Result<(), HostError> {
    let text = fs::read(file).attempt("read", file)?;
    let changed = serde_json::from_slice(&text)
        .map(change)
        .and_then(|spec| serde_json::to_vec(&spec))
        .map_err(io::Error::other)
        .attempt("read", file)?;
    directories::write_atomically(file, &changed, 0o600)
}

/// The same spec without that annotation, and with no empty list of them.
fn without_annotation(mut spec: Value, name: &str) -> Value {
    let all = spec.get_mut("annotations").and_then(Value::as_object_mut);
    let is_empty = all.is_some_and(|all| {
        all.remove(name);
        all.is_empty()
    });
    if let Some(spec) = spec.as_object_mut().filter(|_| is_empty) {
        spec.remove("annotations");
    }
    spec
}

/// The same spec, in which each rule that compares under a mask has mask and value swapped.
fn with_swapped_masks(mut spec: Value) -> Value {
    let rules = spec.pointer_mut("/linux/seccomp/syscalls").and_then(Value::as_array_mut);
    let arguments = rules
        .into_iter()
        .flatten()
        .filter_map(|rule| rule.get_mut("args").and_then(Value::as_array_mut))
        .flatten()
        .filter_map(Value::as_object_mut)
        .filter(|argument| argument.get("op").is_some_and(|it| it == "SCMP_CMP_MASKED_EQ"));
    for argument in arguments {
        // A value of 0 may be left out.
        let mask = argument.remove("value").unwrap_or_else(|| 0.into());
        let value = argument.remove("valueTwo").unwrap_or_else(|| 0.into());
        argument.insert("value".into(), value);
        argument.insert("valueTwo".into(), mask);
    }
    spec
}

fn hide_network_settings() -> Result<(), HostError> {
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    unshare(CloneFlags::CLONE_NEWNS)
        .and_then(|()| {
            // Not following: a copy that follows can be what keeps the node from unmounting.
            let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
            mount(None::<&str>, "/", None::<&str>, private, None::<&str>)
        })
        .and_then(|()| mount(Some("tmpfs"), NETWORK_SETTINGS, Some("tmpfs"), flags, None::<&str>))
        .attempt("hide", NETWORK_SETTINGS)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use std::{ffi::OsStr, path::Path};

    use super::{below, with_swapped_masks, without_annotation};

    #[test]
    fn what_was_for_the_shim_alone_is_taken_out_and_nothing_else() {
        let plain = json!({"process": {"args": ["init"]}});
        let mut marked = plain.clone();
        marked["annotations"] = json!({"a.b/c": "d"});
        assert_eq!(without_annotation(marked.clone(), "a.b/c"), plain);
        assert_eq!(without_annotation(plain.clone(), "a.b/c"), plain);
        marked["annotations"]["other"] = json!("kept");
        let rest = without_annotation(marked, "a.b/c");
        assert_eq!(rest["annotations"], json!({"other": "kept"}));
    }

    #[test]
    fn the_state_stays_in_its_place_whatever_the_shim_has_forgotten() {
        let told = |word: &str| below(Path::new("/run/ours"), OsStr::new(word));
        assert_eq!(told("--root=/run/containerd/runsc/one"), "--root=/run/ours/one");
        assert_eq!(told("--root=/run/ours/one"), "--root=/run/ours/one");
        assert_eq!(told("delete"), "delete");
        assert_eq!(told("--log=/root=/x"), "--log=/root=/x");
    }

    #[test]
    fn only_masks_and_their_values_are_swapped() {
        let spec = |masked: [u64; 2]| {
            json!({
                "process": {"args": ["init"]},
                "linux": {"seccomp": {"syscalls": [
                    {"names": ["read"], "action": "SCMP_ACT_ALLOW"},
                    {"names": ["clone"], "args": [
                        {"index": 0, "op": "SCMP_CMP_MASKED_EQ", "value": masked[0], "valueTwo": masked[1]},
                        {"index": 1, "op": "SCMP_CMP_EQ", "value": 5, "valueTwo": 6},
                    ]},
                ]}},
            })
        };
        assert_eq!(with_swapped_masks(spec([7, 3])), spec([3, 7]));
        let mut absent = spec([7, 0]);
        let argument = absent.pointer_mut("/linux/seccomp/syscalls/1/args/0");
        argument.and_then(|it| it.as_object_mut()?.remove("valueTwo"));
        assert_eq!(with_swapped_masks(absent), spec([0, 7]));
        assert_eq!(with_swapped_masks(json!({"linux": {}})), json!({"linux": {}}));
    }
}
