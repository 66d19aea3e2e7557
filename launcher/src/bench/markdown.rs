//! The report in words and tables, for people: `report.md`.

use std::fmt::Write as _;

use super::{
    report::{Failures, Report, RuntimeReport, Starts, Storm},
    statistics::Spread,
};

const ABSENT: &str = "–";

/// `pictures`: names of the pictures beside the page.
pub fn page(report: &Report, pictures: &[&str]) -> String {
    let machine = &report.machine;
    let mode = if report.plan.quick { "quick" } else { "full" };
    let mut text = format!(
        "# Benchmark of this node\n\n\
         {}, {mode} mode, {:.0} s. {}, {} cores, {} MiB of memory, {}, Linux {}, cgroup v{}. {}; containerd: {}. \
         Load over one minute: {:.2} before, {:.2} after. Profile `{}`: {} MiB of memory, CPU {}.\n\n\
         Runtimes took turns, so each saw the same load. Compare figures of this run only with each other.\n",
        date(report.made_at),
        report.seconds,
        machine.processor,
        machine.cores,
        machine.memory_mib,
        machine.distribution,
        machine.kernel,
        machine.cgroup_version,
        machine.launcher,
        machine.containerd,
        machine.load_before,
        machine.load_after,
        report.profile.name,
        report.profile.memory_mib,
        thousandths(report.profile.cpu_millis),
    );
    let sections = [
        ("start", "Starts", starts(report) + &steps(report)),
        ("storm", "Many at once", storms(report)),
        ("memory", "Memory of idle users", memory(report)),
        ("inside", "Inside", inside(report)),
        ("", "Runtimes", versions(report)),
    ];
    for (picture, title, table) in sections {
        let mut beside = vec![(picture, title)];
        if picture == "start" {
            beside.push(("first-cell", "Starts until the first cell"));
        }
        // Writing into a string cannot fail, here and below.
        let _ = write!(text, "\n## {title}\n\n");
        for (name, title) in beside.iter().filter(|(name, _)| pictures.contains(name)) {
            let _ = write!(text, "![{title}]({name}.svg)\n\n");
        }
        text += &table;
    }
    if !report.left_out.is_empty() {
        let _ = write!(text, "\n## Left out\n\n");
        for reason in &report.left_out {
            let _ = writeln!(text, "- {}", plain(reason));
        }
    }
    text
}

fn thousandths(millis: u64) -> String {
    match millis % 1000 {
        0 => (millis / 1000).to_string(),
        rest => format!("{}.{}", millis / 1000, format!("{rest:03}").trim_end_matches('0')),
    }
}

/// The day, by the civil calendar.
fn date(seconds: u64) -> String {
    // Howard Hinnant's algorithm: years begin in March, eras are 400 of them.
    let days = seconds / 86_400 + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    format!("{:04}-{month:02}-{day:02}", year + era * 400 + u64::from(month <= 2))
}

/// Without what would end a table's cell or begin a picture.
fn plain(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "/").replace(['[', ']'], "")
}

fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let head: Vec<String> = head.iter().map(|cell| (*cell).to_owned()).collect();
    let rule: Vec<String> =
        (0..head.len()).map(|column| if column == 0 { "---" } else { "---:" }.to_owned()).collect();
    line(&head) + &line(&rule) + &rows.iter().map(|row| line(row)).collect::<String>()
}

fn number(value: Option<f64>) -> String {
    value.map_or_else(|| ABSENT.to_owned(), |value| value.to_string())
}

fn p50(spread: Option<&Spread>) -> String {
    number(spread.map(|spread| spread.p50))
}

fn failed(failures: &Failures) -> String {
    match failures.count {
        0 => "0".to_owned(),
        count => format!("{count}: {}", plain(&failures.reasons.join("; "))),
    }
}

fn starts(report: &Report) -> String {
    let mut rows = Vec::new();
    for runtime in &report.runtimes {
        for (kind, starts) in &runtime.starts {
            let total = starts.total_ms.as_ref();
            rows.push(vec![
                format!("{}, {kind}", runtime.runtime),
                total.map_or(0, |total| total.count).to_string(),
                p50(total),
                number(total.map(|total| total.p95)),
                number(total.map(|total| total.p99)),
                p50(starts.first_cell_ms.as_ref()),
                number(starts.first_cell_ms.as_ref().map(|cell| cell.p95)),
                p50(starts.stop_ms.as_ref()),
                number(starts.stop_ms.as_ref().map(|stop| stop.p99)),
                starts.misses.to_string(),
                failed(&starts.failures),
            ]);
        }
    }
    let head = [
        "start, ms",
        "count",
        "p50",
        "p95",
        "p99",
        "first cell p50",
        "first cell p95",
        "stop p50",
        "stop p99",
        "missed",
        "failed",
    ];
    table(&head, &rows)
}

