//! How far the benchmark is: a bar on a terminal with what is left, judged by the steps so far
//! (large storms come late and take longer); a line for each part elsewhere.

use indicatif::{ProgressBar, ProgressStyle};

pub struct Progress {
    bar: ProgressBar,
}

impl Progress {
    pub fn new(steps: usize) -> Self {
        let bar = ProgressBar::new(steps as u64);
        if let Ok(style) = ProgressStyle::with_template(
            "{elapsed_precise} {bar:30} {pos}/{len}, about {eta} left: {msg}",
        ) {
            bar.set_style(style);
        }
        bar.enable_steady_tick(std::time::Duration::from_millis(500));
        Self { bar }
    }

    /// Something else begins.
    pub fn part(&self, title: &str) {
        if self.bar.is_hidden() {
            eprintln!("{title}");
        }
    }

    pub fn doing(&self, what: String) {
        self.bar.set_message(what);
    }

    pub fn done(&self) {
        self.bar.inc(1);
    }

    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
