//! `cargo xtask test`: every check, in the order of what fails fastest, and a table at the end.
//!
//! Each step's output is the tool's own: a test's result looks as cargo prints it.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::command;
use crate::node::binary;
use crate::paths::Paths;
use crate::up::{self, Wishes};
use crate::{generated, layers, lifecycle, packages, sizes, soak};

/// The test targets that need a cluster. They are asked for by name and not by package: a package alone has other features of
/// its dependencies than the workspace, and cargo would compile those once more.
const END_TO_END: &str = "e2e_*";

/// How a step went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Passed,
    Failed,
    Skipped,
}

/// The steps so far.
#[derive(Default)]
struct Report {
    steps: Vec<(&'static str, Outcome, Duration)>,
}

/// Runs every check; the cluster's last, unless it is not wanted.
pub fn run(paths: &Paths, with_cluster: bool, fresh: bool) -> Result<()> {
    let repository = &paths.repository;
    let mut report = Report::default();
    report.step("packages", || packages::ensure(packages::TESTS));
    report.step("format", || cargo(repository, &["fmt", "--all", "--check"]));
    report.step("lints", || {
        cargo(
            repository,
            &[
                "clippy",
                "--workspace",
                "--all-targets",
                "--features",
                soak::FAULTS,
                "--",
                "-D",
                "warnings",
            ],
        )
    });
    report.step("crds", || generated::crds(paths, true));
    report.step("manifests", || generated::manifests(paths, true));
    report.step("layers", || layers::check(repository));
    report.step("sizes", || sizes::check(repository));
    report.step("tests", || {
        cargo(
            repository,
            &["test", "--workspace", "--exclude", "e2e", "--no-fail-fast"],
        )
    });
    if with_cluster {
        report.step("up", || {
            up::up(
                paths,
                &Wishes {
                    fresh,
                    ..Wishes::default()
                },
            )
        });
        if report.last() == Some(Outcome::Passed) {
            report.step("end to end", || end_to_end(paths));
            if lifecycle::is_possible(paths) {
                report.step("cluster", || lifecycle::check(paths));
            }
        } else {
            report
                .steps
                .push(("end to end", Outcome::Skipped, Duration::ZERO));
        }
    }
    eprintln!("\n{}", report.table());
    match report.failed() {
        failed if failed.is_empty() => Ok(()),
        failed => bail!("failed: {}", failed.join(", ")),
    }
}

impl Report {
    fn step(&mut self, name: &'static str, check: impl FnOnce() -> Result<()>) {
        eprintln!("\n==> {name}");
        let began = Instant::now();
        let outcome = match check() {
            Ok(()) => Outcome::Passed,
            Err(error) => {
                eprintln!("error: {error:#}");
                Outcome::Failed
            }
        };
        self.steps.push((name, outcome, began.elapsed()));
    }

    fn last(&self) -> Option<Outcome> {
        self.steps.last().map(|(_, outcome, _)| *outcome)
    }

    fn failed(&self) -> Vec<&'static str> {
        self.steps
            .iter()
            .filter(|(_, outcome, _)| *outcome != Outcome::Passed)
            .map(|(name, ..)| *name)
            .collect()
    }

    fn table(&self) -> String {
        let row = |(name, outcome, time): &(&str, Outcome, Duration)| {
            format!("{name:<12} {outcome:<8?} {:>7.1} s\n", time.as_secs_f64())
        };
        self.steps.iter().map(row).collect()
    }
}

fn end_to_end(paths: &Paths) -> Result<()> {
    let programs = binary::ensure(&paths.cluster_sources(), &paths.cache)?;
    let arguments = ["test", "--workspace", "--test", END_TO_END, "--no-fail-fast"];
    let mut command = command::cargo(&paths.repository);
    command.args(arguments).args(["--features", soak::FAULTS]);
    passed(command.env(soak::PROGRAMS, programs))
}

fn cargo(repository: &Path, arguments: &[&str]) -> Result<()> {
    passed(command::cargo(repository).args(arguments))
}

fn passed(command: &mut Command) -> Result<()> {
    if !command.status()?.success() {
        let arguments: Vec<_> = command
            .get_args()
            .map(|argument| argument.to_string_lossy())
            .collect();
        bail!("`cargo {}` failed; its output is above", arguments.join(" "));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_step_does_not_hide_the_ones_after_it() {
        let mut report = Report::default();
        report.step("a", || bail!("no"));
        report.step("b", || Ok(()));
        assert_eq!(report.failed(), ["a"]);
        assert_eq!(report.last(), Some(Outcome::Passed));
        assert_eq!(report.table().lines().count(), 2);
    }
}
