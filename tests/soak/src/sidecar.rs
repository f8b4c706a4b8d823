//! Signals to the proxy process of one pod, past the kubelet: the container is started again, the pod stays.

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::ResourceExt as _;
use nix::{
    errno::Errno,
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::time::timeout;
use trellis_api::names::CONTAINER_PROXY;

use crate::{
    shop::Shop,
    wait::{LONG, until},
};

/// The proxy process of a pod.
pub(crate) struct Sidecar {
    pod: String,
    restarts: i32,
    process: Pid,
}

impl Sidecar {
    /// Finds the process. The node's processes must be this machine's, as those of a local node and of kind are.
    pub(crate) fn of(pod: &Pod) -> Result<Self> {
        let status = container(pod).context("the pod has no sidecar that runs")?;
        let id = status.container_id.as_deref().unwrap_or_default();
        // `containerd://<id>`; every process of a container is in a control group named by its id.
        let id = id.rsplit('/').next().unwrap_or_default();
        ensure!(
            !id.is_empty(),
            "the sidecar of {} has no container",
            pod.name_any()
        );
        Ok(Self {
            pod: pod.name_any(),
            restarts: status.restart_count,
            process: process_of(id)?,
        })
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        match kill(self.process, signal) {
            Err(Errno::EPERM) => {
                Err(Errno::EPERM).context("a container's process belongs to root; run this as root")
            }
            outcome => outcome.context("failed to signal the sidecar's process"),
        }
    }

    /// Waits until the process has ended: its sockets are closed then, also if nobody has reaped it yet.
    pub(crate) async fn gone(&self) -> Result<()> {
        timeout(LONG, async {
            let file = format!("/proc/{}/stat", self.process);
            while !has_ended(&fs::read_to_string(&file).unwrap_or_default()) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await
        .context("the sidecar's process does not end")
    }

    /// Waits until the kubelet has started the container again and it is ready.
    pub(crate) async fn restarted(&self, shop: &Shop) -> Result<()> {
        until("the sidecar to be started again", || async {
            let pod = shop.pod(&self.pod).await?;
            let status = container(&pod).context("the sidecar has no status")?;
            ensure!(
                status.restart_count > self.restarts && status.ready,
                "{} restarts, ready: {}",
                status.restart_count,
                status.ready
            );
            Ok(())
        })
        .await
    }
}

fn container(pod: &Pod) -> Option<&ContainerStatus> {
    let statuses = pod.status.as_ref()?.init_container_statuses.as_ref()?;
    statuses.iter().find(|status| status.name == CONTAINER_PROXY)
}

fn process_of(container_id: &str) -> Result<Pid> {
    let processes = fs::read_dir("/proc").context("failed to list processes")?;
    let is_of_container = |folder: &PathBuf| {
        fs::read_to_string(folder.join("cgroup")).is_ok_and(|groups| groups.contains(container_id))
    };
    processes
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(is_of_container)
        .filter_map(|folder| folder.file_name()?.to_str()?.parse().ok())
        // The first one of a container is its entrypoint.
        .min()
        .map(Pid::from_raw)
        .with_context(|| {
            format!("no process of container {container_id} on this machine: sidecars can be signalled on a local node only")
        })
}

/// Whether a process is over, by its `/proc/PID/stat`: the state follows the name, which may hold anything in parentheses.
fn has_ended(stat: &str) -> bool {
    let state = stat
        .rsplit(')')
        .next()
        .and_then(|rest| rest.split_whitespace().next());
    matches!(state, None | Some("Z" | "X"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_waits_to_be_reaped_has_ended() {
        assert!(has_ended("7 (trellis-proxy) Z 1 7"));
        assert!(has_ended(""), "reaped");
        assert!(!has_ended("7 (a) Z) S 1 7"));
    }

    #[test]
    fn a_process_is_found_by_a_part_of_its_control_group() {
        let own = fs::read_to_string("/proc/self/cgroup").unwrap();
        assert!(process_of(own.trim()).is_ok());
        assert!(process_of("no-such-container").is_err());
    }
}
