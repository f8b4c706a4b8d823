//! Clearing what a restart of the machine would have cleared.
//!
//! After a power cut that only killed the processes, the runtime's folder, mounts, network namespaces and cables are
//! still there and belong to nobody. They are removed, and the components then start as on a machine that was restarted:
//! the kubelet finds its pods without containers and makes them again.

use std::collections::HashSet;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::snapshot::Snapshot;
use super::{BEGAN, Node, RUN, components, firewall, network};
use crate::poll;
use crate::process::start_time;

/// Whether the pods' processes could still be of use: their supervisors live and their network is there.
pub fn is_needed(node: &Node) -> bool {
    let containerd = node.processes().alive("containerd").is_some();
    !network::has_bridge() || (!containerd && shims().is_empty())
}

/// Removes everything that a restart would. containerd and the kubelet must not run.
pub fn sweep(node: &Node, before: &Snapshot) -> Result<()> {
    kill_all(node)?;
    unmount(node)?;
    for namespace in network::namespaces()
        .iter()
        .filter(|name| !before.has_namespace(name))
    {
        network::remove_namespace(namespace)?;
    }
    network::remove()?;
    firewall::remove(firewall::OF_PODS, before)?;
    for folder in [
        Path::new(RUN).join("containerd"),
        node.at("cni"),
        node.at("kubelet/plugins_registry"),
    ] {
        if folder.exists() {
            fs::remove_dir_all(&folder).with_context(|| format!("failed to remove {}", folder.display()))?;
        }
    }
    remove_groups();
    match fs::remove_file(Path::new(RUN).join(BEGAN)) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).context("failed to forget when the node began")
        }
        _ => Ok(()),
    }
}

/// Supervisors of containers that belong to our containerd, by its address on their command line.
fn shims() -> Vec<i32> {
    let address = components::containerd_socket().display().to_string();
    processes()
        .filter(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let words: Vec<_> = line
                .split(|byte| *byte == 0)
                .map(String::from_utf8_lossy)
                .collect();
            words
                .first()
                .is_some_and(|program| program.ends_with("containerd-shim-runc-v2"))
                && words.contains(&address.as_str().into())
        })
        .collect()
}

/// Processes in the control group of a pod that our kubelet knows.
fn in_pods(node: &Node) -> Vec<i32> {
    let pods: HashSet<String> = fs::read_dir(node.at("kubelet/pods"))
        .map(|entries| {
            entries
                .flatten()
                .map(|entry| entry.file_name().to_string_lossy().into_owned())
                .collect()
        })
        .unwrap_or_default();
    processes()
        .filter(|pid| {
            let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
            groups
                .split('/')
                .any(|part| part.strip_prefix("pod").is_some_and(|uid| pods.contains(uid)))
        })
        .collect()
}

fn processes() -> impl Iterator<Item = i32> {
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Kills the processes of pods and their supervisors.
pub fn kill_all(node: &Node) -> Result<()> {
    let mut left = Vec::new();
    let end = poll::until(Duration::from_secs(15), Duration::from_millis(50), || {
        // Containers first: a shim that dies before its container leaves it to process 1.
        left = in_pods(node)
            .into_iter()
            .chain(shims())
            .filter(|pid| start_time(*pid).is_some())
            .collect::<Vec<_>>();
        for pid in &left {
            let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
        }
        Ok(left.is_empty().then_some(()))
    })?;
    match end {
        Some(()) => Ok(()),
        None => bail!("processes of pods do not end even when killed: {left:?}"),
    }
}

fn unmount(node: &Node) -> Result<()> {
    let folders = [node.state.clone(), PathBuf::from(RUN)];
    let mut points = mounts_under(
        &fs::read_to_string("/proc/self/mountinfo").unwrap_or_default(),
        &folders,
    );
    // The deepest first: a later line may be mounted inside an earlier one.
    points.reverse();
    for point in points {
        umount2(&point, MntFlags::MNT_DETACH)
            .with_context(|| format!("failed to unmount {}", point.display()))?;
    }
    Ok(())
}

/// Mount points under any of the folders, in the order of mounting (proc_pid_mountinfo(5), field 5).
fn mounts_under(table: &str, folders: &[PathBuf]) -> Vec<PathBuf> {
    table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|point| PathBuf::from(point.replace("\\040", " ")))
        .filter(|point| folders.iter().any(|folder| point.starts_with(folder)))
        .collect()
}

/// Removes the empty control groups of pods; one that is in use stays.
fn remove_groups() {
    fn remove(folder: &Path) {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                remove(&entry.path());
            }
        }
        let _ = fs::remove_dir(folder);
    }
    let root = Path::new("/sys/fs/cgroup");
    remove(&root.join("kubepods"));
    for controller in fs::read_dir(root).into_iter().flatten().flatten() {
        remove(&controller.path().join("kubepods"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_mounts_inside_our_folders_are_found() {
        let table = "1 0 8:1 / / rw - ext4 a rw\n2 1 0:5 / /run/trellis/a\\040b rw - tmpfs b rw\n3 1 0:6 / /run/trellis2 rw - tmpfs c rw\n";
        assert_eq!(
            mounts_under(table, &["/run/trellis".into()]),
            [PathBuf::from("/run/trellis/a b")]
        );
    }
}
