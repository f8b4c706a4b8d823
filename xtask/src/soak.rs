//! `cargo xtask soak`: long runs on the cluster, by the program of that name in `tests/soak`.
//!
//! It is a program of its own because it speaks to the API server and to the gateway, and xtask builds without any of that.

use std::convert::Infallible;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

/// Becomes that program, so that an order to end reaches it: it puts back what it has changed.
pub fn run(repository: &Path, arguments: &[String]) -> Result<Infallible> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    Err(Command::new(cargo)
        .args(["run", "--quiet", "--package", "soak", "--"])
        .args(arguments)
        .current_dir(repository)
        .exec())
    .context("failed to start cargo")
}
