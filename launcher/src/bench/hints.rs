//! What the start form says beside a runtime: what it costs, by the node's own last
//! benchmark. Without one, or with one that cannot be read, nothing is said.

use std::{collections::BTreeMap, fs, path::Path};

use serde_json::Value;

use super::report::SCHEMA;

/// The time of a start for the first runtime that was measured; for the others, the difference from it.
/// `waiting`: the runtime whose sandboxes wait for these users, if any do.
pub fn of(report: &Path, runtimes: &[String], waiting: Option<&str>) -> BTreeMap<String, String> {
    let text = fs::read(report).unwrap_or_default();
    let report: Value = serde_json::from_slice(&text).unwrap_or_default();
    if report["schema"] != SCHEMA {
        return BTreeMap::new();
    }
    let measured: Vec<(&String, Cost)> =
        runtimes.iter().filter_map(|name| Some((name, Cost::of(&report, name)?))).collect();
    let Some((first, others)) = measured.split_first() else { return BTreeMap::new() };
    let beside = others.iter().map(|(name, cost)| ((*name).clone(), cost.beside(&first.1)));
    let own = [(first.0.clone(), format!("{:.1} s start", first.1.start_ms / 1000.0))];
    let mut hints: BTreeMap<String, String> = beside.chain(own).collect();
    let warm = waiting.and_then(|name| measured.iter().find(|(measured, _)| *measured == name));
    if let Some((name, Cost { warm: Some(ms), .. })) = warm
        && let Some(hint) = hints.get_mut(*name)
    {
        // The pool may be empty: both times are told.
        *hint = format!("{hint}, {:.1} s when one waits", ms / 1000.0);
    }
    hints
}

struct Cost {
    start_ms: f64,
    /// In milliseconds, with a sandbox that waits.
    warm: Option<f64>,
    /// Of a loop in Python.
    loop_ms: Option<f64>,
}

impl Cost {
    fn of(report: &Value, runtime: &str) -> Option<Self> {
        let all = report["runtimes"].as_array()?;
        let own = all.iter().find(|one| one["runtime"] == runtime)?;
        let start_ms = own["starts"]["cold"]["total_ms"]["p50"].as_f64()?;
        let warm = own["starts"]["warm"]["total_ms"]["p50"].as_f64();
        let inside = own["inside"].as_array();
        let figure = inside.and_then(|it| it.iter().find(|one| one["name"] == "Python loop"));
        let loop_ms = figure.and_then(|it| it["value"]["p50"].as_f64()).filter(|ms| *ms > 0.0);
        Some(Self { start_ms, warm, loop_ms })
    }

    fn beside(&self, first: &Self) -> String {
        let start = format!("{:+.1} s start", (self.start_ms - first.start_ms) / 1000.0);
        let speed = self.loop_ms.zip(first.loop_ms).map(|(own, first)| (first / own - 1.0) * 100.0);
        match speed {
            Some(percent) if percent.abs() >= 0.5 => format!("{start}, {percent:+.0} % CPU"),
            _ => start,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn runtime(name: &str, start: f64, python: Option<f64>) -> Value {
        let inside =
            python.map(|ms| serde_json::json!({"name": "Python loop", "value": {"p50": ms}}));
        let starts = serde_json::json!({"cold": {"total_ms": {"p50": start}}});
        serde_json::json!({"runtime": name, "starts": starts, "inside": [inside]})
    }

    fn hints(schema: &str, runtimes: &[Value], asked: &[&str]) -> Vec<(String, String)> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("report.json");
        let report = serde_json::json!({"schema": schema, "runtimes": runtimes});
        fs::write(&path, report.to_string()).unwrap();
        let asked: Vec<String> = asked.iter().map(|name| (*name).to_owned()).collect();
        of(&path, &asked, Some("runc")).into_iter().collect()
    }

    #[test]
    fn a_runtime_is_compared_with_the_profiles_first() {
        let measured = [
            runtime("runc", 1800.0, Some(100.0)),
            runtime("gvisor", 2140.0, Some(105.0)),
            runtime("kata", 1800.0, None),
        ];
        let said = |name: &str, text: &str| (name.to_owned(), text.to_owned());
        assert_eq!(
            hints(SCHEMA, &measured, &["runc", "gvisor", "kata"]),
            [
                said("gvisor", "+0.3 s start, -5 % CPU"),
                said("kata", "+0.0 s start"),
                said("runc", "1.8 s start")
            ]
        );
        assert_eq!(
            hints(SCHEMA, &measured, &["gvisor", "runc"]),
            [said("gvisor", "2.1 s start"), said("runc", "-0.3 s start, +5 % CPU")]
        );
    }

    #[test]
    fn a_start_that_finds_one_waiting_is_told_where_some_wait() {
        let mut measured = [runtime("runc", 1800.0, None), runtime("gvisor", 5000.0, None)];
        for (place, ms) in [(0, 260.0), (1, 900.0)] {
            measured[place]["starts"]["warm"] = serde_json::json!({"total_ms": {"p50": ms}});
        }
        let said = |name: &str, text: &str| (name.to_owned(), text.to_owned());
        assert_eq!(
            hints(SCHEMA, &measured, &["runc", "gvisor"]),
            [said("gvisor", "+3.2 s start"), said("runc", "1.8 s start, 0.3 s when one waits")]
        );
        measured[0]["starts"]["warm"] = serde_json::json!({"total_ms": null});
        assert_eq!(hints(SCHEMA, &measured, &["runc"]), [said("runc", "1.8 s start")]);
    }

    #[test]
    fn what_was_not_measured_or_not_understood_says_nothing() {
        let measured = [runtime("runc", 1800.0, None)];
        assert_eq!(hints(SCHEMA, &measured, &["gvisor"]), []);
        assert_eq!(hints(SCHEMA, &measured, &["runc", "gvisor"]).len(), 1);
        assert_eq!(
            hints(
                "adrastea.bench/1",
                &[measured[0].clone(), runtime("gvisor", 1.0, None)],
                &["runc", "gvisor"]
            ),
            []
        );
        assert_eq!(of(Path::new("/nonexistent"), &["runc".into()], None), BTreeMap::new());
    }
}
