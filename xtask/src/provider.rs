//! Where the cluster comes from. The manifests are the same everywhere; only the image names and the way images get there
//! differ.

mod current;
mod kind;
mod local;

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::ValueEnum;
use serde::Serialize;

use crate::image::Image;
use crate::kubectl::Kubectl;
use crate::paths::Paths;

pub use local::Local;

/// The providers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Name {
    /// Kubernetes built from source, as processes of this machine.
    Local,
    /// A cluster of kind, in a container engine.
    Kind,
    /// The cluster of the current KUBECONFIG.
    Current,
}

/// What only some providers read.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Registry and path before image names.
    pub image_prefix: Option<String>,
    /// Go on although the cluster is not a local one.
    pub yes: bool,
}

/// One way to have a cluster.
pub trait Provider {
    /// Which one.
    fn name(&self) -> Name;
    /// Gets and builds what the start needs; may take minutes the first time.
    fn prepare(&self) -> Result<()>;
    /// Makes the cluster run. No error if it does.
    fn start(&self) -> Result<()>;
    /// Ends what runs and keeps the data. Returns what could not be removed from the machine.
    fn stop(&self) -> Result<Vec<String>>;
    /// Deletes the data of a stopped cluster.
    fn wipe(&self) -> Result<()>;
    /// Whether there is a running cluster.
    fn is_running(&self) -> bool;
    /// How to talk to the cluster.
    fn kubectl(&self) -> Kubectl;
    /// Images that stand in for those of a public registry, by their names in manifests.
    fn substitutes(&self) -> Result<Vec<(String, Image)>>;
    /// What an image of ours is called in this cluster.
    fn reference(&self, image: &Image) -> Result<String>;
    /// Makes images known to the cluster and returns the references of those that were not.
    fn load(&self, images: &[Image]) -> Result<Vec<String>>;
    /// Makes an archive of `docker save` known to the cluster.
    fn load_archive(&self, archive: &std::path::Path) -> Result<()>;
    /// Since when the pods can have run: a restart of the machine ends all of them.
    fn began(&self) -> Option<String>;
    /// Where the gateway's node port is reached from this machine, if that is known.
    fn gateway(&self) -> Option<String>;
}

/// The provider asked for, or the one used last, or the best that works here.
pub fn choose(paths: &Paths, asked: Option<Name>, options: &Options) -> Result<Box<dyn Provider>> {
    let kind = asked.or_else(|| remembered(paths)).unwrap_or_else(|| {
        if kind::is_usable() {
            Name::Kind
        } else {
            Name::Local
        }
    });
    Ok(match kind {
        Name::Local => Box::new(Local::new(paths)?),
        Name::Kind => Box::new(kind::KindCluster::new(paths)),
        Name::Current => Box::new(current::Current::new(paths, options)?),
    })
}

/// Keeps the choice for the verbs that follow.
pub fn remember(paths: &Paths, provider: Name) -> Result<()> {
    fs::create_dir_all(&paths.state)
        .and_then(|()| fs::write(file(paths), serde_json::to_vec(&provider)?))
        .context("failed to remember the provider")
}

fn remembered(paths: &Paths) -> Option<Name> {
    let text = fs::read_to_string(file(paths)).ok()?;
    Name::from_str(text.trim().trim_matches('"'), true).ok()
}

fn file(paths: &Paths) -> PathBuf {
    paths.state.join("provider")
}
