//! What the engine promises, case by case.

use std::{
    fs,
    os::unix::fs::{FileTypeExt, PermissionsExt},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use adrastea_runtimes::{
    engine::{
        Engine, EngineError, ExitStatus, HandlerOptions, ImportProgress, Stdio, TaskState,
        containerd::managed::ManagedContainerd,
    },
    plan::SandboxId,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{sleep, timeout},
};

use crate::{
    Case,
    archives::{ArchiveBuilder, Layer},
    bench::{Bench, REFERENCE, kill_process},
};

macro_rules! cases {
    ($($name:ident),* $(,)?) => {
        pub const ALL: &[(&str, Case)] = &[$((stringify!($name), |bench| Box::pin($name(bench)))),*];
    };
}

cases![
    an_image_s_layers_lie_in_order,
    an_image_can_be_imported_again_and_replaced,
    broken_archives_are_refused_and_leave_nothing,
    an_interrupted_import_can_be_repeated,
    a_task_runs_hears_speaks_and_exits,
    a_killed_task_is_told_apart_and_removal_is_idempotent,
    a_failed_create_leaves_nothing,
    a_shim_is_called_by_its_path_and_told_of_its_file,
    waiting_survives_a_restart_of_containerd,
    a_task_that_dies_while_containerd_is_down_is_not_forgotten,
    a_managed_containerd_is_adopted_and_stopped,
];

const KILLED: ExitStatus = ExitStatus { code: 137, known: true };

async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(20), future).await.expect("it takes too long")
}

fn read(layers: &[std::path::PathBuf], layer: usize, name: &str) -> String {
    fs::read_to_string(layers[layer].join(name)).unwrap()
}

fn three_layers() -> Vec<Layer> {
    vec![
        Layer::new().directory("etc/").file("etc/a", b"bottom").file("gone", b"x"),
        Layer::new().file("etc/a", b"middle").file(".wh.gone", b"").gzip(),
        Layer::new().file("etc/b", b"top"),
    ]
}

async fn an_image_s_layers_lie_in_order(bench: Arc<Bench>) {
    let engine = &bench.engine;
    assert!(matches!(engine.image("x").await, Err(EngineError::ImageMissing { .. })));
    let (archive, digest) = ArchiveBuilder::new().write(bench.path("three.tar"), three_layers());
    let (done, total) = (AtomicU64::new(0), AtomicU64::new(0));
    let progress = |progress: ImportProgress| {
        assert!(progress.done_bytes <= progress.total_bytes, "{progress:?}");
        done.store(progress.done_bytes, Ordering::Relaxed);
        total.store(progress.total_bytes, Ordering::Relaxed);
    };
    let image = engine.import(&archive, REFERENCE, &progress).await.unwrap();
    assert_eq!(done.into_inner(), total.into_inner());

    assert_eq!(image.reference, REFERENCE);
    assert_eq!(image.digest, digest);
    let environment = [("PATH", "/bin"), ("GREETING", "a=b")];
    assert_eq!(image.environment, environment.map(|(a, b)| (a.to_owned(), b.to_owned())));
    assert_eq!(image.layers.len(), 3);
    assert_eq!(read(&image.layers, 0, "etc/b"), "top");
    assert_eq!(read(&image.layers, 1, "etc/a"), "middle");
    assert_eq!(read(&image.layers, 2, "etc/a"), "bottom");
    let whiteout = fs::symlink_metadata(image.layers[1].join("gone")).unwrap();
    assert!(whiteout.file_type().is_char_device());

    // Found again, by name and in the list, under the same directories.
    assert_eq!(engine.image(REFERENCE).await.unwrap(), image);
    assert_eq!(engine.images().await.unwrap(), [image]);
}

