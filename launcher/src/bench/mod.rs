//! What a benchmark's report is, in numbers, words and pictures. Pure: measures
//! nothing, and knows neither launcher nor wire; `cli::bench` does.

mod canvas;
pub mod hints;
mod markdown;
mod pictures;
pub mod report;
pub mod statistics;

use std::{fs, path::Path};

use anyhow::Context as _;

use report::Report;

/// Writes `report.json`, `report.md` and the pictures, as SVG and PNG.
pub fn write(report: &Report, folder: &Path) -> anyhow::Result<()> {
    let put = |name: &str, content: &[u8]| {
        let path = folder.join(name);
        fs::write(&path, content).with_context(|| format!("failed to write `{}`", path.display()))
    };
    put("report.json", format!("{}\n", serde_json::to_string_pretty(report)?).as_bytes())?;
    let pictures = pictures::all(report);
    for (name, drawing) in &pictures {
        put(&format!("{name}.svg"), drawing.svg().as_bytes())?;
        put(&format!("{name}.png"), &drawing.png()?)?;
    }
    let names: Vec<&str> = pictures.iter().map(|(name, _)| *name).collect();
    put("report.md", markdown::page(report, &names).as_bytes())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::unreadable_literal)]
mod tests {
    use super::{
        report::{
            Better, Failures, Machine, Measurement, Memory, MemoryPoint, Plan, ProfileFacts,
            RuntimeReport, Starts, Step, Storm,
        },
        statistics::Spread,
        *,
    };

    fn machine() -> Machine {
        Machine {
            processor: "a processor".into(),
            cores: 2,
            memory_mib: 4096,
            kernel: "6.1.0".into(),
            distribution: "Debian".into(),
            cgroup_version: 2,
            launcher: "adrastea 1".into(),
            containerd: "containerd 2".into(),
            load_before: 0.5,
            load_after: 1.5,
        }
    }

    /// Of which one missed what waited.
    fn warm() -> Starts {
        Starts {
            total_ms: Spread::of(&[25.0]),
            first_cell_ms: Spread::of(&[625.0]),
            steps: vec![Step { step: "claim".into(), ms: Spread::of(&[9.0]).unwrap() }],
            stop_ms: Spread::of(&[20.0]),
            misses: 1,
            failures: Failures::default(),
        }
    }

    fn fast() -> RuntimeReport {
        let storm = Storm {
            at_once: 5,
            total_ms: Some(900.0),
            start_ms: Spread::of(&[400.0, 900.0]),
            longest_queue: 3,
            misses: 0,
            failures: Failures { count: 3, reasons: vec!["no room | at all".into()] },
        };
        let missed = Storm {
            at_once: 5,
            total_ms: None,
            start_ms: Spread::of(&[30.0]),
            longest_queue: 0,
            misses: 4,
            failures: Failures::default(),
        };
        RuntimeReport {
            runtime: "fast".into(),
            version: "fast 1".into(),
            starts: [
                (
                    "cold",
                    Starts {
                        total_ms: Spread::of(&[100.0, 110.0]),
                        first_cell_ms: Spread::of(&[700.0, 720.0]),
                        steps: vec![
                            Step { step: "check".into(), ms: Spread::of(&[1.0]).unwrap() },
                            Step { step: "server".into(), ms: Spread::of(&[90.0]).unwrap() },
                        ],
                        stop_ms: Spread::of(&[20.0]),
                        misses: 0,
                        failures: Failures::default(),
                    },
                ),
                (report::WARM, warm()),
            ]
            .into(),
            storms: [(report::COLD, vec![storm]), (report::WARM, vec![missed])].into(),
            memory: Some(Memory {
                points: vec![MemoryPoint { users: 5, sandboxes_mib: 50.0, shims_mib: 10.0 }],
                per_user_mib: Some(12.0),
            }),
            inside: vec![
                measurement("calls", Better::Higher, Some(200.0)),
                measurement("loop", Better::Lower, Some(5.0)),
                measurement("absent", Better::Lower, None),
            ],
        }
    }

    fn measurement(name: &str, better: Better, value: Option<f64>) -> Measurement {
        Measurement {
            name: name.into(),
            unit: "ms".into(),
            better,
            missing: value.is_none().then(|| "it is not there".into()),
            value: value.and_then(|value| Spread::of(&[value])),
        }
    }

    /// One that could not start at all.
    fn broken() -> RuntimeReport {
        RuntimeReport {
            runtime: "broken".into(),
            version: "unknown".into(),
            starts: [(
                "cold",
                Starts {
                    total_ms: None,
                    first_cell_ms: None,
                    steps: Vec::new(),
                    stop_ms: None,
                    misses: 0,
                    failures: Failures { count: 6, reasons: vec!["it is not installed".into()] },
                },
            )]
            .into(),
            storms: std::collections::BTreeMap::new(),
            memory: None,
            inside: vec![measurement("calls", Better::Higher, Some(50.0))],
        }
    }

    fn report(runtimes: Vec<RuntimeReport>) -> Report {
        Report {
            schema: report::SCHEMA,
            made_at: 0,
            seconds: 12.0,
            machine: machine(),
            profile: ProfileFacts { name: "standard".into(), memory_mib: 1024, cpu_millis: 1500 },
            plan: Plan { quick: true, rounds: 5, storms: vec![5], inside_rounds: 1 },
            runtimes,
            left_out: vec!["something: for want of time".into()],
        }
    }

    #[test]
    fn what_failed_or_is_missing_is_told_and_the_rest_is_drawn() {
        let folder = tempfile::tempdir().unwrap();
        let made = report(vec![fast(), broken()]);
        assert_eq!(made.failures(), 9);
        write(&made, folder.path()).unwrap();
        let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
        insta::assert_snapshot!("page", read("report.md"));
        for name in ["start", "first-cell", "storm", "memory", "inside"] {
            let svg = read(&format!("{name}.svg"));
            assert!(svg.contains("fast") && svg.ends_with("</svg>\n"), "{svg}");
            assert!(fs::read(folder.path().join(format!("{name}.png"))).unwrap().len() > 1000);
        }
        assert!(read("storm.svg").contains("900 ms, 3 failed"));
        assert!(
            !read("storm.svg").contains("warm"),
            "a storm that missed is drawn as if it had not"
        );
        let start = read("start.svg");
        assert!(start.contains("fast, warm") && start.contains("25 ms (p95 25)"), "{start}");
        assert!(read("first-cell.svg").contains("625 ms (p95 625)"));
        // A quarter of the calls: the bar is a quarter as long.
        assert!(read("inside.svg").contains("calls, broken"));
        let json: serde_json::Value = serde_json::from_str(&read("report.json")).unwrap();
        assert!(json["runtimes"][1]["starts"]["cold"]["total_ms"].is_null());
        assert_eq!(json["runtimes"][0]["storms"]["cold"][0]["failures"]["count"], 3);
        assert_eq!(json["runtimes"][0]["starts"]["warm"]["misses"], 1);
        assert_eq!(json["runtimes"][0]["starts"]["cold"]["first_cell_ms"]["max"], 720.0);
        assert!(json["runtimes"][1]["starts"]["cold"]["first_cell_ms"].is_null());
    }

    #[test]
    fn a_report_without_a_number_has_no_picture() {
        let folder = tempfile::tempdir().unwrap();
        write(&report(vec![broken()]), folder.path()).unwrap();
        let names = fs::read_dir(folder.path()).unwrap().map(|it| it.unwrap().file_name());
        let mut names: Vec<_> = names.map(|it| it.into_string().unwrap()).collect();
        names.sort();
        assert_eq!(names, ["report.json", "report.md"]);
    }
}
