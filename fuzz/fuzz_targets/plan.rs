//! Plans that no code of ours would make: each is refused, or gives under every runtime
//! a spec that is not below the floor. Nothing panics.

#![no_main]

use adrastea_runtimes::{
    all, build_spec, floor,
    plan::{IdMap, ImageUser, Limits, Plan},
};
use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
struct Wish {
    id: String,
    texts: [String; 7],
    user: (u32, u32),
    maps: [(u32, u32); 2],
    limits: (u64, u64, u32, u64, u64, u64),
}

fuzz_target!(|wish: Wish| {
    let Ok(id) = wish.id.parse() else { return };
    let [hostname, rootfs, init, user_namespace, network_namespace, home, cgroup] = wish.texts;
    let map = |(first, disk): (u32, u32), user: u32| IdMap::with_hole(first, user, disk);
    let (memory_bytes, cpu_millis, processes, open_files, tmp_bytes, shm_bytes) = wish.limits;
    let plan = Plan {
        id,
        hostname,
        rootfs: rootfs.into(),
        init: init.into(),
        user_namespace: user_namespace.into(),
        network_namespace: network_namespace.into(),
        uid_map: map(wish.maps[0], wish.user.0),
        gid_map: map(wish.maps[1], wish.user.1),
        user: ImageUser { uid: wish.user.0, gid: wish.user.1, home: home.into() },
        cgroup,
        apparmor_profile: None,
        limits: Limits { memory_bytes, cpu_millis, processes, open_files, tmp_bytes, shm_bytes },
    };
    for runtime in all() {
        if let Ok(spec) = build_spec(*runtime, &plan) {
            assert!(plan.validate().is_ok(), "a plan that is not valid has a spec");
            floor::check(spec, &plan, runtime.kernel()).expect("the floor holds");
        }
    }
});