async fn an_image_can_be_imported_again_and_replaced(bench: Arc<Bench>) {
    let (archive, _) = ArchiveBuilder::new().write(bench.path("three.tar"), three_layers());
    let first = bench.engine.import(&archive, REFERENCE, &|_| ()).await.unwrap();
    let again = bench.engine.import(&archive, REFERENCE, &|_| ()).await.unwrap();
    assert_eq!(first, again);

    let other = bench.image().await;
    assert_ne!(other.digest, first.digest);
    assert_eq!(bench.engine.images().await.unwrap(), [other]);
    // Sandboxes may still run on the replaced one.
    assert_eq!(read(&first.layers, 1, "etc/a"), "middle");
}

async fn broken_archives_are_refused_and_leave_nothing(bench: Arc<Bench>) {
    let engine = &bench.engine;
    for kind in ["layer", "configuration", "manifest"] {
        let path = bench.path(&format!("{kind}.tar"));
        let (archive, _) = ArchiveBuilder::new().flip(kind).write(path, three_layers());
        let error = engine.import(&archive, REFERENCE, &|_| ()).await.unwrap_err();
        let EngineError::BadArchive { reason, .. } = error else { panic!("{error:?}") };
        assert!(reason.contains("another digest"), "{kind}: {reason}");
    }
    let mut layers = three_layers();
    layers[1].wrong_diff_id = true;
    let (archive, _) = ArchiveBuilder::new().write(bench.path("diff.tar"), layers);
    let error = engine.import(&archive, REFERENCE, &|_| ()).await.unwrap_err();
    let EngineError::BadArchive { reason, .. } = error else { panic!("{error:?}") };
    assert!(reason.contains("unpacks to"), "{reason}");

    let error = engine.import(Path::new("/nowhere.tar"), REFERENCE, &|_| ()).await.unwrap_err();
    assert_eq!(error.to_string(), "failed to read `/nowhere.tar`");

    assert!(engine.images().await.unwrap().is_empty());
    let (archive, _) = ArchiveBuilder::new().write(bench.path("good.tar"), three_layers());
    engine.import(&archive, REFERENCE, &|_| ()).await.unwrap();
}

async fn an_interrupted_import_can_be_repeated(bench: Arc<Bench>) {
    let archive = bench.one_layer();
    for step in ["storing layers", "unpacking layers"] {
        let pid = bench.containerd_pid().await;
        let killed = AtomicBool::new(false);
        let progress = |progress: ImportProgress| {
            if progress.step == step && !killed.swap(true, Ordering::Relaxed) {
                kill_process(pid);
            }
        };
        let error = bench.engine.import(&archive, REFERENCE, &progress).await.unwrap_err();
        assert!(matches!(error, EngineError::Unavailable { .. }), "{step}: {error:?}");
        bench.kill_containerd().await;
        bench.ensure().await;
        assert!(bench.engine.images().await.unwrap().is_empty());
    }
    let image = bench.engine.import(&archive, REFERENCE, &|_| ()).await.unwrap();
    assert!(image.layers[0].join("bin/guest").exists());
}

async fn a_task_runs_hears_speaks_and_exits(bench: Arc<Bench>) {
    bench.image().await;
    let created = bench.create("exits0000000", &["exit", "7"]).await;
    assert!(Path::new(&format!("/proc/{}", created.pid)).exists());
    assert_eq!(bench.engine.list().await.unwrap()[0].state, TaskState::Created);
    bench.engine.start(&created.id).await.unwrap();
    let status = soon(bench.engine.wait(&created.id)).await.unwrap();
    assert_eq!(status, ExitStatus { code: 7, known: true });
    // Still to be asked until it is deleted.
    assert_eq!(soon(bench.engine.wait(&created.id)).await.unwrap(), status);
    let listed = bench.engine.list().await.unwrap();
    assert_eq!((listed[0].state, listed[0].pid), (TaskState::Stopped, 0));
    bench.engine.delete(&created.id).await.unwrap();

    let mut created = bench.create("echo00000000", &["echo"]).await;
    bench.engine.start(&created.id).await.unwrap();
    created.input.write_all(b"hello\n").await.unwrap();
    let mut heard = [0; 12];
    soon(created.output.read_exact(&mut heard)).await.unwrap();
    assert_eq!(&heard, b"heard hello\n");
    assert_eq!(soon(bench.engine.wait(&created.id)).await.unwrap().code, 0);
}

