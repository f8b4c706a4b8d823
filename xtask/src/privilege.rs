//! Root is needed by containerd, the kubelet and the firewall, and by nothing else.
//!
//! A user who is not root is told so, and only that part runs again through sudo.

use std::env;
use std::os::unix::fs::chown;
use std::path::Path;
use std::process::Command;
use std::sync::Once;

use anyhow::{Context, Result, bail};
use nix::unistd::{geteuid, getgid, getuid};

use crate::command::on_path;
use crate::progress;

static SAY_ONCE: Once = Once::new();

/// Whether this process may do everything.
pub fn is_root() -> bool {
    geteuid().is_root()
}

/// A command that is run as root: directly, or through sudo.
pub fn command(program: &str) -> Command {
    if is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("sudo");
    command.arg("--").arg(program);
    command
}

/// Whether a part that needs root can be run; says that sudo is about to be used. `why` begins the error.
pub fn available(why: &str) -> Result<()> {
    if is_root() {
        return Ok(());
    }
    if !on_path("sudo") {
        bail!(
            "{why}; that needs root, and there is no sudo\n  fix: run this as root, or apt-get install sudo"
        );
    }
    progress::note(&format!("{why}: running that part through sudo"));
    Ok(())
}

/// Runs this program again through sudo with other arguments, its output going to the same places.
pub fn again(arguments: &[String]) -> Result<()> {
    if !on_path("sudo") {
        bail!(
            "the cluster's node needs root (containerd, network namespaces, firewall) and there is no sudo\n  fix: run this as root, or apt-get install sudo"
        );
    }
    SAY_ONCE.call_once(|| progress::note("the cluster's node needs root: running that part through sudo"));
    let program = env::current_exe().context("failed to find this program")?;
    let status = Command::new("sudo")
        .arg("--")
        .arg(program)
        .args(arguments)
        .status()
        .context("failed to start sudo")?;
    if !status.success() {
        bail!("the part that runs as root failed ({status}); its message is above");
    }
    Ok(())
}

/// The user to whom files belong: whoever called sudo, or this process's own user.
pub fn owner() -> (u32, u32) {
    let id = |name: &str| env::var(name).ok().and_then(|text| text.parse::<u32>().ok());
    match (id("SUDO_UID"), id("SUDO_GID")) {
        (Some(user), Some(group)) if is_root() => (user, group),
        _ => (getuid().as_raw(), getgid().as_raw()),
    }
}

/// Gives a file that root has made to the user who asked for it.
pub fn give_back(file: &Path) -> Result<()> {
    if is_root() {
        let (user, group) = owner();
        return chown(file, Some(user), Some(group))
            .with_context(|| format!("failed to give {} to its user", file.display()));
    }
    let (user, group) = owner();
    crate::command::output(command("chown").arg(format!("{user}:{group}")).arg(file)).map(drop)
}
