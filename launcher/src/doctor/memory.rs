//! Settings of the node's memory on which it depends how fast servers are, and nothing else.

use std::fs;

use super::{Finding, fine, note};
use crate::config::Config;

/// Which shared memory gets large pages (Linux, Documentation/admin-guide/mm/transhuge.rst).
const SHARED: &str = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";

pub fn findings(config: &Config) -> Vec<Finding> {
    let asks = config.runtimes.keys().any(|name| {
        config.driver(name).is_some_and(adrastea_runtimes::Runtime::asks_for_large_pages)
    });
    let setting = fs::read_to_string(SHARED).ok().filter(|_| asks);
    setting.as_deref().and_then(large_pages).into_iter().collect()
}

/// The one in brackets holds; a kernel with none in brackets is not understood.
fn large_pages(setting: &str) -> Option<Finding> {
    let chosen = setting.split_once('[')?.1.split_once(']')?.0;
    Some(match chosen {
        "never" | "deny" => note(
            "shared memory gets no large pages: memory is slower to get under gVisor",
            format!("echo advise > {SHARED}, and the same at every boot (tmpfiles.d)"),
        ),
        _ => fine(format!("large pages for shared memory: {chosen}")),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::doctor::Severity;

    #[test]
    fn what_is_in_brackets_holds() {
        for (setting, severity) in [
            ("always within_size advise [never] deny force\n", Severity::Note),
            ("always within_size advise never [deny] force\n", Severity::Note),
            ("always within_size [advise] never deny force\n", Severity::Fine),
            ("[always] within_size advise never deny force\n", Severity::Fine),
        ] {
            assert_eq!(large_pages(setting).unwrap().severity, severity, "{setting}");
        }
        assert!(large_pages("unheard of").is_none());
    }
}
