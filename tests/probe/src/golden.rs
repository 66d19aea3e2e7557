//! The table of expected results: `name<TAB>result`, `#` begins a comment line.
//!
//! A result may list alternatives separated by `|`, and end in `*` for "begins
//! with"; `*` alone takes anything. Used by the tests that run the probe.

use std::{collections::BTreeMap, fmt};

/// One result that is not what the table says.
#[derive(Debug, PartialEq, Eq)]
pub struct Mismatch {
    pub name: String,
    /// Empty if the table does not know the check.
    pub expected: String,
    /// Empty if the check did not report.
    pub found: String,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: expected `{}`, found `{}`", self.name, self.expected, self.found)
    }
}

/// Names and results of a table, or of the probe's output.
pub fn parse(text: &str) -> BTreeMap<String, String> {
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once('\t'))
        .map(|(name, result)| (name.to_owned(), result.to_owned()))
        .collect()
}

/// All differences between a table and the probe's output.
pub fn compare(table: &str, output: &str) -> Vec<Mismatch> {
    let expected = parse(table);
    let mut found = parse(output);
    let mut mismatches = Vec::new();
    for (name, expected) in expected {
        let result = found.remove(&name).unwrap_or_default();
        if result.is_empty() || !matches(&expected, &result) {
            mismatches.push(Mismatch { name, expected, found: result });
        }
    }
    mismatches.extend(found.into_iter().map(|(name, found)| Mismatch {
        name,
        expected: String::new(),
        found,
    }));
    mismatches
}

fn matches(expected: &str, found: &str) -> bool {
    expected.split('|').any(|one| match one.strip_suffix('*') {
        Some(beginning) => found.starts_with(beginning),
        None => one == found,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_of_every_kind_are_found() {
        let table = "# comment\na\tEPERM\nb\tEPERM|EACCES\nc\t*\nd\tuser:*\ne\tok\n";
        let good = "a\tEPERM\nb\tEACCES\nc\tanything\nd\tuser:[1]\ne\tok\n";
        assert_eq!(compare(table, good), []);
        let bad = "a\tok\nb\tok\nd\tnet:[1]\ne\tok\nf\tnew\n";
        let names: Vec<_> = compare(table, bad).into_iter().map(|one| one.name).collect();
        assert_eq!(names, ["a", "b", "c", "d", "f"]);
    }
}
