//! What starts a script, as its first lines say: for the init, which starts the same program
//! before the script's user is there, and for whoever tells beforehand whether it will. Pure.

use std::path::Path;

/// The Python that a script names in its head, with the option it gives it: directly, by `env`,
/// or in the way installers write paths that are too long for the kernel.
pub fn interpreter(head: &str) -> Option<Vec<String>> {
    let mut lines = head.lines();
    let mut words = lines.next()?.strip_prefix("#!")?.trim().splitn(2, char::is_whitespace);
    let (program, option) =
        (words.next()?, words.next().map(str::trim).filter(|it| !it.is_empty()));
    let found = match Path::new(program).file_name()?.to_str()? {
        "env" => vec![option.filter(|name| !name.contains(char::is_whitespace))?.to_owned()],
        "sh" if option.is_none() => {
            let rest = lines.next()?.strip_prefix("'''exec' ")?;
            let path = match rest.strip_prefix('"') {
                Some(quoted) => quoted.split_once('"')?.0,
                None => rest.split_once(' ')?.0,
            };
            vec![path.to_owned()]
        }
        _ => std::iter::once(program).chain(option).map(str::to_owned).collect(),
    };
    let name = Path::new(found.first()?).file_name()?.to_str()?;
    name.starts_with("python").then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interpreter_is_found_or_the_image_steps_aside() {
        for (head, expected) in [
            ("#!/opt/conda/bin/python\nimport sys", Some(vec!["/opt/conda/bin/python"])),
            ("#!/usr/bin/python3.11 -sE\n", Some(vec!["/usr/bin/python3.11", "-sE"])),
            ("#! /usr/bin/env python3\n", Some(vec!["python3"])),
            ("#!/bin/sh\n'''exec' \"/a b/python\" \"$0\" \"$@\"\n' '''", Some(vec!["/a b/python"])),
            ("#!/bin/sh\n'''exec' /long/python \"$0\" \"$@\"\n", Some(vec!["/long/python"])),
            ("#!/bin/bash\nexec jupyterhub-singleuser", None),
            ("#!/bin/sh\nexec python", None),
            ("#!/usr/bin/env -S python -u\n", None),
            ("\u{7f}ELF", None),
            ("", None),
        ] {
            let found = interpreter(head);
            let expected =
                expected.map(|words| words.into_iter().map(str::to_owned).collect::<Vec<_>>());
            assert_eq!(found, expected, "{head}");
        }
    }
}
