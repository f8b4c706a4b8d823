//! The local provider's machine: a real Kubernetes node made of host processes.
//!
//! Everything that lasts is under one state folder, everything that a restart of the machine would clear is under
//! `/run/trellis`. Starting is a list of "is it so? else make it so", so that it also repairs: a dead component is
//! started again, a changed one restarted, and what a power cut left behind is swept up before the first component runs.

pub mod binary;
mod certificates;
mod components;
mod configuration;
mod firewall;
mod network;
mod ports;
pub mod runtime;
mod snapshot;
mod start;
mod stop;
mod sweep;

use std::fs;
use std::path::{Path, PathBuf};

use crate::kubectl::Kubectl;
use crate::process::Processes;

pub use start::start;
pub use stop::{cut_power, kill, stop, wipe};

/// What the node is called inside the cluster.
pub const NAME: &str = "trellis";
/// The bridge of the pods; its own address is the node's, so the cluster does not care which network the machine is in.
pub const BRIDGE: &str = "cni0";
/// The address of the bridge.
pub const ADDRESS: &str = "10.244.0.1";
/// What a restart of the machine clears.
const RUN: &str = "/run/trellis";
/// A file in it that holds the time of the first start since then, as the API server writes times.
const BEGAN: &str = "began";
/// The file that holds how the machine was before the first start. It is there from then until the node is taken down.
const SNAPSHOT: &str = "before.json";

/// The node of one user.
#[derive(Clone, Debug)]
pub struct Node {
    /// What lasts: etcd, keys, images, volumes, logs, process records.
    pub state: PathBuf,
    /// Folder with the node binary under the names of its components.
    pub programs: PathBuf,
}

impl Node {
    /// A file or folder that lasts.
    fn at(&self, path: &str) -> PathBuf {
        self.state.join(path)
    }

    fn processes(&self) -> Processes {
        Processes::new(self.at("processes"))
    }

    /// Whether the API server runs.
    pub fn is_running(&self) -> bool {
        self.processes().alive("kube-apiserver").is_some()
    }

    /// When this life of the node began: everything that ran before is gone.
    pub fn began(&self) -> Option<String> {
        fs::read_to_string(Path::new(RUN).join(BEGAN)).ok()
    }

    /// Each component and its process, if it runs.
    pub fn components(&self) -> Vec<(&'static str, Option<i32>)> {
        components::all(self)
            .iter()
            .map(|component| {
                (
                    component.name,
                    self.processes().alive(component.name).map(|record| record.pid),
                )
            })
            .collect()
    }

    /// `kubectl` with the rights of the administrator.
    pub fn kubectl(&self) -> Kubectl {
        Kubectl::new(self.programs.join("kubectl"), self.at("kubeconfig/admin.conf"))
    }

    /// The log of a component.
    pub fn log(&self, component: &str) -> PathBuf {
        self.at(&format!("log/{component}.log"))
    }
}
