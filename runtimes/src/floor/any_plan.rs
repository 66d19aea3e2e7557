//! Plans that no code of ours would make: each is refused, or gives under every runtime a spec
//! that is not below the floor. `fuzz/fuzz_targets/plan.rs` tries the same with more of them.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::check;
use crate::{
    all, build_spec,
    plan::{IdMap, ImageUser, Limits, Plan, tests::example},
};

/// A text of the plan: what is right there, what tempts a runtime, or anything.
fn text(right: String) -> impl Strategy<Value = String> {
    let tempting = ["", "/", "..", "/proc/self/fd/7", "/sys/fs/cgroup", "/home/../etc", "a\0b"];
    prop_oneof![
        6 => Just(right),
        1 => prop::sample::select(tempting.to_vec()).prop_map(str::to_owned),
        1 => any::<String>(),
    ]
}

fn path(right: &Path) -> impl Strategy<Value = PathBuf> + use<> {
    text(right.display().to_string()).prop_map(PathBuf::from)
}

fn number<T: Copy + Default + std::fmt::Debug + Arbitrary + 'static>(
    right: T,
) -> impl Strategy<Value = T> {
    prop_oneof![6 => Just(right), 1 => any::<T>(), 1 => Just(T::default())]
}

fn map(right: IdMap) -> impl Strategy<Value = IdMap> {
    prop_oneof![
        6 => Just(right),
        1 => (any::<u32>(), any::<u32>(), any::<u32>())
            .prop_map(|(first, user, disk)| IdMap::with_hole(first, user, disk)),
    ]
}

fn limits(right: &Limits) -> impl Strategy<Value = Limits> + use<> {
    (
        number(right.memory_bytes),
        number(right.cpu_millis),
        number(right.processes),
        number(right.open_files),
        number(right.tmp_bytes),
        number(right.shm_bytes),
    )
        .prop_map(|(memory_bytes, cpu_millis, processes, open_files, tmp_bytes, shm_bytes)| {
            Limits { memory_bytes, cpu_millis, processes, open_files, tmp_bytes, shm_bytes }
        })
}

fn plan() -> impl Strategy<Value = Plan> {
    let right = example();
    let limits = limits(&right.limits);
    let paths = (
        path(&right.rootfs),
        path(&right.init),
        path(&right.user_namespace),
        path(&right.network_namespace),
        path(&right.user.home),
    );
    let identity =
        (map(right.uid_map), map(right.gid_map), number(right.user.uid), number(right.user.gid));
    (text(right.hostname), text(right.cgroup), paths, identity, limits).prop_map(
        move |(hostname, cgroup, paths, (uid_map, gid_map, uid, gid), limits)| {
            let (rootfs, init, user_namespace, network_namespace, home) = paths;
            Plan {
                id: right.id.clone(),
                hostname,
                rootfs,
                init,
                user_namespace,
                network_namespace,
                uid_map,
                gid_map,
                user: ImageUser { uid, gid, home },
                cgroup,
                apparmor_profile: None,
                limits,
            }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn no_plan_gives_a_spec_below_the_floor(plan in plan()) {
        for runtime in all() {
            let built = build_spec(*runtime, &plan);
            prop_assert_eq!(built.is_ok(), plan.validate().is_ok(), "{:?}", built.err());
            if let Ok(spec) = built {
                prop_assert!(check(spec.clone(), &plan, runtime.kernel()).is_ok());
                let user = spec.process().as_ref().unwrap().user();
                prop_assert!(user.uid() != 0 && user.uid() == plan.user.uid);
            }
        }
    }
}
