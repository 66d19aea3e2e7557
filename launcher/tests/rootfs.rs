//! The root file system of a sandbox on the real kernel: many layers, mapped
//! ids, and a skeleton over a hostile image. Needs root, and refuses without it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink},
    path::{Path, PathBuf},
};

use adrastea::{
    host::{mounts, namespaces},
    image::{self, Skeleton},
};
use adrastea_runtimes::plan::IdMap;
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};

const RANGE: u32 = 2_013_265_920;
const DISK: u32 = 1_879_048_200;

/// Mounts of a test stay on its own thread's namespace, and end with it.
fn apart<T: Send + 'static>(work: impl FnOnce(&Path) -> T + Send + 'static) -> T {
    assert!(
        nix::unistd::geteuid().is_root(),
        "this test needs root: it makes namespaces and mounts"
    );
    std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
            .unwrap();
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o711)).unwrap();
        work(directory.path())
    })
    .join()
    .unwrap()
}

fn user_namespace(directory: &Path) -> PathBuf {
    let (user, network) = (directory.join("user.ns"), directory.join("network.ns"));
    let map = IdMap::with_hole(RANGE, 1000, DISK).to_proc_text();
    namespaces::create_pinned(&user, &network, &map, &map).unwrap();
    user
}

fn layers(directory: &Path, count: u32) -> Vec<PathBuf> {
    (0..count)
        .map(|number| {
            let layer = directory
                .join("a-rather-long-name-of-a-layer-as-engines-give-them")
                .join(number.to_string());
            fs::create_dir_all(layer.join("data")).unwrap();
            fs::write(layer.join("data").join(number.to_string()), "").unwrap();
            fs::write(layer.join("data/top"), number.to_string()).unwrap();
            fs::write(layer.join("data/jovyan"), "").unwrap();
            chown(layer.join("data/jovyan"), Some(1000), Some(1000)).unwrap();
            layer
        })
        .collect()
}

fn skeleton(directory: &Path) -> PathBuf {
    let init = directory.join("init");
    fs::write(&init, "init").unwrap();
    let skeletons = directory.join("skeletons");
    fs::create_dir(&skeletons).unwrap();
    Skeleton { home: Path::new("/home/jovyan"), resolv_conf: "# none\n", init: &init }
        .ensure(&skeletons)
        .unwrap()
}

#[test]
fn fifty_layers_are_mapped_stacked_and_read_only() {
    apart(|directory| {
        let user = user_namespace(directory);
        let layers = layers(directory, 50);
        let base = directory.join("sandbox");
        let rootfs = image::mount(&base, &skeleton(directory), &layers, &user).unwrap();
        for number in 0..50 {
            assert!(
                rootfs.join("data").join(number.to_string()).exists(),
                "layer {number} is missing"
            );
        }
        assert_eq!(
            fs::read_to_string(rootfs.join("data/top")).unwrap(),
            "0",
            "the first layer is the topmost"
        );
        assert_eq!(fs::metadata(rootfs.join("data/top")).unwrap().uid(), RANGE, "root's files");
        assert_eq!(
            fs::metadata(rootfs.join("data/jovyan")).unwrap().uid(),
            DISK,
            "the image's user's files"
        );
        assert_eq!(fs::metadata(rootfs.join(".adrastea/init")).unwrap().uid(), RANGE, "the init");
        assert!(fs::write(rootfs.join("data/new"), "").is_err(), "it can be written");
        let line =
            mounts::parse_mountinfo(&fs::read_to_string("/proc/thread-self/mountinfo").unwrap());
        let options = &line.iter().find(|mount| mount.point == rootfs).unwrap().options;
        for option in ["ro", "nosuid", "nodev"] {
            assert!(
                options.iter().any(|present| present == option),
                "{option} is missing: {options:?}"
            );
        }
        mounts::unmount_rootfs(&base).unwrap();
        mounts::unmount_rootfs(&base).unwrap();
        assert!(!rootfs.exists());
    });
}

#[test]
fn links_of_a_hostile_image_are_covered() {
    apart(|directory| {
        let user = user_namespace(directory);
        let victim = directory.join("victim");
        fs::create_dir(&victim).unwrap();
        let layer = directory.join("layer");
        fs::create_dir(&layer).unwrap();
        for name in ["proc", "sys", "dev", "run", "tmp", "etc", ".adrastea", "home"] {
            symlink(&victim, layer.join(name)).unwrap();
        }
        let base = directory.join("sandbox");
        let rootfs = image::mount(&base, &skeleton(directory), &[layer], &user).unwrap();
        for name in ["proc", "sys", "dev", "run", "tmp", "etc", ".adrastea", "home/jovyan"] {
            let metadata = fs::symlink_metadata(rootfs.join(name)).unwrap();
            assert!(metadata.is_dir(), "{name} is no directory");
        }
        assert_eq!(fs::read_to_string(rootfs.join("etc/hosts")).unwrap(), "127.0.0.1 localhost\n");
        mounts::unmount_rootfs(&base).unwrap();
        assert_eq!(
            fs::read_dir(&victim).unwrap().count(),
            0,
            "something was made behind the links"
        );
    });
}

#[test]
fn what_is_mounted_in_a_directory_outlives_its_removal() {
    apart(|directory| {
        let (home, place) = (directory.join("homes/ana"), directory.join("run/left"));
        fs::create_dir_all(&home).unwrap();
        fs::write(home.join("work"), "kept").unwrap();
        for name in ["rw/home", "ro"] {
            fs::create_dir_all(place.join(name)).unwrap();
        }
        let bind = |from: &Path, to: &Path| {
            mount(Some(from), to, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)
                .unwrap();
        };
        // Mounted twice over one another, and once more through another path.
        bind(&home, &place.join("rw/home"));
        bind(&home, &place.join("rw/home"));
        bind(&place.join("rw"), &place.join("ro"));
        assert_eq!(fs::read_to_string(place.join("ro/home/work")).unwrap(), "kept");
        mounts::remove_with_mounts(&place).unwrap();
        assert!(!place.exists());
        assert_eq!(fs::read_to_string(home.join("work")).unwrap(), "kept");
        // Neither what is absent nor where a link leads is touched.
        mounts::remove_with_mounts(&place).unwrap();
        symlink(&home, &place).unwrap();
        mounts::remove_with_mounts(&place).unwrap();
        assert_eq!(fs::read_to_string(home.join("work")).unwrap(), "kept");
    });
}

#[test]
fn a_home_that_is_bound_beforehand_gives_nothing_its_files_name() {
    apart(|directory| {
        let (home, place) = (directory.join("on-disk"), directory.join("home"));
        for path in [&home, &place] {
            fs::create_dir(path).unwrap();
        }
        fs::write(home.join("work"), "kept").unwrap();
        let open = fs::File::open(&home).unwrap();
        mounts::attach_here(std::os::fd::AsFd::as_fd(&open), &place).unwrap();
        assert_eq!(fs::read_to_string(place.join("work")).unwrap(), "kept");
        let all =
            mounts::parse_mountinfo(&fs::read_to_string("/proc/thread-self/mountinfo").unwrap());
        let line = all.iter().find(|mount| mount.point == place).unwrap();
        for flag in ["nosuid", "nodev"] {
            assert!(line.options.iter().any(|option| option == flag), "{flag}: {line:?}");
        }
        assert!(!line.propagates);
        mounts::unmount_rootfs(directory).unwrap();
        assert!(!place.exists());
        assert_eq!(fs::read_to_string(home.join("work")).unwrap(), "kept");
    });
}
