//! What `up` refuses, tried for real: a second verb at the same time, a full disk, a taken port. Each has to be an error that
//! says what, where and the fix, and has to leave nothing behind.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::down;
use crate::lock::Lock;
use crate::paths::Paths;
use crate::provider::{Name, Provider};
use crate::up::{self, Wishes};

/// Ports on each kind of address that the node listens on: the bridge's, which is not there yet, and loopback.
const PORTS: [(&str, u16); 3] = [
    ("kube-apiserver", 6443),
    ("kubelet", 10250),
    ("kube-proxy", 30080),
];

/// While a verb has the lock, `up` and `down` are refused and name its process.
pub fn second_verb(paths: &Paths, _lock: &Lock) -> Result<()> {
    let holder = format!("process {}", std::process::id());
    let expected = ["another `cargo xtask`", &holder];
    refused("a second `up`", up::up(paths, &Wishes::default()), &expected)?;
    refused("a `down` beside", down::down(paths), &expected)
}

/// On a disk without a free byte, `up` is refused before it builds anything, and `down` has nothing to do.
pub fn full_disk(paths: &Paths) -> Result<()> {
    let disk = FullDisk::make()?;
    let paths = Paths {
        state: disk.folder.clone(),
        ..paths.clone()
    };
    let wishes = Wishes {
        provider: Some(Name::Local),
        ..Wishes::default()
    };
    let place = disk.folder.display().to_string();
    refused(
        "`up` on a full disk",
        up::up(&paths, &wishes),
        &["the disk is nearly full", &place],
    )?;
    down::down(&paths).context("`down` on a full disk failed")
}

/// While somebody listens on a port of the stopped node, `up` is refused and names port, component and process.
pub fn taken_ports(paths: &Paths, provider: &dyn Provider, lock: &Lock) -> Result<()> {
    for (component, port) in PORTS {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))
            .with_context(|| format!("failed to take port {port} of the stopped node"))?;
        let outcome = up::up_locked(paths, &Wishes::default(), lock);
        drop(listener);
        refused(
            &format!("`up` with port {port} taken"),
            outcome,
            &[
                &format!("port {port}, which {component} needs"),
                &format!("process {}", std::process::id()),
            ],
        )?;
    }
    let left = provider.stop()?;
    ensure!(
        left.is_empty(),
        "an `up` that was refused left {} on the machine",
        left.join(", ")
    );
    Ok(())
}

/// Fails unless there is an error that says all this, and a fix.
fn refused(what: &str, outcome: Result<()>, expected: &[&str]) -> Result<()> {
    let Err(error) = outcome else {
        bail!("{what} was not refused");
    };
    let text = format!("{error:#}");
    for part in expected.iter().chain(&["fix:"]) {
        ensure!(
            text.contains(part),
            "the error of {what} does not say {part:?}: {text}"
        );
    }
    Ok(())
}

/// A file system in memory, filled to the last byte; unmounted when dropped.
struct FullDisk {
    folder: PathBuf,
}

impl FullDisk {
    fn make() -> Result<Self> {
        let folder = std::env::temp_dir().join(format!("trellis-full-{}", std::process::id()));
        fs::create_dir_all(&folder).context("failed to create a mount point")?;
        let disk = Self { folder };
        mount(
            Some("tmpfs"),
            &disk.folder,
            Some("tmpfs"),
            MsFlags::empty(),
            Some("size=1m"),
        )
        .context("failed to mount a small file system")?;
        fill(&disk.folder.join("filler"))?;
        Ok(disk)
    }
}

impl Drop for FullDisk {
    fn drop(&mut self) {
        let _ = umount2(&self.folder, MntFlags::MNT_DETACH);
        let _ = fs::remove_dir(&self.folder);
    }
}

fn fill(file: &Path) -> Result<()> {
    let mut file = File::create(file).context("failed to create a file")?;
    loop {
        match file.write_all(&[0; 4096]) {
            Err(error) if error.kind() == ErrorKind::StorageFull => return Ok(()),
            other => other.context("failed to fill a disk")?,
        }
    }
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn a_refusal_has_to_say_what_is_expected_and_a_fix() {
        let refusal = |text: &'static str| refused("it", Err(anyhow!(text)), &["port 1"]);
        refusal("port 1 is taken\n  fix: free it").unwrap();
        assert!(refusal("port 1 is taken").is_err());
        assert!(refusal("port 2 is taken\n  fix: free it").is_err());
        assert!(refused("it", Ok(()), &[]).is_err());
    }
}
