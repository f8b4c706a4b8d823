//! `cargo xtask logs`: of a component of the node, or of a workload in the cluster.

use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::install::{OPERATOR, SHOP};
use crate::paths::Paths;
use crate::provider::{self, Local, Options};

/// Prints the log of what is named, or the names.
pub fn print(paths: &Paths, target: Option<&str>, follow: bool, lines: u32) -> Result<()> {
    let components = Local::new(paths)?.node().components();
    let Some(target) = target else {
        for (name, runs) in components {
            println!(
                "{name:<24} {}",
                if runs.is_some() { "runs" } else { "does not run" }
            );
        }
        for name in ["operator", "quota", "saga"] {
            println!("{name:<24} workload in {OPERATOR}");
        }
        println!(
            "{:<24} workload in {SHOP}; other namespaces by `cargo xtask kubectl -- logs ...`",
            "deploy/NAME"
        );
        return Ok(());
    };
    let lines = lines.to_string();
    let mut command = if components.iter().any(|(name, _)| *name == target) {
        let log = Local::new(paths)?.node().log(target);
        if !log.exists() {
            bail!("{target} has no log: it was never started");
        }
        let mut tail = Command::new("tail");
        tail.args(["-n", &lines]).args(follow.then_some("-F")).arg(log);
        tail
    } else {
        let (namespace, workload) = match target {
            "operator" | "quota" | "saga" => (OPERATOR, format!("deploy/trellis-{target}")),
            workload if workload.contains('/') => (SHOP, workload.to_owned()),
            name => (SHOP, format!("deploy/{name}")),
        };
        let kubectl = provider::choose(paths, None, &Options::default())?.kubectl();
        let mut logs = kubectl.command([
            "logs",
            "-n",
            namespace,
            &workload,
            "--all-containers",
            "--prefix",
            "--tail",
            &lines,
        ]);
        logs.args(follow.then_some("--follow"));
        logs
    };
    Err(command.exec()).context("failed to start the program that prints logs")
}
