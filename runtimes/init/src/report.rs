//! What an init tells of itself when it is asked, before any code of the tenant has
//! run: for runtimes whose inside the node cannot see.
//!
//! On the wire: the request `ADRREPORT\n`; then a line [`ANNOUNCED`] with a length, and
//! that many bytes of records as in [`crate::claim`]. Decoding trusts nothing and is
//! bounded. Must never hold anything of a user: there is none yet.

use std::{collections::BTreeMap, fmt::Display, path::PathBuf};

use crate::claim::push_record;

/// What is sent instead of a claim; as long as a claim's own beginning.
pub const REQUEST: &[u8; 10] = b"ADRREPORT\n";

/// The beginning of the line before a report; its length in bytes follows.
pub const ANNOUNCED: &str = "adrastea-init 1 report ";

/// The longest report.
pub const MAX_REPORT: usize = 64 << 10;

/// Directories whose modes are told.
pub const TOLD_MODES: [&str; 3] = ["/tmp", "/dev/shm", "/dev"];

/// The numbers of a device node: major and minor.
pub type Device = (u64, u64);

/// What the kernel that the init sees says of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// `/proc/self/status` and `/proc/self/mountinfo`.
    pub status: String,
    pub mountinfo: String,
    pub environment: Vec<String>,
    /// By the kernel's name (`open files`): soft and hard.
    pub rlimits: BTreeMap<String, (String, String)>,
    pub modes: BTreeMap<String, u32>,
    /// What is in `/dev`.
    pub devices: BTreeMap<String, Option<Device>>,
    pub descriptors: Vec<(u32, String)>,
    pub program: PathBuf,
    /// prctl(2), PR_GET_NO_NEW_PRIVS.
    pub no_new_privileges: bool,
}

const STATUS: u8 = 1;
const MOUNTINFO: u8 = 2;
const VARIABLE: u8 = 3;
const RLIMIT: u8 = 4;
const MODE: u8 = 5;
const DEVICE: u8 = 6;
const DESCRIPTOR: u8 = 7;
const PROGRAM: u8 = 8;
const NO_NEW_PRIVILEGES: u8 = 9;

/// Stands between the parts of one record.
const BETWEEN: char = '\t';

impl Report {
    /// The bytes that follow the announcement; none if it would be too long.
    pub fn encode(&self) -> Option<Vec<u8>> {
        let mut payload = Vec::new();
        let mut add = |tag: u8, parts: &[&dyn Display]| {
            let parts: Vec<_> = parts.iter().map(ToString::to_string).collect();
            let text = parts.join(&BETWEEN.to_string());
            push_record(&mut payload, tag, &[text.as_bytes()]).ok()
        };
        add(STATUS, &[&self.status])?;
        add(MOUNTINFO, &[&self.mountinfo])?;
        add(PROGRAM, &[&self.program.display()])?;
        add(NO_NEW_PRIVILEGES, &[&self.no_new_privileges])?;
        for variable in &self.environment {
            add(VARIABLE, &[variable])?;
        }
        for (name, (soft, hard)) in &self.rlimits {
            add(RLIMIT, &[name, soft, hard])?;
        }
        for (path, mode) in &self.modes {
            add(MODE, &[path, mode])?;
        }
        for (name, numbers) in &self.devices {
            match numbers {
                Some((major, minor)) => add(DEVICE, &[name, major, minor])?,
                None => add(DEVICE, &[name])?,
            }
        }
        for (number, target) in &self.descriptors {
            add(DESCRIPTOR, &[number, target])?;
        }
        (payload.len() <= MAX_REPORT).then_some(payload)
    }

    /// A report from the bytes that followed the announcement; none if they are no report.
    pub fn decode(mut bytes: &[u8]) -> Option<Self> {
        let mut report = Self::default();
        while !bytes.is_empty() {
            let (head, rest) = bytes.split_at_checked(5)?;
            let length = u32::from_le_bytes(head.get(1..)?.try_into().ok()?);
            let (record, rest) = rest.split_at_checked(usize::try_from(length).ok()?)?;
            bytes = rest;
            let text = std::str::from_utf8(record).ok()?;
            let mut parts = text.split(BETWEEN);
            match *head.first()? {
                STATUS => text.clone_into(&mut report.status),
                MOUNTINFO => text.clone_into(&mut report.mountinfo),
                PROGRAM => report.program = text.into(),
                NO_NEW_PRIVILEGES => report.no_new_privileges = text.parse().ok()?,
                VARIABLE => report.environment.push(text.to_owned()),
                RLIMIT => {
                    let (name, soft, hard) = (parts.next()?, parts.next()?, parts.next()?);
                    report.rlimits.insert(name.to_owned(), (soft.to_owned(), hard.to_owned()));
                }
                MODE => {
                    report.modes.insert(parts.next()?.to_owned(), parts.next()?.parse().ok()?);
                }
                DEVICE => {
                    let name = parts.next()?.to_owned();
                    let numbers = match (parts.next(), parts.next()) {
                        (Some(major), Some(minor)) => {
                            Some((major.parse().ok()?, minor.parse().ok()?))
                        }
                        _ => None,
                    };
                    report.devices.insert(name, numbers);
                }
                DESCRIPTOR => {
                    let number = parts.next()?.parse().ok()?;
                    report.descriptors.push((number, parts.next()?.to_owned()));
                }
                _ => return None,
            }
        }
        Some(report)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn report() -> Report {
        Report {
            status: "Name:\tinit\nSeccomp:\t2\n".into(),
            mountinfo: "16 15 0:17 / / ro - 9p none ro\n".into(),
            environment: vec!["HOME=/".into(), "PATH=/bin".into()],
            rlimits: BTreeMap::from([("open files".into(), ("64".into(), "64".into()))]),
            modes: BTreeMap::from([("/tmp".into(), 0o1777)]),
            devices: BTreeMap::from([("null".into(), Some((1, 3))), ("pts".into(), None)]),
            descriptors: vec![(0, "pipe:[1]".into())],
            program: "/.adrastea/init".into(),
            no_new_privileges: true,
        }
    }

    #[test]
    fn a_report_comes_back_as_it_was() {
        assert_eq!(Report::decode(&report().encode().unwrap()), Some(report()));
    }

    #[test]
    fn what_is_no_report_is_none() {
        let whole = report().encode().unwrap();
        for end in 1..whole.len() {
            // Between two records it is a report that lacks something, which the proof will see.
            if let Some(short) = Report::decode(&whole[..end]) {
                assert_ne!(short, report());
            }
        }
        assert_eq!(Report::decode(&[9, 0, 0, 0, 0]), None);
        assert_eq!(Report::decode(&[1, 255, 255, 255, 255]), None);
    }

    #[test]
    fn a_report_is_bounded() {
        let long = Report { status: "x".repeat(MAX_REPORT), ..report() };
        assert_eq!(long.encode(), None);
    }
}
