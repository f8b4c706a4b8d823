//! Running other programs: their output is either wanted or becomes part of the error.

use std::env;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// How many lines of a failed program's output an error shows.
const TAIL: usize = 15;
/// How the variables begin that cargo sets for a package's own programs.
const OF_A_PACKAGE: [&str; 6] = [
    "CARGO_BIN_",
    "CARGO_CRATE_NAME",
    "CARGO_MANIFEST_",
    "CARGO_PKG_",
    "CARGO_PRIMARY_PACKAGE",
    "OUT_DIR",
];

/// cargo in the checkout, with the variables of a user's shell. `cargo run` gave this program those of its own package; build
/// scripts that watch them (ring's does) would run again whenever cargo is started from here after a start by hand, or the
/// other way round, and everything above them would be compiled anew.
pub fn cargo(repository: &Path) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(repository);
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        if OF_A_PACKAGE.iter().any(|prefix| text.starts_with(prefix)) {
            command.env_remove(&name);
        }
    }
    command
}

/// Runs to the end and returns what was printed; the error carries the last lines of standard error.
pub fn output(command: &mut Command) -> Result<String> {
    let name = describe(command);
    let done = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("failed to start {name}"))?;
    if !done.status.success() {
        let text = if done.stderr.is_empty() {
            &done.stdout
        } else {
            &done.stderr
        };
        bail!(
            "{name} failed ({}):\n{}",
            done.status,
            tail(&String::from_utf8_lossy(text), TAIL)
        );
    }
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

/// As [`output`], with `input` on standard input.
pub fn output_with_input(command: &mut Command, input: &str) -> Result<String> {
    let name = describe(command);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("failed to start {name}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that refuses its arguments closes the pipe first: its own message is the better one.
        let _ = stdin.write_all(input.as_bytes());
    }
    let done = child
        .wait_with_output()
        .with_context(|| format!("failed to wait for {name}"))?;
    if !done.status.success() {
        bail!(
            "{name} failed ({}):\n{}",
            done.status,
            tail(&String::from_utf8_lossy(&done.stderr), TAIL)
        );
    }
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

/// Whether the program exists, ran, and ended well; its output is of no interest.
pub fn succeeds(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// The last lines of a text, indented to stand inside an error.
pub fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let shown = &all[all.len().saturating_sub(lines)..];
    shown
        .iter()
        .map(|line| format!("    {line}"))
        .collect::<Vec<_>>()
        .join("\n")
}

/// The last lines of a log file; empty if there is none.
pub fn tail_of(path: &Path, lines: usize) -> String {
    tail(
        &String::from_utf8_lossy(&fs::read(path).unwrap_or_default()),
        lines,
    )
}

/// The program and its first arguments, short enough for one line of an error.
fn describe(command: &Command) -> String {
    let program = Path::new(command.get_program())
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let mut text = command.get_args().take(6).fold(program, |text, argument| {
        format!("{text} {}", argument.to_string_lossy())
    });
    if text.len() > 160 {
        text.truncate(text.floor_char_boundary(160));
        text.push_str(" ...");
    }
    format!("`{text}`")
}

/// Whether a program of this name is on PATH.
pub fn on_path(program: &str) -> bool {
    let mut folders: Vec<_> = env::var_os("PATH")
        .map(|path| env::split_paths(&path).collect())
        .unwrap_or_default();
    // Daemons live in sbin, which is not on the PATH of a user who is not root.
    folders.extend(["/usr/sbin".into(), "/sbin".into()]);
    folders.iter().any(|folder| folder.join(program).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_of_a_text_is_its_last_lines_without_blank_ones() {
        assert_eq!(tail("a\n\nb\nc\n\n", 2), "    b\n    c");
        assert_eq!(tail("", 2), "");
    }

    #[test]
    fn cargo_does_not_see_which_package_started_it() {
        let command = cargo(Path::new("/"));
        let removed: Vec<_> = command
            .get_envs()
            .filter(|(_, value)| value.is_none())
            .filter_map(|(name, _)| name.to_str())
            .collect();
        assert!(
            removed.contains(&"CARGO_PKG_NAME") && removed.contains(&"CARGO_MANIFEST_DIR"),
            "{removed:?}"
        );
        assert!(!removed.contains(&"CARGO") && !removed.contains(&"PATH"));
    }

    #[test]
    fn the_error_of_a_failed_program_shows_its_output() {
        let error = output(Command::new("sh").args(["-c", "echo why >&2; exit 3"]))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("exit status: 3") && error.contains("    why"),
            "{error}"
        );
    }
}
