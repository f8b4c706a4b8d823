//! Images that the tests bring along: a small HTTP server in Go.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use tokio::sync::OnceCell;

use crate::cluster::xtask;

/// Builds the echo server, loads it into the cluster and returns the image's name.
///
/// # Errors
/// If Go or the image cannot be built.
pub async fn echo() -> Result<String> {
    static BUILT: OnceCell<String> = OnceCell::const_new();
    once(&BUILT, "trellis-e2e-echo", "65532:65532").await
}

/// The same server in an image whose user is root.
///
/// # Errors
/// If Go or the image cannot be built.
pub async fn echo_as_root() -> Result<String> {
    static BUILT: OnceCell<String> = OnceCell::const_new();
    once(&BUILT, "trellis-e2e-echo-root", "0:0").await
}

async fn once(built: &OnceCell<String>, name: &'static str, user: &'static str) -> Result<String> {
    let build = || async { tokio::task::spawn_blocking(move || build(name, user)).await? };
    built.get_or_try_init(build).await.cloned()
}

fn build(name: &str, user: &str) -> Result<String> {
    let source = Path::new("fixtures/echo");
    // A name of its own for each build: test processes may build at the same time.
    let binary: PathBuf = std::env::temp_dir().join(format!("trellis-e2e-{:016x}", rand::random::<u64>()));
    let output = Command::new("go")
        .args(["build", "-trimpath", "-ldflags", "-s -w -buildid=", "-o"])
        .arg(&binary)
        .arg(".")
        .env("CGO_ENABLED", "0")
        .current_dir(source)
        .output()
        .context("failed to run go; the tests' own image is written in Go")?;
    if !output.status.success() {
        bail!(
            "failed to build {}: {}",
            source.display(),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    let file = format!("{}=/echo", binary.display());
    let printed = xtask([
        "image",
        "build",
        "--name",
        name,
        "--entrypoint",
        "/echo",
        "--file",
        &file,
        "--user",
        user,
        "--load",
    ]);
    std::fs::remove_file(&binary)?;
    // The last line is the reference under which the image was loaded.
    printed?
        .lines()
        .last()
        .map(str::to_owned)
        .context("xtask image build printed no reference")
}
