//! Hostile names: refused, or hashed into a directory of their own (SQL, paths and logs included).

use std::{collections::BTreeSet, fs};

use adrastea_proto::v1::StartRequest;
use adrastea_tests::{
    Suite,
    client::{key, request},
};
use anyhow::{Context as _, ensure};
use tonic::Code;

use crate::ask::refused;

fn homes(instance: &adrastea_tests::Instance) -> anyhow::Result<BTreeSet<String>> {
    let entries = fs::read_dir(instance.state().join("homes"))?;
    entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

pub fn add(suite: &mut Suite) {
    suite.shared("names::hostile_ones_are_refused_and_change_nothing", |instance| async move {
        let long = "x".repeat(256);
        let wide = "é".repeat(128);
        let refusals = [
            "",
            "\0",
            "a\0b",
            "new\nline",
            "tab\t",
            "\u{1b}[31mred",
            "\u{7f}",
            "e\u{301}",
            "\u{202e}evil",
            "\u{200b}",
            "a\u{feff}",
            &long,
            &wide,
        ];
        for name in refusals {
            refused(instance.try_start(request(name)).await, Code::InvalidArgument, "")
                .with_context(|| format!("user {name:?}"))?;
            refused(instance.stop(name, "").await, Code::InvalidArgument, "")
                .with_context(|| format!("user {name:?}"))?;
            if !name.is_empty() {
                let server = StartRequest { key: Some(key("named", name)), ..request("named") };
                refused(instance.try_start(server).await, Code::InvalidArgument, "")
                    .with_context(|| format!("server {name:?}"))?;
            }
        }
        for id in ["", "a b", "../x", "a\n", &"x".repeat(65)] {
            let request = StartRequest { request_id: id.into(), ..request("named") };
            refused(instance.try_start(request).await, Code::InvalidArgument, "")
                .with_context(|| format!("request id {id:?}"))?;
        }
        refused(instance.get("named").await, Code::NotFound, "")
    });

    suite.shared("names::odd_ones_get_a_home_of_their_own", |instance| async move {
        let long = "x".repeat(255);
        let odd = [
            ".",
            "..",
            "/",
            "../../etc",
            "/etc/passwd",
            "root",
            "a b",
            " a",
            "A",
            "é",
            "名前",
            "-rf",
            "~",
            "%2e%2e",
            "$(id)",
            "'; DROP TABLE sandboxes; --",
            "*",
            "u-aaaa",
            "😀",
            &long,
        ];
        let mut seen = BTreeSet::new();
        for name in odd {
            let ready = instance.start(name).await.with_context(|| format!("user {name:?}"))?;
            // Its home is empty and its own.
            let mark = instance.http(ready.address(), "/cat/home/jovyan/mark")?.1;
            ensure!(mark.starts_with("error 2:"), "{name:?} found `{mark}` at home");
            ensure!(instance.http(ready.address(), "/write/mine/home/jovyan/mark")?.1 == "written");
            let sandbox = instance.get(name).await?;
            ensure!(seen.insert(sandbox.disk_uid), "{name:?} shares its id");
            instance.stop(name, "").await?;
        }
        for home in homes(&instance)? {
            let hash = home.strip_prefix("u-").unwrap_or_default();
            ensure!(
                hash.len() == 52
                    && hash
                        .bytes()
                        .all(|byte| byte.is_ascii_lowercase() || (b'2'..=b'7').contains(&byte)),
                "home `{home}`"
            );
        }
        Ok(())
    });
}
