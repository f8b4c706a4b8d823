//! Images and containers, by way of containerd's own client.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::components::containerd_socket;
use crate::command::{output, succeeds};
use crate::poll;

/// `ctr` for the namespace that the kubelet uses.
fn ctr() -> Command {
    let mut command = Command::new("/usr/bin/ctr");
    command
        .arg("--address")
        .arg(containerd_socket())
        .args(["--namespace", "k8s.io"]);
    command
}

/// References of all images.
pub fn images() -> Result<Vec<String>> {
    let text =
        output(ctr().args(["images", "list", "--quiet"])).context("failed to list the cluster's images")?;
    Ok(text.lines().map(str::to_owned).collect())
}

/// Imports an archive as `docker save` writes it.
pub fn import(archive: &Path) -> Result<()> {
    output(ctr().args(["images", "import"]).arg(archive))
        .map(drop)
        .with_context(|| format!("failed to import {}", archive.display()))
}

/// Removes images.
pub fn remove(references: &[String]) -> Result<()> {
    if references.is_empty() {
        return Ok(());
    }
    output(ctr().args(["images", "remove"]).args(references))
        .map(drop)
        .context("failed to remove old images")
}

/// Asks every container to end, and returns when they have or `grace` is over.
pub fn end_containers(grace: Duration) -> Result<()> {
    let mut asked = Vec::new();
    poll::until(grace, Duration::from_millis(200), || {
        let running = running();
        for container in running.iter().filter(|name| !asked.contains(*name)) {
            succeeds(ctr().args(["tasks", "kill", "--signal", "SIGTERM", container]));
        }
        let is_empty = running.is_empty();
        asked = running;
        Ok(is_empty.then_some(()))
    })
    .map(drop)
}

fn running() -> Vec<String> {
    let text = output(ctr().args(["tasks", "list"])).unwrap_or_default();
    text.lines()
        .skip(1)
        .filter_map(|line| {
            let mut fields = line.split_whitespace();
            let name = fields.next()?;
            (fields.nth(1)? == "RUNNING").then(|| name.to_owned())
        })
        .collect()
}
