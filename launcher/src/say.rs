//! What the command line prints. A reader that has gone away (`adrastea ls | head`)
//! ends the command quietly, as it ends any other program; it is no panic.

use std::{
    fmt::Arguments,
    io::{ErrorKind, Write as _, stdout},
    process::exit,
};

/// 128 + SIGPIPE: what shells say of a program that wrote into a closed pipe.
const CLOSED_PIPE: i32 = 141;

/// Prints a line, as `println!` does.
macro_rules! say {
    () => { $crate::say::print(format_args!("\n")) };
    ($($argument:tt)*) => { $crate::say::print(format_args!("{}\n", format_args!($($argument)*))) };
}
pub(crate) use say;

/// Prints a text, as `print!` does.
pub fn print(text: Arguments<'_>) {
    let mut out = stdout().lock();
    if let Err(error) = out.write_fmt(text).and_then(|()| out.flush()) {
        if error.kind() != ErrorKind::BrokenPipe {
            eprintln!("adrastea: failed to print: {error}");
            exit(1);
        }
        exit(CLOSED_PIPE);
    }
}
