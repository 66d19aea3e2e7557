//! The real init, driven through pipes as an ordinary process: no root needed.
//!
//! What only holds for PID 1 of a namespace (no signal from inside, no ptrace)
//! is proved by the isolation tests.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    process::{Child, ChildStdout, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use adrastea_init::{
    ANEW, ASIDE, CLAIMED, READY, REFUSED,
    claim::{self, Claim},
    first_line,
    report::{ANNOUNCED, REQUEST, Report},
    trial,
};

struct Init {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Init {
    /// A fresh init that has said it waits.
    fn waiting() -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_adrastea-init"))
            .env_clear()
            .env("OWN", "the init's own")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let mut init = Self { child, output };
        let said = first_line(&init.line()).unwrap();
        assert_eq!((said.landlock, said.let_through), (0, None), "it is in no sandbox");
        init
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn send(&mut self, bytes: &[u8]) {
        self.child.stdin.take().unwrap().write_all(bytes).unwrap();
    }

    fn claimed(arguments: &[&str], environment: &[(&str, &str)], directory: &str) -> Self {
        let mut init = Self::waiting();
        init.send(
            &claim::encode(&Claim {
                arguments: arguments.iter().map(ToString::to_string).collect(),
                environment: environment
                    .iter()
                    .map(|(name, value)| (name.to_string(), value.to_string()))
                    .collect(),
                directory: directory.into(),
            })
            .unwrap(),
        );
        assert_eq!(init.line(), CLAIMED);
        init
    }

    fn shell(script: &str) -> Self {
        Self::claimed(&["sh", "-c", script], &[("PATH", "/usr/bin:/bin")], "/")
    }

