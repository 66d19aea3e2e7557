//! The claim: which command a waiting sandbox is to run, with which environment
//! and in which directory. It carries the user's secrets.
//!
//! On the wire: `ADRCLAIM1\n`, the payload's length (u32, little endian), then
//! records of a tag (u8), a length (u32, little endian) and that many bytes.
//! Decoding trusts nothing and is bounded. Must never show a value of the
//! environment or an argument, neither in `Debug` nor in an error.

use std::{
    collections::BTreeSet,
    fmt,
    io::{self, Read},
    path::PathBuf,
};

use crate::{report, trial};

const MAGIC: &[u8; 10] = b"ADRCLAIM1\n";
/// The same payload, for a program that gets ready and waits for its claim.
const STANDBY_MAGIC: &[u8; 10] = b"ADRSTAND1\n";
const TAG_ARGUMENT: u8 = 1;
const TAG_ENVIRONMENT: u8 = 2;
const TAG_DIRECTORY: u8 = 3;

/// The longest payload.
pub const MAX_PAYLOAD: usize = 1 << 20;
/// The longest single string: the kernel's `MAX_ARG_STRLEN`, less the final NUL (execve(2)).
pub const MAX_STRING: usize = 32 * 4096 - 1;
/// The most records in one claim.
pub const MAX_RECORDS: usize = 8192;

/// What a sandbox is told when it becomes somebody's.
#[derive(Clone, PartialEq, Eq)]
pub struct Claim {
    /// The command and its arguments; at least one.
    pub arguments: Vec<String>,
    /// The complete environment: names and values, each name once.
    pub environment: Vec<(String, String)>,
    /// Where the command starts; absolute.
    pub directory: PathBuf,
}

impl fmt::Debug for Claim {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Claim")
            .field("arguments", &format_args!("{} (redacted)", self.arguments.len()))
            .field("environment", &format_args!("{} (redacted)", self.environment.len()))
            .field("directory", &self.directory)
            .finish()
    }
}

/// Why a message is no claim. Never holds a value from it.
#[derive(Debug)]
pub enum ClaimError {
    /// The channel failed.
    Read(io::Error),
    /// The channel closed in the middle of the message.
    Truncated,
    BadMagic,
    PayloadTooLong(usize),
    TooManyRecords,
    /// A record is longer than what is left of the payload.
    RecordOverrun,
    StringTooLong,
    UnknownTag(u8),
    NotUtf8,
    ContainsNul,
    NoCommand,
    /// An environment record without a name, or without `=`.
    BadEnvironment,
    /// The same name twice (programs would disagree about which one counts).
    DuplicateName(String),
    /// None, more than one, or a relative one.
    BadDirectory,
}

impl fmt::Display for ClaimError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(_) => formatter.write_str("failed to read the claim"),
            Self::Truncated => formatter.write_str("the claim ends too early"),
            Self::BadMagic => formatter.write_str("the message is no claim"),
            Self::PayloadTooLong(length) => {
                write!(formatter, "the claim has {length} bytes, more than {MAX_PAYLOAD}")
            }
            Self::TooManyRecords => {
                write!(formatter, "the claim has more than {MAX_RECORDS} records")
            }
            Self::RecordOverrun => formatter.write_str("a record reaches beyond the claim"),
            Self::StringTooLong => {
                write!(formatter, "an argument or variable is longer than {MAX_STRING} bytes")
            }
            Self::UnknownTag(tag) => write!(formatter, "record type {tag} is unknown"),
            Self::NotUtf8 => formatter.write_str("a record is not UTF-8"),
            Self::ContainsNul => formatter.write_str("a record contains NUL"),
            Self::NoCommand => formatter.write_str("the claim names no command"),
            Self::BadEnvironment => formatter.write_str("a variable has no name"),
            Self::DuplicateName(name) => write!(formatter, "variable `{name}` is given twice"),
            Self::BadDirectory => {
                formatter.write_str("the claim takes exactly one directory, an absolute one")
            }
        }
    }
}

impl std::error::Error for ClaimError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Read(source) => Some(source),
            _ => None,
        }
    }
}

