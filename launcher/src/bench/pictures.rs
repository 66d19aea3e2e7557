//! The report's pictures: bars that lie, one group for each thing, in it one bar
//! for each runtime. Lengths are comparable within a picture, never between two runs.

use super::{
    canvas::{CHARACTER, Color, Drawing, FAINT, GRID, INK},
    report::{Better, Measurement, Report, RuntimeReport, Starts},
    statistics::{Spread, rounded},
};

const WIDTH: usize = 900;
const LEFT: usize = 230;
const RIGHT: usize = 190;
const ROW: usize = 22;
const BAR: usize = 14;
/// Of runtimes, or of the parts of a bar. They differ in brightness, too.
const COLORS: [Color; 8] = [
    [0x1f, 0x4e, 0x79],
    [0xe0, 0x8e, 0x2b],
    [0x4f, 0x9d, 0x69],
    [0xb0, 0x3a, 0x48],
    [0x8a, 0x6f, 0xb3],
    [0x5f, 0xb3, 0xc9],
    [0x9b, 0x9b, 0x9b],
    [0xd6, 0xc2, 0x5a],
];

struct Bar {
    label: String,
    /// Lengths with their places among the colors.
    parts: Vec<(usize, f64)>,
    note: String,
}

struct Chart {
    title: String,
    bars: Vec<Bar>,
    legend: Vec<String>,
}

/// Those pictures for which there are numbers, with their names.
pub fn all(report: &Report) -> Vec<(&'static str, Drawing)> {
    let charts = [
        ("start", starts(report)),
        ("first-cell", first_cells(report)),
        ("storm", storms(report)),
        ("memory", memory(report)),
        ("inside", inside(report)),
    ];
    let drawn = charts.into_iter().filter(|(_, chart)| !chart.bars.is_empty());
    drawn.map(|(name, chart)| (name, draw(&chart))).collect()
}

/// Steps below a fiftieth of the longest start would be slivers: they are one part.
fn starts(report: &Report) -> Chart {
    let of = |runtime: &RuntimeReport| {
        let measured = |(kind, starts): (&&str, &Starts)| {
            Some((format!("{}, {kind}", runtime.runtime), starts.total_ms.clone()?, steps(starts)))
        };
        runtime.starts.iter().filter_map(measured).collect::<Vec<_>>()
    };
    let measured: Vec<_> = report.runtimes.iter().flat_map(of).collect();
    let longest = measured.iter().map(|(_, total, _)| total.p50).fold(0.0, f64::max);
    let mut legend: Vec<String> = Vec::new();
    for (_, _, steps) in &measured {
        for (step, _) in steps.iter().filter(|(_, ms)| *ms > longest / 50.0) {
            if !legend.contains(step) && legend.len() < COLORS.len() - 1 {
                legend.push(step.clone());
            }
        }
    }
    legend.push("other steps".into());
    let bar = |(label, total, steps): &(String, Spread, Vec<(String, f64)>)| {
        let mut parts: Vec<(usize, f64)> = (0..legend.len()).map(|place| (place, 0.0)).collect();
        for (step, ms) in steps {
            let place = legend.iter().position(|name| name == step).unwrap_or(legend.len() - 1);
            parts[place].1 += ms;
        }
        let note = format!("{} ms (p95 {})", total.p50, total.p95);
        Bar { label: label.clone(), parts, note }
    };
    Chart {
        title: "a start until the server answers, median, ms; warm: a sandbox waited".into(),
        bars: measured.iter().map(bar).collect(),
        legend,
    }
}

fn first_cells(report: &Report) -> Chart {
    let of = |runtime: &RuntimeReport| {
        let measured = |(kind, starts): (&&str, &Starts)| {
            let (total, cell) = (starts.total_ms.as_ref()?, starts.first_cell_ms.as_ref()?);
            Some(Bar {
                label: format!("{}, {kind}", runtime.runtime),
                parts: vec![(0, total.p50), (1, (cell.p50 - total.p50).max(0.0))],
                note: format!("{} ms (p95 {})", cell.p50, cell.p95),
            })
        };
        runtime.starts.iter().filter_map(measured).collect::<Vec<_>>()
    };
    Chart {
        title: "from the start's call until the first cell is answered, median, ms".into(),
        bars: report.runtimes.iter().flat_map(of).collect(),
        legend: vec!["until the server answers".into(), "kernel and cell".into()],
    }
}

fn steps(starts: &Starts) -> Vec<(String, f64)> {
    starts.steps.iter().map(|it| (it.step.clone(), it.ms.p50)).collect()
}

fn storms(report: &Report) -> Chart {
    let mut bars = Vec::new();
    for size in &report.plan.storms {
        let each = report.runtimes.iter().enumerate().flat_map(|(color, runtime)| {
            runtime.storms.iter().map(move |(kind, storms)| (color, runtime, kind, storms))
        });
        for (color, runtime, kind, storms) in each {
            let storm = storms.iter().find(|storm| storm.at_once == *size);
            let Some((storm, total)) = storm.and_then(|storm| Some((storm, storm.total_ms?)))
            else {
                continue;
            };
            let failed = match storm.failures.count {
                0 => String::new(),
                count => format!(", {count} failed"),
            };
            bars.push(Bar {
                label: format!("{size} at once, {}, {kind}", runtime.runtime),
                parts: vec![(color, total)],
                note: format!("{} ms{failed}", rounded(total)),
            });
        }
    }
    Chart {
        title: "many starts at once, until the last one answers, ms".into(),
        bars,
        legend: runtimes(report),
    }
}