    fn rest(&mut self) -> String {
        let mut bytes = Vec::new();
        self.output.read_to_end(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn end(&mut self) -> ExitStatus {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "the init does not end");
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", signal, &pid]).status().unwrap().success());
    }
}

impl Drop for Init {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_trial_is_answered_in_one_line_and_the_init_waits_on() {
    let mut init = Init::waiting();
    let mut stdin = init.child.stdin.take().unwrap();
    for _ in 0..2 {
        stdin.write_all(trial::REQUEST).unwrap();
        let line = init.line();
        let said = line.strip_prefix(trial::ANSWERED).unwrap();
        // What is made in a home, the suites see in a sandbox: here there is none.
        assert!(said.starts_with("failed to read /.adrastea/home: "), "{said}");
    }
}

#[test]
fn a_report_is_told_as_often_as_asked_and_the_claim_still_taken() {
    let mut init = Init::waiting();
    let mut stdin = init.child.stdin.take().unwrap();
    for _ in 0..2 {
        stdin.write_all(REQUEST).unwrap();
        let length = init.line().strip_prefix(ANNOUNCED).unwrap().parse().unwrap();
        let mut bytes = vec![0; length];
        init.output.read_exact(&mut bytes).unwrap();
        let report = Report::decode(&bytes).unwrap();
        assert_eq!(report.environment, ["OWN=the init's own"]);
        assert!(report.status.contains("\nNoNewPrivs:"), "{}", report.status);
        assert!(report.mountinfo.contains(" - proc "), "{}", report.mountinfo);
        assert_eq!(report.devices["null"], Some((1, 3)));
        assert_eq!(report.modes["/tmp"], 0o1777);
        for promised in ["open files", "processes"] {
            assert!(report.rlimits.contains_key(promised), "{promised}");
        }
        // The standard ones, the signals' and the channel's own; nothing that was inherited.
        let highest = report.descriptors.iter().map(|(number, _)| *number).max();
        assert!(highest <= Some(5), "{:?}", report.descriptors);
        assert!(report.program.ends_with("adrastea-init"));
    }
    let claim = Claim {
        arguments: ["sh", "-c", "echo ran"].map(String::from).to_vec(),
        environment: vec![("PATH".into(), "/usr/bin:/bin".into())],
        directory: "/".into(),
    };
    stdin.write_all(&claim::encode(&claim).unwrap()).unwrap();
    assert_eq!(init.line(), CLAIMED);
    assert_eq!(init.line(), "ran");
    assert_eq!(init.end().code(), Some(0));
}

#[test]
fn the_server_gets_exactly_the_claim() {
    let mut init = Init::claimed(
        &["env"],
        &[("PATH", "/nowhere:/usr/bin:/bin"), ("TOKEN", "s3cret"), ("EMPTY", "")],
        "/usr",
    );
    assert_eq!(init.rest(), "PATH=/nowhere:/usr/bin:/bin\nTOKEN=s3cret\nEMPTY=\n");
    assert_eq!(init.end().code(), Some(0));

    let mut init = Init::claimed(&["/bin/pwd"], &[], "/usr");
    assert_eq!(init.rest(), "/usr\n");
}

#[test]
fn the_server_starts_afresh() {
    let mut init = Init::shell(
        "readlink /proc/self/fd/0; ls /proc/$$/fd; \
         grep -E '^Sig(Blk|Ign)' /proc/self/status; \
         test $(cut -d' ' -f5 /proc/$$/stat) = $$ && test $(cut -d' ' -f6 /proc/$$/stat) = $$ && echo leader",
    );
    let text = init.rest();
    assert!(text.starts_with("/dev/null\n0\n1\n2\n"), "{text}");
    assert!(text.contains("SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n"), "{text}");
    assert!(text.ends_with("leader\n"), "{text}");
}

#[test]
fn the_init_cannot_be_inspected() {
    let init = Init::waiting();
    let status = fs::read_to_string(format!("/proc/{}/status", init.child.id())).unwrap();
    // All signals that can be blocked are.
    assert!(
        status.contains("SigBlk:\tfffffffe7ffbfeff\n")
            || status.contains("SigBlk:\tfffffffffffbfeff\n"),
        "{status}"
    );
    // A non-dumpable process belongs to root in /proc (proc(5)).
    let owner = fs::metadata(format!("/proc/{}/environ", init.child.id())).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&owner), 0);
    let descriptors = format!("/proc/{}/fd", init.child.id());
    if std::os::unix::fs::MetadataExt::uid(&fs::metadata("/proc/self").unwrap()) != 0 {
        assert!(fs::read_dir(descriptors).is_err());
    }
}

#[test]
fn exit_codes_are_passed_on() {
    assert_eq!(Init::shell("exit 7").end().code(), Some(7));
    assert_eq!(Init::shell("kill -KILL $$").end().code(), Some(128 + 9));
}

#[test]
fn what_cannot_run_is_said() {
    let mut init = Init::claimed(&["no-such-command", "s3cret"], &[("PATH", "/usr/bin:/bin")], "/");
    let text = init.rest();
    assert_eq!(
        text,
        "[adrastea: failed to execute `no-such-command`: No such file or directory (os error 2)]\n"
    );
    assert_eq!(init.end().code(), Some(127));

    let mut init = Init::claimed(&["/etc/passwd"], &[], "/");
    assert!(init.rest().contains("failed to execute `/etc/passwd`: Permission denied"));
    assert_eq!(init.end().code(), Some(126));

    let mut init = Init::claimed(&["/bin/pwd"], &[], "/no/such/directory");
    let text = init.rest();
    assert!(
        text.contains("failed to enter `/no/such/directory`") && text.ends_with("]\n/\n"),
        "{text}"
    );
    assert_eq!(init.end().code(), Some(0));
}

#[test]
fn a_bad_claim_is_refused() {
    for bytes in [b"garbage, and more of it".as_slice(), b"", b"ADRCLAIM1\n\xff\xff\xff\xff"] {
        let mut init = Init::waiting();
        init.send(bytes);
        let line = init.line();
        assert!(line.starts_with(REFUSED), "{line}");
        assert_eq!(init.end().code(), Some(125));
    }
}

#[test]
fn a_waiting_init_ends_when_told() {
    let mut init = Init::waiting();
    init.signal("WINCH");
    init.signal("TERM");
    assert_eq!(init.end().code(), Some(128 + 15));
}

#[test]
fn signals_reach_the_whole_group() {
    let mut init =
        Init::shell("sleep 60 & sleep 0.3; trap 'echo got it; exit 3' TERM; echo up; wait $!");
    assert_eq!(init.line(), "up");
    init.signal("TERM");
    // The background `sleep` got it too, so nothing holds the pipe open.
    let text = init.rest();
    assert!(text.ends_with("got it\n"), "{text}");
    assert_eq!(init.end().code(), Some(3));
}

#[test]
fn a_process_that_outlives_the_server_does_not_hold_the_init() {
    let mut init = Init::shell("setsid sleep 5 & exit 4");
    let before = Instant::now();
    assert_eq!(init.end().code(), Some(4));
    assert!(before.elapsed() < Duration::from_secs(3));
}

#[test]
fn all_output_arrives_at_a_reader_that_reads() {
    let mut init = Init::shell("yes 0123456789abcde | head -c 1600000; echo done >&2");
    // Slower than the writer, but never far behind.
    let text = init.rest();
    if !text.contains("bytes of output dropped]") {
        assert_eq!(text.len(), 1_600_000 + 5);
    }
    assert!(text.ends_with("done\n"));
}

#[test]
fn a_reader_that_stalls_never_blocks_the_server() {
    let mut init =
        Init::shell("head -c 50000000 /dev/zero | tr '\\0' x; echo; echo survived >&2; exit 5");
    // Nobody reads; yet the server ends.
    assert_eq!(init.end().code(), Some(5));
    let text = init.rest();
    assert!(text.len() < 1_000_000, "{}", text.len());

    // With a reader that comes back, the loss is counted.
    let mut init = Init::shell(
        "head -c 3000000 /dev/zero | tr '\\0' x; echo; sleep 1; echo again; sleep 1; echo last",
    );
    thread::sleep(Duration::from_millis(500));
    let text = init.rest();
    let note = text.split("[adrastea: ").nth(1).unwrap();
    let dropped: usize = note.split(' ').next().unwrap().parse().unwrap();
    let passed = text.bytes().filter(|byte| *byte == b'x').count();
    assert!(dropped > 0 && text.ends_with("again\nlast\n"), "{}", text.len());
    assert!((3_000_000..=3_000_001).contains(&(passed + dropped)), "{passed} + {dropped}");
}

#[test]
fn a_reader_that_is_gone_never_ends_the_server() {
    let mut init = Init::shell("read line < /dev/null; sleep 1; yes | head -c 1000000; exit 6");
    init.output = BufReader::new(
        Command::new("true").stdout(Stdio::piped()).spawn().unwrap().stdout.unwrap(),
    );
    assert_eq!(init.end().code(), Some(6));
}

#[test]
fn stray_children_are_reaped() {
    let mut init = Init::shell("for i in 1 2 3; do true; done; exit 0");
    assert!(init.rest().is_empty());
    assert_eq!(init.end().code(), Some(0));
}

/// A command whose interpreter is a shell script that plays the waiting program.
struct Image {
    directory: std::path::PathBuf,
}

impl Image {
    fn new(name: &str, waits: &str) -> Self {
        use std::os::unix::fs::PermissionsExt as _;
        let place = format!("adrastea-init-{name}-{}", std::process::id());
        let directory = std::env::temp_dir().join(place);
        fs::create_dir_all(&directory).unwrap();
        let interpreter = directory.join("python-stand-in");
        // With the waiting program's path as its first argument it waits; as a script's
        // interpreter it is the server.
        let plays = format!(
            "#!/bin/sh\ncase \"$1\" in */waiting.py) ;; *) echo started anew; exit 4;; esac\n{waits}\n"
        );
        let head = format!("#!{}\n", interpreter.display());
        for (path, text) in [(&interpreter, &plays), (&directory.join("server"), &head)] {
            fs::write(path, text).unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        Self { directory }
    }

    fn claim(&self, more: &[(&str, &str)]) -> Claim {
        let path = format!("{}:/usr/bin:/bin", self.directory.display());
        let environment = [("PATH", path.as_str())].into_iter().chain(more.iter().copied());
        Claim {
            arguments: vec!["server".into()],
            environment: environment.map(|(name, value)| (name.into(), value.into())).collect(),
            directory: "/usr".into(),
        }
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// An init with a program that waits; what is sent from here on goes to its standard input.
fn standing_by(image: &Image) -> (Init, std::process::ChildStdin) {
    let mut init = Init::waiting();
    let mut stdin = init.child.stdin.take().unwrap();
    stdin.write_all(&claim::encode_standby(&image.claim(&[])).unwrap()).unwrap();
    (init, stdin)
}

#[test]
fn a_program_waits_takes_the_claim_and_is_the_server() {
    let image = Image::new(
        "takes",
        "echo early; echo ready >&0; dd bs=65536 count=1 2>/dev/null <&0 | tr '\\0' ' ' | grep -ao 'TOKEN=s3cret'; \
         readlink /proc/$$/fd/0; echo taken >&0; exit 7",
    );
    let (mut init, mut stdin) = standing_by(&image);
    assert_eq!(init.line(), READY);
    // It waits for as long as nobody comes.
    assert!(init.child.try_wait().unwrap().is_none());
    let claim = image.claim(&[("TOKEN", "s3cret")]);
    stdin.write_all(&claim::encode(&claim).unwrap()).unwrap();
    assert_eq!(init.line(), CLAIMED);
    let text = init.rest();
    assert!(text.starts_with("early\n") && text.contains("TOKEN=s3cret\nsocket:"), "{text}");
    assert_eq!(init.end().code(), Some(7));
}

#[test]
fn a_program_that_steps_aside_or_dies_is_replaced_by_the_command() {
    for (how, reason) in
        [("echo not today >&0", "not today"), ("exit 3", "the waiting program ended")]
    {
        let image =
            Image::new("aside", &format!("echo ready >&0; head -c 20 <&0 >/dev/null; {how}"));
        let (mut init, mut stdin) = standing_by(&image);
        assert_eq!(init.line(), READY);
        stdin.write_all(&claim::encode(&image.claim(&[])).unwrap()).unwrap();
        assert_eq!(init.line(), format!("{CLAIMED}{ANEW}{reason}"));
        assert_eq!(init.rest(), "started anew\n");
        assert_eq!(init.end().code(), Some(4));
    }
}

#[test]
fn what_cannot_wait_says_why_and_ends() {
    let dies = Image::new("dies", "echo no module named jupyterhub; exit 1");
    let refuses = Image::new("refuses", "echo no such server >&0");
    let shell = Image::new("shell", "");
    fs::write(shell.directory.join("server"), "#!/bin/bash\n").unwrap();
    for (image, reason) in [
        (&dies, "the waiting program ended: no module named jupyterhub"),
        (&refuses, "no such server"),
        (&shell, "is no Python program"),
    ] {
        let (mut init, _stdin) = standing_by(image);
        let line = init.line();
        assert!(line.starts_with(ASIDE) && line.ends_with(reason), "{line}");
        assert_eq!(init.end().code(), Some(125));
    }
}

#[test]
fn an_init_whose_program_ends_ends_and_one_waits_at_most() {
    let image = Image::new("ends", "echo ready >&0; sleep 0.3");
    let (mut init, _stdin) = standing_by(&image);
    assert_eq!(init.line(), READY);
    assert!(init.line().starts_with(REFUSED));
    assert_eq!(init.end().code(), Some(125));

    let image = Image::new("twice", "echo ready >&0; sleep 30");
    let (mut init, mut stdin) = standing_by(&image);
    assert_eq!(init.line(), READY);
    stdin.write_all(&claim::encode_standby(&image.claim(&[])).unwrap()).unwrap();
    assert!(init.line().starts_with(REFUSED));
    assert_eq!(init.end().code(), Some(125));
}
