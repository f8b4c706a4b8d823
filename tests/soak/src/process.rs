//! Signals to the process of a container, past the kubelet: the container is started again, the pod stays.

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

/// A process of a container.
#[derive(Clone)]
pub(crate) struct Process {
    pod: String,
    container: String,
    restarts: i32,
    process: Pid,
}

impl Process {
    /// Finds the proxy's.
    pub(crate) fn of_sidecar(pod: &Pod) -> Result<Self> {
        Self::of(pod, CONTAINER_PROXY)
    }

    /// Finds a container's. The node's processes must be this machine's, as those of a local node and of kind are.
    pub(crate) fn of(pod: &Pod, container: &str) -> Result<Self> {
        let status = status_of(pod, container)
            .with_context(|| format!("{} has no container {container} that runs", pod.name_any()))?;
        let id = status.container_id.as_deref().unwrap_or_default();
        // `containerd://<id>`; every process of a container is in a control group named by its id.
        let id = id.rsplit('/').next().unwrap_or_default();
        ensure!(
            !id.is_empty(),
            "{container} of {} has no container yet",
            pod.name_any()
        );
        Ok(Self {
            pod: pod.name_any(),
            container: container.to_owned(),
            restarts: status.restart_count,
            // The first one of a container is its entrypoint.
            process: *processes_of(id)?.first().with_context(|| nowhere(id))?,
        })
    }

    /// Finds those of a container that have these numbers inside of it.
    pub(crate) fn inside(pod: &Pod, container: &str, numbers: &[i32]) -> Result<Vec<Self>> {
        let first = Self::of(pod, container)?;
        let group = fs::read_to_string(format!("/proc/{}/cgroup", first.process))?;
        let inside = |process: &Pid| {
            let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
            number_inside(&status).is_some_and(|number| numbers.contains(&number))
        };
        let processes = processes_of(group.trim())?.into_iter().filter(inside);
        Ok(processes
            .map(|process| Self {
                process,
                ..first.clone()
            })
            .collect())
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        match kill(self.process, signal) {
            Err(Errno::EPERM) => {
                Err(Errno::EPERM).context("a container's process belongs to root; run this as root")
            }
            outcome => {
                outcome.with_context(|| format!("failed to signal {} of {}", self.container, self.pod))
            }
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
        .with_context(|| format!("{} of {} does not end", self.container, self.pod))
    }

    /// Waits until the kubelet has started the container again and it is ready.
    pub(crate) async fn restarted(&self, shop: &Shop) -> Result<()> {
        until(&format!("{} to be started again", self.container), || async {
            let pod = shop.pod(&self.pod).await?;
            let status = status_of(&pod, &self.container).context("it has no status")?;
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

fn status_of<'a>(pod: &'a Pod, container: &str) -> Option<&'a ContainerStatus> {
    let status = pod.status.as_ref()?;
    let statuses = [&status.init_container_statuses, &status.container_statuses];
    let mut statuses = statuses.into_iter().flatten().flatten();
    statuses.find(|status| status.name == container)
}

/// The processes of a container, the eldest first.
fn processes_of(container_id: &str) -> Result<Vec<Pid>> {
    let processes = fs::read_dir("/proc").context("failed to list processes")?;
    let is_of_container = |folder: &PathBuf| {
        fs::read_to_string(folder.join("cgroup")).is_ok_and(|groups| groups.contains(container_id))
    };
    let mut found: Vec<Pid> = processes
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(is_of_container)
        .filter_map(|folder| folder.file_name()?.to_str()?.parse().ok())
        .map(Pid::from_raw)
        .collect();
    found.sort_unstable();
    Ok(found)
}

fn nowhere(container_id: &str) -> String {
    format!(
        "no process of container {container_id} on this machine: processes can be signalled on a local node only"
    )
}

/// The number that a process has in its own namespace, by its `/proc/PID/status`.
fn number_inside(status: &str) -> Option<i32> {
    let line = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    line.split_whitespace().next_back()?.parse().ok()
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
        assert!(!processes_of(own.trim()).unwrap().is_empty());
        assert!(processes_of("no-such-container").unwrap().is_empty());
    }

    #[test]
    fn a_process_has_another_number_inside_of_its_container() {
        assert_eq!(number_inside("Name:\tpostgres\nNSpid:\t4711\t17\n"), Some(17));
        let own = fs::read_to_string("/proc/self/status").unwrap();
        assert!(number_inside(&own).is_some());
    }
}