impl Claim {
    /// Refuses what no init would take.
    fn validate(&self) -> Result<(), ClaimError> {
        if self.arguments.first().is_none_or(String::is_empty) {
            return Err(ClaimError::NoCommand);
        }
        let mut names = BTreeSet::new();
        for (name, value) in &self.environment {
            if name.is_empty() || name.contains('=') {
                return Err(ClaimError::BadEnvironment);
            }
            if name.len() + 1 + value.len() > MAX_STRING {
                return Err(ClaimError::StringTooLong);
            }
            if name.contains('\0') || value.contains('\0') {
                return Err(ClaimError::ContainsNul);
            }
            if !names.insert(name) {
                return Err(ClaimError::DuplicateName(name.chars().take(64).collect()));
            }
        }
        let directory = self.directory.to_str().ok_or(ClaimError::NotUtf8)?;
        if !directory.starts_with('/') {
            return Err(ClaimError::BadDirectory);
        }
        for text in self.arguments.iter().map(String::as_str).chain([directory]) {
            if text.contains('\0') {
                return Err(ClaimError::ContainsNul);
            }
            if text.len() > MAX_STRING {
                return Err(ClaimError::StringTooLong);
            }
        }
        if self.arguments.len() + self.environment.len() + 1 > MAX_RECORDS {
            return Err(ClaimError::TooManyRecords);
        }
        Ok(())
    }
}

/// The message that carries a claim.
pub fn encode(claim: &Claim) -> Result<Vec<u8>, ClaimError> {
    encode_as(MAGIC, claim)
}

/// The message that has the command's waiting program get ready: in the same form, with what
/// is known beforehand. Must never carry anything of a user.
pub fn encode_standby(standby: &Claim) -> Result<Vec<u8>, ClaimError> {
    encode_as(STANDBY_MAGIC, standby)
}

fn encode_as(magic: &[u8; 10], claim: &Claim) -> Result<Vec<u8>, ClaimError> {
    claim.validate()?;
    let mut payload = Vec::new();
    for argument in &claim.arguments {
        push_record(&mut payload, TAG_ARGUMENT, &[argument.as_bytes()])?;
    }
    for (name, value) in &claim.environment {
        push_record(&mut payload, TAG_ENVIRONMENT, &[name.as_bytes(), b"=", value.as_bytes()])?;
    }
    let directory = claim.directory.to_str().ok_or(ClaimError::NotUtf8)?;
    push_record(&mut payload, TAG_DIRECTORY, &[directory.as_bytes()])?;

    if payload.len() > MAX_PAYLOAD {
        return Err(ClaimError::PayloadTooLong(payload.len()));
    }
    let length =
        u32::try_from(payload.len()).map_err(|_| ClaimError::PayloadTooLong(payload.len()))?;
    let mut message = Vec::with_capacity(magic.len() + 4 + payload.len());
    message.extend_from_slice(magic);
    message.extend_from_slice(&length.to_le_bytes());
    message.extend_from_slice(&payload);
    Ok(message)
}

pub(crate) fn push_record(
    payload: &mut Vec<u8>,
    tag: u8,
    parts: &[&[u8]],
) -> Result<(), ClaimError> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let length = u32::try_from(length).map_err(|_| ClaimError::StringTooLong)?;
    payload.push(tag);
    payload.extend_from_slice(&length.to_le_bytes());
    for part in parts {
        payload.extend_from_slice(part);
    }
    Ok(())
}

/// A claim from a whole message; what follows it is an error.
pub fn decode(message: &[u8]) -> Result<Claim, ClaimError> {
    let mut rest = message;
    let claim = read_from(&mut rest)?;
    if rest.is_empty() { Ok(claim) } else { Err(ClaimError::RecordOverrun) }
}

/// What may arrive on the channel.
#[derive(Debug)]
pub enum Message {
    /// Tell what is around you, then wait on.
    Report,
    /// Make files in the home, which is nobody's, tell what you see, then wait on.
    Trial,
    /// Start the command's waiting program, say when it is ready, then wait on.
    Standby(Claim),
    Claim(Claim),
}

/// Reads one message and not a byte more.
pub fn read_message(reader: &mut impl Read) -> Result<Message, ClaimError> {
    let mut magic = [0; MAGIC.len()];
    fill(reader, &mut magic)?;
    match &magic {
        MAGIC => read_payload(reader).map(Message::Claim),
        STANDBY_MAGIC => read_payload(reader).map(Message::Standby),
        report::REQUEST => Ok(Message::Report),
        trial::REQUEST => Ok(Message::Trial),
        _ => Err(ClaimError::BadMagic),
    }
}