fn steps(report: &Report) -> String {
    let columns: Vec<(String, &Starts)> = report
        .runtimes
        .iter()
        .flat_map(|runtime| {
            let of = |(kind, starts)| (format!("{}, {kind}", runtime.runtime), starts);
            runtime.starts.iter().map(of)
        })
        .collect();
    let mut names: Vec<&str> = Vec::new();
    for step in columns.iter().flat_map(|(_, starts)| &starts.steps) {
        if !names.contains(&step.step.as_str()) {
            names.push(&step.step);
        }
    }
    if names.is_empty() {
        return String::new();
    }
    let mut head = vec!["step, median, ms"];
    head.extend(columns.iter().map(|(title, _)| title.as_str()));
    let row = |name: &&str| {
        let of = |(_, starts): &(String, &Starts)| {
            number(starts.steps.iter().find(|step| step.step == *name).map(|step| step.ms.p50))
        };
        std::iter::once((*name).to_owned()).chain(columns.iter().map(of)).collect()
    };
    format!("\n{}", table(&head, &names.iter().map(row).collect::<Vec<_>>()))
}

fn storms(report: &Report) -> String {
    let row = |title: String, storm: &Storm| {
        let start = storm.start_ms.as_ref();
        vec![
            format!("{title}, {}", storm.at_once),
            number(storm.total_ms),
            p50(start),
            number(start.map(|start| start.p99)),
            storm.longest_queue.to_string(),
            storm.misses.to_string(),
            failed(&storm.failures),
        ]
    };
    let mut rows = Vec::new();
    for runtime in &report.runtimes {
        for (kind, storms) in &runtime.storms {
            let title = || format!("{}, {kind}", runtime.runtime);
            rows.extend(storms.iter().map(|storm| row(title(), storm)));
        }
    }
    let head =
        ["starts at once", "all, ms", "p50, ms", "p99, ms", "longest queue", "missed", "failed"];
    table(&head, &rows)
}

fn memory(report: &Report) -> String {
    let mut rows = Vec::new();
    for runtime in &report.runtimes {
        for point in runtime.memory.iter().flat_map(|memory| &memory.points) {
            rows.push(vec![
                format!("{}, {}", runtime.runtime, point.users),
                point.sandboxes_mib.to_string(),
                point.shims_mib.to_string(),
            ]);
        }
    }
    let mut text = table(&["idle users", "sandboxes, MiB", "shims, MiB"], &rows);
    for runtime in &report.runtimes {
        if let Some(slope) = runtime.memory.as_ref().and_then(|memory| memory.per_user_mib) {
            let _ = write!(text, "\n{}: one more user takes {slope} MiB.\n", runtime.runtime);
        }
    }
    text
}

fn inside(report: &Report) -> String {
    let mut names: Vec<&str> = Vec::new();
    for measurement in report.runtimes.iter().flat_map(|runtime| &runtime.inside) {
        if !names.contains(&measurement.name.as_str()) {
            names.push(&measurement.name);
        }
    }
    let mut missing = String::new();
    let mut rows = Vec::new();
    for name in names {
        let mut row = vec![name.to_owned()];
        let mut has_value = false;
        let mut unit = "";
        for runtime in &report.runtimes {
            let found = runtime.inside.iter().find(|measurement| measurement.name == name);
            let value = found.and_then(|found| found.value.as_ref());
            if let Some(found) = found {
                unit = &found.unit;
                if let Some(reason) = &found.missing {
                    let _ = writeln!(missing, "- {name}, {}: {}", runtime.runtime, plain(reason));
                }
            }
            has_value |= value.is_some();
            row.push(value.map_or_else(
                || ABSENT.to_owned(),
                |value| format!("{} ({} to {})", value.p50, value.min, value.max),
            ));
        }
        row[0] = format!("{name}, {unit}");
        if has_value {
            rows.push(row);
        }
    }
    let mut head = vec!["median (smallest to largest)"];
    head.extend(report.runtimes.iter().map(|runtime| runtime.runtime.as_str()));
    let missing = if missing.is_empty() { missing } else { format!("\nMissing:\n\n{missing}") };
    if rows.is_empty() { missing.trim_start().to_owned() } else { table(&head, &rows) + &missing }
}

fn versions(report: &Report) -> String {
    let row = |runtime: &RuntimeReport| vec![runtime.runtime.clone(), plain(&runtime.version)];
    table(&["runtime", "version"], &report.runtimes.iter().map(row).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, expected) in [
            (0, "1970-01-01"),
            (951_782_400, "2000-02-29"),
            (1_767_225_599, "2025-12-31"),
            (1_767_225_600, "2026-01-01"),
        ] {
            assert_eq!(date(seconds), expected);
        }
    }

    #[test]
    fn a_reason_stays_in_its_cell() {
        assert_eq!(plain("a | b\nc [x](y)"), "a / b c x(y)");
        assert_eq!(thousandths(1500) + " " + &thousandths(2000), "1.5 2");
    }
}
