//! Whether the node's clock tells the time: due dates, certificates and the audit
//! log go by it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{Finding, fine, note, problem};
use crate::host::clock_source;

/// 2026-01-01: this version is not older.
const NOT_BEFORE: Duration = Duration::from_secs(1_767_225_600);

pub fn findings() -> Vec<Finding> {
    vec![judge(SystemTime::now(), clock_source::is_synchronised().ok())]
}

fn judge(now: SystemTime, synchronised: Option<bool>) -> Finding {
    let fix = "run chrony or systemd-timesyncd";
    if now < UNIX_EPOCH + NOT_BEFORE {
        return problem("the clock is wrong: it says a time before this version was made", fix);
    }
    match synchronised {
        Some(true) => fine("the clock is synchronised"),
        Some(false) => note("the clock is not synchronised with anything", fix),
        None => note("whether the clock is synchronised cannot be seen", fix),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Severity, *};

    #[test]
    fn a_clock_before_this_version_is_wrong() {
        let now = UNIX_EPOCH + NOT_BEFORE;
        assert_eq!(judge(UNIX_EPOCH, Some(true)).severity, Severity::Problem);
        assert_eq!(judge(now, Some(true)).severity, Severity::Fine);
        assert_eq!(judge(now, Some(false)).severity, Severity::Note);
        assert_eq!(judge(now, None).severity, Severity::Note);
    }
}