async fn a_killed_task_is_told_apart_and_removal_is_idempotent(bench: Arc<Bench>) {
    let engine = &bench.engine;
    bench.image().await;
    let created = bench.create("sleeps000000", &["sleep"]).await;
    engine.start(&created.id).await.unwrap();
    let listed = engine.list().await.unwrap();
    assert_eq!((listed[0].state, listed[0].pid), (TaskState::Running, created.pid));
    engine.kill(&created.id, 9).await.unwrap();
    assert_eq!(soon(engine.wait(&created.id)).await.unwrap(), KILLED);
    engine.kill(&created.id, 9).await.unwrap();

    let running = bench.create("running00000", &["sleep"]).await;
    engine.start(&running.id).await.unwrap();
    let waiting = bench.create("waiting00000", &["sleep"]).await;
    for id in [&created.id, &running.id, &waiting.id] {
        soon(engine.delete(id)).await.unwrap();
        soon(engine.delete(id)).await.unwrap();
        engine.kill(id, 15).await.unwrap();
        let lost = soon(engine.wait(id)).await.unwrap();
        assert!(!lost.known);
    }
    assert!(engine.list().await.unwrap().is_empty());
}

async fn a_failed_create_leaves_nothing(bench: Arc<Bench>) {
    let image = bench.image().await;
    let id: SandboxId = "broken000000".parse().unwrap();
    let spec = bench.spec(id.as_str(), &image.layers[0], &["sleep"]);
    let nowhere = Stdio { stdin: "/dev/null".into(), stdout: "/dev/null".into() };
    let mut handler = bench.handler();
    let HandlerOptions::Runc { binary, .. } = &mut handler.options else {
        panic!("the bench drives a runc")
    };
    *binary = "/nowhere/runc".into();
    let error = bench.engine.create(&id, &spec, &handler, &nowhere).await.unwrap_err();
    assert_eq!(error.to_string(), "failed to create task `broken000000`");
    assert!(bench.engine.list().await.unwrap().is_empty());

    // An id in use: refused, and the sandbox that has it stays.
    let created = bench.create("existing0000", &["sleep"]).await;
    let handler = bench.handler();
    assert!(bench.engine.create(&created.id, &spec, &handler, &nowhere).await.is_err());
    assert_eq!(bench.engine.list().await.unwrap().len(), 1);
}

/// With a double: containerd's shim for runc under the name of Kata's, which cannot read the
/// options of Kata's and says so.
async fn a_shim_is_called_by_its_path_and_told_of_its_file(bench: Arc<Bench>) {
    let image = bench.image().await;
    let (double, calls) = (bench.path("containerd-shim-kata-v2"), bench.path("calls"));
    let real = bench.shim();
    let script = format!(
        "#!/bin/sh\necho \"$@\" >> '{}'\nexec '{}' \"$@\"\n",
        calls.display(),
        real.display()
    );
    fs::write(&double, script).unwrap();
    fs::set_permissions(&double, fs::Permissions::from_mode(0o755)).unwrap();

    let mut handler = bench.handler();
    handler.runtime = double.display().to_string();
    let created = bench.create_by(&handler, "bypath000000", &["sleep"]).await;
    let called = fs::read_to_string(&calls).unwrap();
    assert!(called.contains("-id bypath000000"), "{called}");
    bench.engine.delete(&created.id).await.unwrap();

    handler.options =
        HandlerOptions::Configured { configuration: bench.path("kata.toml"), kind: None };
    let id: SandboxId = "options00000".parse().unwrap();
    let spec = bench.spec(id.as_str(), &image.layers[0], &["sleep"]);
    let nowhere = Stdio { stdin: "/dev/null".into(), stdout: "/dev/null".into() };
    let error = bench.engine.create(&id, &spec, &handler, &nowhere).await.unwrap_err();
    assert!(format!("{error:?}").contains("runtimeoptions.v1.Options"), "{error:?}");
    assert!(bench.engine.list().await.unwrap().is_empty());
}

