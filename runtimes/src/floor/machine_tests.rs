//! The file beside the spec of a virtual machine: each key changed, left out or added is refused,
//! and named by its wall; and the spec has what stands in the place of walls, or is refused.
#![allow(clippy::unwrap_used, clippy::panic)]

use oci_spec::runtime::{PosixRlimitBuilder, PosixRlimitType, Spec};
use toml::{Table, Value};

use super::*;
use crate::{
    MachineFiles, Runtime, RuntimeSettings, build_configuration,
    gvisor::Gvisor,
    kata::Kata,
    plan::{IdMap, tests::example},
    runc::Runc,
};

fn settings() -> RuntimeSettings {
    RuntimeSettings {
        binary: "/opt/kata/bin/containerd-shim-kata-v2".into(),
        root: "/run/adrastea/kata".into(),
        program: "Kata".into(),
        version: "4.1.0".parse().unwrap(),
        shim: None,
        machine: Some(MachineFiles {
            monitor: "/opt/qemu".into(),
            file_server: "/opt/virtiofsd".into(),
            kernel: "/opt/kernel".into(),
            image: "/opt/image".into(),
        }),
    }
}

fn written() -> Table {
    build_configuration(&Kata, &example(), &settings()).unwrap().unwrap().parse().unwrap()
}

fn breaches(table: &Table, plan: &Plan) -> Vec<Breach> {
    match check_configuration(&table.to_string(), plan) {
        Ok(()) => Vec::new(),
        Err(SpecError::Weaker { breaches }) => breaches,
        Err(other) => panic!("{other}"),
    }
}

/// Every value of the file with its way to it.
fn values(table: &Table, above: &[String], found: &mut Vec<Vec<String>>) {
    for (key, value) in table {
        let way = [above, std::slice::from_ref(key)].concat();
        match value {
            Value::Table(inner) => values(inner, &way, found),
            _ => found.push(way),
        }
    }
}

fn at<'table>(table: &'table mut Table, way: &[String]) -> &'table mut Table {
    way.iter().fold(table, |table, key| table.get_mut(key).unwrap().as_table_mut().unwrap())
}

#[test]
fn each_key_of_the_file_is_held() {
    let mut ways = Vec::new();
    values(&written(), &[], &mut ways);
    assert_eq!(ways.len(), 46);
    for way in ways {
        let (key, above) = way.split_last().unwrap();
        let mut without = written();
        at(&mut without, above).remove(key);
        assert_eq!(breaches(&without, &example()).len(), 1, "{way:?} left out");

        let mut changed = written();
        let value = at(&mut changed, above).get_mut(key).unwrap();
        *value = match value {
            Value::Boolean(value) => Value::Boolean(!*value),
            Value::Integer(_) => Value::Integer(1 << 20),
            Value::String(text) if text.starts_with('/') => Value::String("relative".into()),
            Value::String(text) => Value::String(format!("{text}x")),
            Value::Array(list) => {
                list.push(".*".into());
                Value::Array(list.clone())
            }
            other => panic!("{other}"),
        };
        assert_eq!(breaches(&changed, &example()).len(), 1, "{way:?} changed");
    }
    for way in [&["hypervisor", "qemu"][..], &["runtime"], &["agent", "kata"], &[]] {
        let way: Vec<_> = way.iter().map(ToString::to_string).collect();
        let mut more = written();
        at(&mut more, &way).insert("initrd".into(), "/of/somebody/else".into());
        assert_eq!(breaches(&more, &example())[0].wall, Wall::Other, "{way:?}");
    }
    assert!(!breaches(&Table::new(), &example()).is_empty());
    assert!(check_configuration("= no", &example()).is_err());
}

#[test]
fn another_users_numbers_are_no_translation_of_this_one() {
    let mut other = example();
    other.uid_map = IdMap::with_hole(1_900_000_000, 1000, 1_879_048_201);
    assert_eq!(breaches(&written(), &example()), []);
    let found = breaches(&written(), &other);
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].wall, Wall::IdMap);
    let mut more = written();
    let way = ["hypervisor", "qemu"].map(str::to_owned);
    let words = at(&mut more, &way).get_mut("virtio_fs_extra_args").unwrap();
    words.as_array_mut().unwrap().push("--translate-uid=map:65536:0:1".into());
    assert_eq!(breaches(&more, &example())[0].wall, Wall::IdMap);
}

#[test]
fn what_a_machine_may_do_others_may_not() {
    let spec = Kata.adapt(spec::base(&example()).unwrap(), &example()).unwrap();
    assert!(check(spec.clone(), &example(), Kernel::Machine).is_ok());
    for runtime in [&Runc as &dyn Runtime, &Gvisor] {
        assert!(check(spec.clone(), &example(), runtime.kernel()).is_err(), "{}", runtime.name());
        let theirs = runtime.adapt(spec::base(&example()).unwrap(), &example()).unwrap();
        assert!(check(theirs, &example(), Kernel::Machine).is_err(), "{}", runtime.name());
    }
}

#[test]
fn what_stands_in_the_place_of_a_wall_must_be_there() {
    let walls = |change: &dyn Fn(&mut Spec)| {
        let mut spec = Kata.adapt(spec::base(&example()).unwrap(), &example()).unwrap();
        change(&mut spec);
        match check(spec.clone(), &example(), Kernel::Machine) {
            Err(SpecError::Weaker { breaches }) => breaches.into_iter().map(|it| it.wall).collect(),
            _ => Vec::new(),
        }
    };
    assert_eq!(walls(&|_| ()), []);
    let counted = walls(&|spec| {
        let process = spec.process_mut().as_mut().unwrap();
        let mut limits = process.rlimits().clone().unwrap();
        limits.retain(|limit| limit.typ() != PosixRlimitType::RlimitNproc);
        process.set_rlimits(Some(limits));
    });
    assert_eq!(counted, [Wall::Processes]);
    let more = walls(&|spec| {
        let process = spec.process_mut().as_mut().unwrap();
        let mut limits = process.rlimits().clone().unwrap();
        let kind = PosixRlimitType::RlimitNproc;
        let most = PosixRlimitBuilder::default().typ(kind).hard(1_u64 << 20).soft(1_u64);
        *limits.last_mut().unwrap() = most.build().unwrap();
        process.set_rlimits(Some(limits));
    });
    assert_eq!(more, [Wall::Processes]);
    for (destination, source) in [("/home/jovyan", "/"), ("/etc", "HOME"), ("/home/other", "HOME")]
    {
        let mounted = walls(&|spec| {
            let mount = spec.mounts_mut().as_mut().unwrap().last_mut().unwrap();
            if source != "HOME" {
                mount.set_source(Some(source.into()));
            }
            mount.set_destination(destination.into());
        });
        assert_eq!(mounted, [Wall::Mounts], "{source} on {destination}");
    }
    let outside = walls(&|spec| {
        let linux = spec.linux_mut().as_mut().unwrap();
        linux.set_cgroups_path(Some("/adrastea/machine".into()));
    });
    assert_eq!(outside, [Wall::Cgroup]);
}
