//! Taking the node down, so that the machine looks as it did before the first start.

use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::snapshot::Snapshot;
use super::{Node, RUN, SNAPSHOT, components, firewall, runtime, sweep};
use crate::command::succeeds;
use crate::progress;

/// What containers get between the request to end and the end: PostgreSQL writes its checkpoint in this time.
const GRACE: Duration = Duration::from_secs(10);

/// Ends pods, processes, mounts, namespaces and rules; keeps the data. Returns what could not be removed.
pub fn stop(node: &Node) -> Result<Vec<String>> {
    let file = node.at(SNAPSHOT);
    let Some(before) = Snapshot::known(&file) else {
        progress::note("the cluster does not run");
        return Ok(Vec::new());
    };
    let step = progress::step("stopping Kubernetes");
    let processes = node.processes();
    // First those that would start something again.
    for name in ["kubelet", "kube-controller-manager", "kube-scheduler"] {
        processes.stop(name, Duration::from_secs(10))?;
    }
    if processes.alive("containerd").is_some() {
        step.detail("ending the pods");
        runtime::end_containers(GRACE)?;
    }
    for component in components::all(node).iter().rev() {
        step.detail(component.name);
        processes.stop(component.name, Duration::from_secs(20))?;
    }
    step.detail("removing mounts, networks and firewall rules");
    sweep::sweep(node, &before)?;
    firewall::remove(firewall::ALL, &before)?;
    firewall::remove_empty_tables(&before);
    // Connections that were translated by rules which no longer exist.
    succeeds(Command::new("/usr/sbin/conntrack").args(["--delete", "--orig-dst", "10.96.0.0/16"]));
    remove_traces(node)?;
    before.restore_switches()?;
    let left = Snapshot::take().added_since(&before);
    // The next start is a first start: what others change on the machine until then is not ours to report.
    fs::remove_file(&file).context("failed to forget how the machine was")?;
    step.done("");
    Ok(left)
}

/// Kills one component, as an unlucky moment does.
pub fn kill(node: &Node, component: &str) -> Result<()> {
    node.processes().kill(component)
}

/// Kills every process at once, as a power cut does. What else such a cut would clear is cleared if `cleared`; left behind, it
/// has to be coped with by the next start.
pub fn cut_power(node: &Node, cleared: bool) -> Result<()> {
    for component in components::all(node) {
        kill(node, component.name)?;
    }
    if cleared {
        let before = Snapshot::known(&node.at(SNAPSHOT)).context("the cluster does not run")?;
        sweep::sweep(node, &before)?;
        fs::remove_dir_all(RUN).context("failed to remove the runtime folder")?;
        return Ok(());
    }
    sweep::kill_all(node)
}

/// Deletes everything that lasts, after [`stop`].
pub fn wipe(node: &Node) -> Result<()> {
    if node.state.exists() {
        fs::remove_dir_all(&node.state)
            .with_context(|| format!("failed to remove {}", node.state.display()))?;
    }
    Ok(())
}

/// Files that components write to fixed places of the machine.
fn remove_traces(node: &Node) -> Result<()> {
    let run = Path::new(RUN);
    if run.exists() {
        fs::remove_dir_all(run).context("failed to remove the runtime folder")?;
    }
    let logs = node.at("log/pods");
    for entry in fs::read_dir("/var/log/containers")
        .into_iter()
        .flatten()
        .flatten()
    {
        if fs::read_link(entry.path()).is_ok_and(|target| target.starts_with(&logs)) {
            let _ = fs::remove_file(entry.path());
        }
    }
    remove_results(Path::new("/var/lib/cni/results"))?;
    // Sockets of container supervisors have names that tell nothing; nobody listens on those of a dead one.
    for entry in fs::read_dir("/run/containerd/s").into_iter().flatten().flatten() {
        let is_socket = entry.file_type().is_ok_and(|kind| kind.is_socket());
        if is_socket && std::os::unix::net::UnixStream::connect(entry.path()).is_err() {
            let _ = fs::remove_file(entry.path());
        }
    }
    Ok(())
}

/// Removes the CNI's notes on our containers. The one on a container's loopback does not say whose it is, but the one beside
/// it does.
fn remove_results(folder: &Path) -> Result<()> {
    let names: Vec<String> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    let is_ours = |container: &str| names.contains(&format!("trellis-{container}-eth0"));
    let container = |name: &str| {
        let network = name
            .strip_prefix("trellis-")
            .and_then(|rest| rest.strip_suffix("-eth0"));
        network
            .or_else(|| name.strip_prefix("cni-loopback-")?.strip_suffix("-lo"))
            .map(str::to_owned)
    };
    for name in &names {
        if container(name).is_some_and(|container| is_ours(&container)) {
            fs::remove_file(folder.join(name)).with_context(|| format!("failed to remove {name}"))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_of_other_networks_stay() {
        let folder = std::env::temp_dir().join(format!("trellis-results-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        for name in [
            "trellis-a-eth0",
            "cni-loopback-a-lo",
            "other-b-eth0",
            "cni-loopback-b-lo",
        ] {
            fs::write(folder.join(name), "").unwrap();
        }
        remove_results(&folder).unwrap();
        assert!(!folder.join("trellis-a-eth0").exists() && !folder.join("cni-loopback-a-lo").exists());
        assert!(folder.join("other-b-eth0").exists() && folder.join("cni-loopback-b-lo").exists());
        fs::remove_dir_all(folder).unwrap();
    }
}