fn memory(report: &Report) -> Chart {
    let bar = |runtime: &RuntimeReport| {
        let memory = runtime.memory.as_ref()?;
        let last = memory.points.last()?;
        #[allow(clippy::cast_precision_loss)] // a handful of users
        let users = last.users as f64;
        let (sandbox, shim) = (last.sandboxes_mib / users, last.shims_mib / users);
        let note = format!("{} MiB", rounded(sandbox + shim));
        Some(Bar {
            label: format!("{}, {} users", runtime.runtime, last.users),
            parts: vec![(0, sandbox), (1, shim)],
            note,
        })
    };
    Chart {
        title: "memory of an idle user, MiB".into(),
        bars: report.runtimes.iter().filter_map(bar).collect(),
        legend: vec!["control group of the sandbox".into(), "shim beside it".into()],
    }
}

/// As a share of the first runtime that has a value; the longer, the better.
fn inside(report: &Report) -> Chart {
    let mut bars = Vec::new();
    // One alone is a hundred percent of itself.
    let several = report.runtimes.iter().filter(|it| !it.inside.is_empty()).count() > 1;
    let names =
        report.runtimes.iter().filter(|_| several).flat_map(|it| &it.inside).map(|it| &it.name);
    let mut seen: Vec<&String> = Vec::new();
    for name in names {
        if seen.contains(&name) {
            continue;
        }
        seen.push(name);
        let of = |runtime: &RuntimeReport| -> Option<(f64, Better, String)> {
            let found: &Measurement = runtime.inside.iter().find(|it| it.name == *name)?;
            Some((found.value.as_ref()?.p50, found.better, found.unit.clone()))
        };
        let Some((first, ..)) = report.runtimes.iter().find_map(of) else { continue };
        for (color, runtime) in report.runtimes.iter().enumerate() {
            let Some((value, better, unit)) = of(runtime) else { continue };
            let share = match better {
                Better::Higher => value / first,
                Better::Lower => first / value,
            };
            let label = format!("{name}, {}", runtime.runtime);
            bars.push(Bar {
                label,
                parts: vec![(color, share * 100.0)],
                note: format!("{value} {unit}"),
            });
        }
    }
    Chart {
        title: "inside, as a share of the first runtime; longer is better, %".into(),
        bars,
        legend: runtimes(report),
    }
}

fn runtimes(report: &Report) -> Vec<String> {
    report.runtimes.iter().map(|runtime| runtime.runtime.clone()).collect()
}

/// A round number that is not below `longest`, and how many lines divide it.
fn scale(longest: f64) -> (f64, usize) {
    let power = 10_f64.powf(longest.max(1e-9).log10().floor());
    let steps = [(1.0, 5), (2.0, 4), (2.5, 5), (5.0, 5), (10.0, 5)];
    let fitting = steps.into_iter().find(|(step, _)| longest <= step * power * 1.0001);
    fitting.map_or((10.0 * power, 5), |(step, lines)| (step * power, lines))
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)] // pixels
fn draw(chart: &Chart) -> Drawing {
    let room = WIDTH - LEFT - RIGHT;
    // A legend's rows, broken where the picture ends.
    let mut places = Vec::new();
    let (mut x, mut row) = (16, 0);
    for name in &chart.legend {
        let width = 20 + (name.len() + 2) * CHARACTER;
        if x + width > WIDTH && x > 16 {
            (x, row) = (16, row + 1);
        }
        places.push((x, row));
        x += width;
    }
    let top = 44 + (row + 1) * ROW + 8;
    let bottom = top + chart.bars.len() * ROW;
    let mut drawing = Drawing::new(WIDTH, bottom + 30);
    drawing.text(16, 22, &chart.title, INK, true);
    for (number, (name, (x, row))) in chart.legend.iter().zip(&places).enumerate() {
        let y = 50 + row * ROW;
        drawing.rectangle(*x, y - 6, 12, 12, COLORS[number % COLORS.len()]);
        drawing.text(x + 18, y, name, INK, false);
    }
    let length = |bar: &Bar| bar.parts.iter().map(|part| part.1).sum::<f64>();
    let (whole, lines) = scale(chart.bars.iter().map(length).fold(0.0, f64::max));
    for line in 0..=lines {
        let share = line as f64 / lines as f64;
        let x = LEFT + (share * room as f64) as usize;
        drawing.rectangle(x, top, 1, bottom - top, GRID);
        let text = rounded(whole * share).to_string();
        drawing.text(x - (text.len() * CHARACTER / 2).min(x), bottom + 14, &text, FAINT, false);
    }
    for (number, bar) in chart.bars.iter().enumerate() {
        let middle = top + number * ROW + ROW / 2;
        let label: String = bar.label.chars().take((LEFT - 24) / CHARACTER).collect();
        drawing.text(LEFT - 8 - label.chars().count() * CHARACTER, middle, &label, INK, false);
        let mut before = 0.0;
        let place = |value: f64| LEFT + (value / whole * room as f64).round() as usize;
        for (color, value) in &bar.parts {
            let (from, to) = (place(before), place(before + value));
            drawing.rectangle(from, middle - BAR / 2, to - from, BAR, COLORS[color % COLORS.len()]);
            before += value;
        }
        drawing.text(place(before) + 8, middle, &bar.note, INK, false);
    }
    drawing
}
