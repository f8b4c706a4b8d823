//! `cargo xtask check-sizes`: files that hold more than one idea, by the only smell a program can tell.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::command::output;

/// A file of more lines is named.
const WARN: usize = 350;
/// A file of more lines outside its tests fails.
const FAIL: usize = 600;

/// Looks at every Rust file that is or may be committed.
pub fn check(repository: &Path) -> Result<()> {
    let list = output(
        Command::new("git")
            .args([
                "ls-files",
                "--cached",
                "--others",
                "--exclude-standard",
                "--",
                "*.rs",
            ])
            .current_dir(repository),
    )?;
    let mut failed = Vec::new();
    for name in list.lines().filter(|name| !is_generated(name)) {
        let path = repository.join(name);
        // Deleted, and not yet committed so.
        if !path.exists() {
            continue;
        }
        let text = fs::read_to_string(&path).with_context(|| format!("failed to read {name}"))?;
        match verdict(name, &text) {
            Verdict::Fine => {}
            Verdict::Long(lines) => {
                eprintln!("warning: {name} has {lines} lines: does it hold more than one idea?")
            }
            Verdict::TooLong(lines) => {
                failed.push(format!("    {name}: {lines} lines outside tests, at most {FAIL}"))
            }
        }
    }
    if failed.is_empty() {
        return Ok(());
    }
    bail!(
        "files are too long:\n{}\n  fix: split them by idea",
        failed.join("\n")
    )
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Fine,
    Long(usize),
    TooLong(usize),
}

fn verdict(name: &str, text: &str) -> Verdict {
    let all = text.lines().count();
    let is_test = name.starts_with("tests/") || name.contains("/tests/");
    let outside = if is_test { 0 } else { outside_tests(text) };
    if outside > FAIL {
        Verdict::TooLong(outside)
    } else if all > WARN {
        Verdict::Long(all)
    } else {
        Verdict::Fine
    }
}

/// Lines before the tests, which come last in a file.
fn outside_tests(text: &str) -> usize {
    let lines: Vec<&str> = text.lines().collect();
    let tests = lines
        .windows(2)
        .position(|pair| pair[0].starts_with("#[cfg(test)]") && pair[1].starts_with("mod "));
    tests.unwrap_or(lines.len())
}

fn is_generated(name: &str) -> bool {
    name.contains("/generated/") || name.contains("/generated.rs") && !name.starts_with("xtask/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_count_for_the_warning_and_not_for_the_failure() {
        let code = "x\n".repeat(300);
        let tests = format!("#[cfg(test)]\nmod tests {{\n{}}}\n", "y\n".repeat(400));
        assert_eq!(verdict("a/src/b.rs", &code), Verdict::Fine);
        assert_eq!(
            verdict("a/src/b.rs", &format!("{code}{tests}")),
            Verdict::Long(703)
        );
        assert_eq!(verdict("a/src/b.rs", &"x\n".repeat(601)), Verdict::TooLong(601));
        assert_eq!(verdict("a/tests/b.rs", &"x\n".repeat(601)), Verdict::Long(601));
    }
}