/// Reads one claim and not a byte more.
pub fn read_from(reader: &mut impl Read) -> Result<Claim, ClaimError> {
    match read_message(reader)? {
        Message::Claim(claim) => Ok(claim),
        Message::Report | Message::Trial | Message::Standby(_) => Err(ClaimError::BadMagic),
    }
}

fn read_payload(reader: &mut impl Read) -> Result<Claim, ClaimError> {
    let mut length = [0; 4];
    fill(reader, &mut length)?;
    let length = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
    if length > MAX_PAYLOAD {
        return Err(ClaimError::PayloadTooLong(length));
    }
    let mut payload = vec![0; length];
    fill(reader, &mut payload)?;
    let claim = parse(&payload);
    wipe(&mut payload);
    claim
}

fn fill(reader: &mut impl Read, buffer: &mut [u8]) -> Result<(), ClaimError> {
    reader.read_exact(buffer).map_err(|error| {
        if error.kind() == io::ErrorKind::UnexpectedEof {
            ClaimError::Truncated
        } else {
            ClaimError::Read(error)
        }
    })
}

fn parse(payload: &[u8]) -> Result<Claim, ClaimError> {
    let mut claim =
        Claim { arguments: Vec::new(), environment: Vec::new(), directory: PathBuf::new() };
    let mut directories = 0;
    let mut records = 0;
    let mut rest = payload;
    while let Some((&tag, after_tag)) = rest.split_first() {
        records += 1;
        if records > MAX_RECORDS {
            return Err(ClaimError::TooManyRecords);
        }
        let (length, after_length) =
            after_tag.split_first_chunk::<4>().ok_or(ClaimError::RecordOverrun)?;
        let length = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
        let (bytes, after) =
            after_length.split_at_checked(length).ok_or(ClaimError::RecordOverrun)?;
        rest = after;
        let text = std::str::from_utf8(bytes).map_err(|_| ClaimError::NotUtf8)?;
        match tag {
            TAG_ARGUMENT => claim.arguments.push(text.to_owned()),
            TAG_ENVIRONMENT => {
                let (name, value) = text.split_once('=').ok_or(ClaimError::BadEnvironment)?;
                claim.environment.push((name.to_owned(), value.to_owned()));
            }
            TAG_DIRECTORY => {
                directories += 1;
                claim.directory = PathBuf::from(text);
            }
            unknown => return Err(ClaimError::UnknownTag(unknown)),
        }
    }
    if directories != 1 {
        return Err(ClaimError::BadDirectory);
    }
    claim.validate()?;
    Ok(claim)
}

