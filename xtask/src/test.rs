//! `cargo xtask test`: every check, in the order of what fails fastest, and a table at the end.
//!
//! Each step's output is the tool's own: a test's result looks as cargo prints it.

use std::io::{self, Write as _};
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail};

use crate::command;
use crate::node::binary;
use crate::paths::Paths;
use crate::up::{self, Wishes};
use crate::{generated, layers, lifecycle, packages, sizes, soak};

/// The test targets that need a cluster, or Kubernetes at least. They are asked for by name and not by package: a package alone
/// has other features of its dependencies than the workspace, and cargo would compile those once more.
const END_TO_END: &str = "e2e_*";
const CLUSTER: &str = "e2e_cluster";
const DROPS: &str = "e2e_drops";
const ORDERS: &str = "e2e_orders";
/// How many tests of a cluster run at once: they wait for it most of the time.
const AT_ONCE: &str = "--test-threads=4";

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
        let down = (report.last() != Some(Outcome::Passed)).then_some("the cluster is not up");
        report.step_unless(down, "end to end", || end_to_end(paths));
        let elsewhere = || (!lifecycle::is_possible(paths)).then_some(lifecycle::IMPOSSIBLE);
        report.step_unless(down.or_else(elsewhere), "cluster", || lifecycle::check(paths));
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

    /// A step that an obstacle leaves out is in the table all the same; it is no failure of its own.
    fn step_unless(
        &mut self,
        obstacle: Option<&str>,
        name: &'static str,
        check: impl FnOnce() -> Result<()>,
    ) {
        let Some(obstacle) = obstacle else {
            return self.step(name, check);
        };
        eprintln!("\n==> {name}\nskipped: {obstacle}");
        self.steps.push((name, Outcome::Skipped, Duration::ZERO));
    }

    fn last(&self) -> Option<Outcome> {
        self.steps.last().map(|(_, outcome, _)| *outcome)
    }

    fn failed(&self) -> Vec<&'static str> {
        self.steps
            .iter()
            .filter(|(_, outcome, _)| *outcome == Outcome::Failed)
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

/// The tests of convergence have a control plane of their own, wait as much as the others and take as long: they run beside
/// them, and what they print comes when both are through.
fn end_to_end(paths: &Paths) -> Result<()> {
    let programs = binary::ensure(&paths.cluster_sources(), &paths.cache)?;
    let test = |target: &str, arguments: &[&str]| {
        let mut command = command::cargo(&paths.repository);
        command
            .args([
                "test",
                "--workspace",
                "--features",
                soak::FAULTS,
                "--test",
                target,
            ])
            .args(arguments)
            .env(soak::PROGRAMS, &programs);
        command
    };
    passed(&mut test(END_TO_END, &["--no-run"]))?;
    thread::scope(|scope| {
        let beside = scope.spawn(|| test(soak::CONVERGENCE, &[]).output());
        let cluster = passed(&mut test(CLUSTER, &["--", AT_ONCE]));
        let drops = passed(&mut test(DROPS, &[]));
        let orders = passed(&mut test(ORDERS, &[]));
        let beside = beside
            .join()
            .map_err(|_| anyhow!("failed to run {}", soak::CONVERGENCE))??;
        io::stderr().write_all(&beside.stderr)?;
        io::stdout().write_all(&beside.stdout)?;
        let beside = succeeded(beside.status, &test(soak::CONVERGENCE, &[]));
        cluster.and(drops).and(orders).and(beside)
    })
}

fn cargo(repository: &Path, arguments: &[&str]) -> Result<()> {
    passed(command::cargo(repository).args(arguments))
}

fn passed(command: &mut Command) -> Result<()> {
    let status = command.status()?;
    succeeded(status, command)
}

fn succeeded(status: ExitStatus, command: &Command) -> Result<()> {
    if !status.success() {
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

    #[test]
    fn a_step_that_is_left_out_is_in_the_table_and_no_failure() {
        let mut report = Report::default();
        report.step_unless(Some("not here"), "a", || bail!("it ran"));
        report.step_unless(None, "b", || bail!("no"));
        assert_eq!(report.failed(), ["b"]);
        let table = report.table();
        let rows: Vec<Vec<&str>> = table
            .lines()
            .map(|row| row.split_whitespace().collect())
            .collect();
        assert_eq!((rows[0][1], rows[1][1]), ("Skipped", "Failed"));
    }
}
