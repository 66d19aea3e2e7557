//! The golden of the wire contract: every change of it must be made twice.

use std::{env, fs, path::Path};

use adrastea_tests::{Suite, contract};
use anyhow::{Context as _, ensure};

pub fn add(suite: &mut Suite) {
    suite.plain("contract::the_wire_is_what_the_golden_says", || {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/contract.txt");
        let now = contract::text()?;
        if env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(&golden, &now)?;
        }
        let before = fs::read_to_string(&golden).context("failed to read the golden file")?;
        let added = now.lines().filter(|line| !before.lines().any(|old| old == *line));
        let removed = before.lines().filter(|line| !now.lines().any(|new| new == *line));
        let changes: Vec<_> = added
            .map(|line| format!("+ {line}"))
            .chain(removed.map(|line| format!("- {line}")))
            .collect();
        ensure!(
            before == now,
            "the contract changed; if that is meant, run with UPDATE_GOLDEN=1:\n{}",
            changes.join("\n")
        );
        Ok(())
    });
    suite.plain("contract::no_field_reaches_below_the_policy", || {
        let text = contract::text()?;
        for word in [
            "mount",
            "capabilit",
            "device",
            "seccomp",
            "namespace",
            "annotation",
            "oci",
            "privileged",
            "volume",
        ] {
            let field = text.lines().filter(|line| line.contains(" = ")).find(|line| {
                let name = line.split(['=', ':']).nth(1).unwrap_or_default();
                name.to_lowercase().contains(word)
            });
            ensure!(field.is_none(), "the contract has `{}`", field.unwrap_or_default());
        }
        Ok(())
    });
}
