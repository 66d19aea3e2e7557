//! The program inside the test images: compiled statically by the test itself.

use std::{
    env,
    io::{self, BufRead, Write},
    process, thread,
    time::Duration,
};

fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some("exit") => process::exit(arguments[1].parse().unwrap()),
        Some("sleep") => {
            println!("sleeping");
            loop {
                thread::sleep(Duration::from_secs(60));
            }
        }
        Some("echo") => {
            let mut line = String::new();
            io::stdin().lock().read_line(&mut line).unwrap();
            eprint!("heard {line}");
            io::stdout().flush().unwrap();
        }
        _ => process::exit(99),
    }
}