/// Overwrites a buffer that held a secret, as well as safe code can.
pub fn wipe(bytes: &mut [u8]) {
    bytes.fill(0);
    std::hint::black_box(bytes);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn example() -> Claim {
        Claim {
            arguments: vec!["jupyterhub-singleuser".into(), "--debug".into(), String::new()],
            environment: vec![
                ("JUPYTERHUB_API_TOKEN".into(), "s3cret=with=equals".into()),
                ("EMPTY".into(), String::new()),
            ],
            directory: "/home/jovyan".into(),
        }
    }

    fn message(payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_le_bytes();
        [MAGIC.as_slice(), &length, payload].concat()
    }

    fn record(tag: u8, bytes: &[u8]) -> Vec<u8> {
        let mut payload = Vec::new();
        push_record(&mut payload, tag, &[bytes]).unwrap();
        payload
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        assert_eq!(decode(&encode(&example()).unwrap()).unwrap(), example());
    }

    #[test]
    fn a_standby_is_no_claim() {
        let bytes = encode_standby(&example()).unwrap();
        assert!(matches!(decode(&bytes), Err(ClaimError::BadMagic)));
        let message = read_message(&mut bytes.as_slice()).unwrap();
        assert!(matches!(message, Message::Standby(standby) if standby == example()));
    }

    #[test]
    fn a_reader_is_left_after_the_claim() {
        let mut bytes = encode(&example()).unwrap();
        bytes.extend_from_slice(b"more");
        let mut reader = bytes.as_slice();
        read_from(&mut reader).unwrap();
        assert_eq!(reader, b"more");
        assert!(matches!(decode(&bytes), Err(ClaimError::RecordOverrun)));
    }

    #[test]
    fn every_truncation_is_refused() {
        let bytes = encode(&example()).unwrap();
        for end in 0..bytes.len() {
            assert!(matches!(decode(&bytes[..end]), Err(ClaimError::Truncated)), "{end}");
        }
    }

    #[test]
    fn every_damaged_byte_is_survived() {
        let bytes = encode(&example()).unwrap();
        for position in 0..bytes.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut damaged = bytes.clone();
                damaged[position] = value;
                // Either another valid claim or an error; never a panic or a huge allocation.
                let _ = decode(&damaged);
            }
        }
    }

    #[test]
    fn garbage_is_refused() {
        assert!(matches!(decode(b"GET / HTTP/1.1\r\n\r\n"), Err(ClaimError::BadMagic)));
        assert!(matches!(decode(&message(b"")), Err(ClaimError::BadDirectory)));
        assert!(matches!(decode(&message(&[1, 0])), Err(ClaimError::RecordOverrun)));
        assert!(matches!(
            decode(&message(&[1, 255, 255, 255, 255, b'x'])),
            Err(ClaimError::RecordOverrun)
        ));
        assert!(matches!(decode(&message(&record(9, b"x"))), Err(ClaimError::UnknownTag(9))));
        assert!(matches!(decode(&message(&record(1, &[0xff]))), Err(ClaimError::NotUtf8)));
    }

    type Expected = fn(&ClaimError) -> bool;

    #[test]
    fn what_makes_no_sense_is_refused() {
        let directory = record(TAG_DIRECTORY, b"/");
        let command = record(TAG_ARGUMENT, b"true");
        let cases: Vec<(Vec<u8>, Expected)> = vec![
            (directory.clone(), |error| matches!(error, ClaimError::NoCommand)),
            ([record(1, b""), directory.clone()].concat(), |error| {
                matches!(error, ClaimError::NoCommand)
            }),
            (command.clone(), |error| matches!(error, ClaimError::BadDirectory)),
            ([command.clone(), record(3, b"home")].concat(), |error| {
                matches!(error, ClaimError::BadDirectory)
            }),
            ([command.clone(), directory.clone(), directory.clone()].concat(), |error| {
                matches!(error, ClaimError::BadDirectory)
            }),
            ([command.clone(), directory.clone(), record(2, b"NAME")].concat(), |error| {
                matches!(error, ClaimError::BadEnvironment)
            }),
            ([command.clone(), directory.clone(), record(2, b"=value")].concat(), |error| {
                matches!(error, ClaimError::BadEnvironment)
            }),
            ([command.clone(), directory.clone(), record(2, b"A=\0")].concat(), |error| {
                matches!(error, ClaimError::ContainsNul)
            }),
            (
                [command, directory, record(2, b"A=1"), record(2, b"A=2")].concat(),
                |error| matches!(error, ClaimError::DuplicateName(name) if name == "A"),
            ),
        ];
        for (payload, expected) in cases {
            let error = decode(&message(&payload)).unwrap_err();
            assert!(expected(&error), "{error}");
        }
    }

    #[test]
    fn nothing_beyond_the_bounds_is_encoded_or_read() {
        let mut long = example();
        long.arguments.push("x".repeat(MAX_STRING + 1));
        assert!(matches!(encode(&long), Err(ClaimError::StringTooLong)));

        let mut heavy = example();
        heavy.arguments.extend(std::iter::repeat_n("x".repeat(100_000), 11));
        assert!(matches!(encode(&heavy), Err(ClaimError::PayloadTooLong(_))));

        let mut many = example();
        many.arguments.extend(std::iter::repeat_n("x".into(), MAX_RECORDS));
        assert!(matches!(encode(&many), Err(ClaimError::TooManyRecords)));

        let mut announced = MAGIC.to_vec();
        announced.extend_from_slice(&u32::MAX.to_le_bytes());
        assert!(matches!(decode(&announced), Err(ClaimError::PayloadTooLong(_))));

        let records: Vec<u8> =
            std::iter::repeat_n(record(1, b"x"), MAX_RECORDS + 1).flatten().collect();
        assert!(matches!(decode(&message(&records)), Err(ClaimError::TooManyRecords)));
    }

    #[test]
    fn debug_and_errors_show_no_secret() {
        let text = format!("{:?}", example());
        assert!(!text.contains("s3cret") && !text.contains("--debug"), "{text}");
        let mut twice = example();
        twice.environment.push(("JUPYTERHUB_API_TOKEN".into(), "0ther".into()));
        let error = encode(&twice).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("0ther"));
    }
}
