//! One line of the audit log: what was decided, about whom, and what came of it.
//!
//! A line is one JSON object in ASCII, whatever anybody calls himself: control,
//! direction and line characters are escaped. It must never hold a secret: there is
//! no field for environment, arguments, output or the content of a home.

use std::{
    fmt::Write as _,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::Serialize;

/// The version of the fields. A field is added without a new one, never changed or
/// removed. `seq` and `previous_hash` are reserved for a chain of hashes.
pub const VERSION: u32 = 1;

/// The longest text of a field; more is cut and said to be.
const LONGEST: usize = 512;

/// What a line is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// Somebody called the launcher.
    #[default]
    Call,
    /// A start has come to its end, good or bad.
    Started,
    /// A server has ended.
    Ended,
    /// Lines before this one could not be written.
    Lost,
}

/// What became of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Allowed,
    /// By policy, or because it makes no sense; nothing was changed.
    Denied,
    /// It was allowed, and did not succeed.
    Failed,
}

/// Absent fields are left out. Documented in `docs/operate.md`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Record {
    pub event: Event,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decision: Option<Verdict>,
    /// The caller's uid, by the kernel's word.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub rpc: String,
    /// gRPC's name of the status.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub code: String,
    /// The key of the configuration that decided.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub rule: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub request_id: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub hub: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub user: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub sandbox: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub profile: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub runtime: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub image_digest: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_uid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run_range_first: Option<u32>,
    /// What an administrator's call was about: a home, an image, a path.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub object: String,
    /// In words, what came of it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub result: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub milliseconds: Option<u64>,
    /// How many lines were lost.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lost: Option<u64>,
}

#[derive(Serialize)]
struct Line<'record> {
    v: u32,
    time: String,
    instance: &'record str,
    #[serde(flatten)]
    record: &'record Record,
}

impl Record {
    /// Whether it must be on disk at once.
    pub fn is_denial(&self) -> bool {
        self.decision == Some(Verdict::Denied)
    }

    /// As it is written: one line, with its end.
    pub fn line(&self, instance: &str, now: SystemTime) -> String {
        let mut record = self.clone();
        for text in [
            &mut record.rpc,
            &mut record.rule,
            &mut record.request_id,
            &mut record.hub,
            &mut record.user,
            &mut record.profile,
            &mut record.runtime,
            &mut record.object,
            &mut record.result,
        ] {
            shorten(text);
        }
        record.server.as_mut().map(shorten).unwrap_or_default();
        let line = Line { v: VERSION, time: rfc3339(now), instance, record: &record };
        // Texts and numbers alone: there is nothing that could not be written as JSON.
        let json = serde_json::to_string(&line).unwrap_or_else(|_| "{}".into());
        let mut text = String::with_capacity(json.len() + 1);
        for character in json.chars() {
            if character.is_ascii() && !character.is_ascii_control() {
                text.push(character);
            } else {
                // Outside of ASCII there is nothing but the content of texts.
                for unit in character.encode_utf16(&mut [0; 2]) {
                    let _ = write!(text, "\\u{unit:04x}");
                }
            }
        }
        text.push('\n');
        text
    }
}

fn shorten(text: &mut String) {
    if text.len() > LONGEST {
        let length = text.len();
        let mut end = LONGEST;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        let _ = write!(text, "... ({length} bytes)");
    }
}

/// UTC with milliseconds.
fn rfc3339(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let (days, rest) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    // From days to a date: years that begin in March, in eras of 400.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:03}Z",
        rest / 3600,
        rest / 60 % 60,
        rest % 60,
        since.subsec_millis()
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399, "2000-02-28T23:59:59.000Z"),
            (951_868_800, "2000-03-01T00:00:00.000Z"),
            (1_709_164_800, "2024-02-29T00:00:00.000Z"),
            (4_102_444_799, "2099-12-31T23:59:59.000Z"),
        ] {
            assert_eq!(rfc3339(UNIX_EPOCH + Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn a_hostile_name_stays_one_valid_line() {
        let long = "x".repeat(1 << 20);
        for name in [
            "a\nb",
            "\u{1b}[31mred",
            "\u{202e}evil\u{2028}",
            "\u{7f}\u{9b}",
            "\"},{\"",
            "\u{1f600}",
            "\0",
            &long,
        ] {
            let record = Record { user: name.into(), ..Record::default() };
            let line = record.line("adrastea", UNIX_EPOCH);
            assert!(line.is_ascii() && line.len() < 1024, "{name:?}");
            assert!(line.bytes().filter(u8::is_ascii_control).eq([b'\n']), "{name:?}");
            let read: serde_json::Value = serde_json::from_str(&line).unwrap();
            assert_eq!(read["v"], VERSION);
            let read = read["user"].as_str().unwrap();
            assert!(read == name || read.ends_with("(1048576 bytes)"), "{read:?}");
        }
    }
}