async fn waiting_survives_a_restart_of_containerd(bench: Arc<Bench>) {
    bench.image().await;
    let created = bench.create("survives0000", &["sleep"]).await;
    bench.engine.start(&created.id).await.unwrap();
    let (engine, id) = (bench.engine.clone(), created.id.clone());
    let waiting = tokio::spawn(async move { engine.wait(&id).await });
    sleep(Duration::from_millis(200)).await;

    bench.kill_containerd().await;
    let error = bench.engine.kill(&created.id, 0).await.unwrap_err();
    assert!(matches!(error, EngineError::Unavailable { .. }), "{error:?}");
    let error = bench.engine.list().await.unwrap_err();
    assert!(matches!(error, EngineError::Unavailable { .. }), "{error:?}");
    assert!(!bench.ensure().await);

    let listed = bench.engine.list().await.unwrap();
    assert_eq!((listed[0].state, listed[0].pid), (TaskState::Running, created.pid));
    sleep(Duration::from_millis(500)).await;
    assert!(!waiting.is_finished());
    bench.engine.kill(&created.id, 9).await.unwrap();
    assert_eq!(soon(waiting).await.unwrap().unwrap(), KILLED);
}

async fn a_task_that_dies_while_containerd_is_down_is_not_forgotten(bench: Arc<Bench>) {
    bench.image().await;
    let created = bench.create("diesalone000", &["sleep"]).await;
    bench.engine.start(&created.id).await.unwrap();
    let (engine, id) = (bench.engine.clone(), created.id.clone());
    let waiting = tokio::spawn(async move { engine.wait(&id).await });
    sleep(Duration::from_millis(200)).await;

    bench.kill_containerd().await;
    kill_process(i32::try_from(created.pid).unwrap());
    sleep(Duration::from_millis(300)).await;
    assert!(!waiting.is_finished());
    bench.ensure().await;
    // Some versions know how it ended, others only that it is gone.
    let status = soon(waiting).await.unwrap().unwrap();
    assert!(status == KILLED || !status.known, "{status:?}");
    soon(bench.engine.delete(&created.id)).await.unwrap();
    assert!(bench.engine.list().await.unwrap().is_empty());
}

async fn a_managed_containerd_is_adopted_and_stopped(bench: Arc<Bench>) {
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let socket = bench.settings.socket();
    assert_eq!(mode(&socket), 0o600);
    assert_eq!(mode(&bench.settings.run), 0o700);
    assert_eq!(mode(&bench.settings.root), 0o700);

    let pid = bench.containerd_pid().await;
    assert!(bench.ensure().await);
    assert_eq!(bench.containerd_pid().await, pid);
    // A lost pidfile, and one that names somebody else.
    let pidfile = bench.settings.run.join("containerd.pid");
    for wrong in [None, Some(format!("{} 1\n", std::process::id()))] {
        match wrong {
            None => fs::remove_file(&pidfile).unwrap(),
            Some(text) => fs::write(&pidfile, text).unwrap(),
        }
        assert!(bench.ensure().await);
        assert_eq!(bench.containerd_pid().await, pid);
    }
    let version = bench.engine.version().await.unwrap();
    assert!(version.starts_with("2.") || version.starts_with("1.7."), "{version}");

    let managed = ManagedContainerd::ensure(&bench.settings).await.unwrap();
    managed.stop().await.unwrap();
    assert!(Path::new(&format!("/proc/{pid}/exe")).read_link().is_err());
    assert!(!socket.exists() && !pidfile.exists());
    let error = bench.engine.version().await.unwrap_err();
    assert!(matches!(error, EngineError::Unavailable { .. }), "{error:?}");

    let mut settings = bench.settings.clone();
    settings.binary = "/bin/true".into();
    let error = ManagedContainerd::ensure(&settings).await.unwrap_err();
    assert!(error.to_string().starts_with("failed to use `/"), "{error}");
}
