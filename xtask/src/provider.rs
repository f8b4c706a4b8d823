//! Where the cluster comes from. The manifests are the same everywhere; only the image names and the way images get there
//! differ.

mod current;
mod kind;
mod local;

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::image::Image;
use crate::kubectl::Kubectl;
use crate::paths::Paths;

pub use local::Local;

/// The providers.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize, ValueEnum)]
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

/// What the verbs after an `up` go by.
#[derive(Debug, Deserialize, PartialEq, Eq, Serialize)]
struct Choice {
    provider: Name,
    image_prefix: Option<String>,
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
    let last = remembered(paths);
    let name = asked
        .or(last.as_ref().map(|choice| choice.provider))
        .unwrap_or_else(|| {
            if kind::is_usable() {
                Name::Kind
            } else {
                Name::Local
            }
        });
    let options = &Options {
        image_prefix: options
            .image_prefix
            .clone()
            .or(last.and_then(|choice| choice.image_prefix)),
        ..*options
    };
    Ok(match name {
        Name::Local => Box::new(Local::new(paths)?),
        Name::Kind => Box::new(kind::KindCluster::new(paths)),
        Name::Current => Box::new(current::Current::new(paths, options)?),
    })
}

/// Keeps the choice for the verbs that follow. An image prefix is kept until another one is named. `yes` is not kept: it was
/// said of the cluster that the kubeconfig named then.
pub fn remember(paths: &Paths, provider: Name, options: &Options) -> Result<()> {
    let image_prefix = options
        .image_prefix
        .clone()
        .or_else(|| remembered(paths)?.image_prefix);
    let choice = Choice {
        provider,
        image_prefix,
    };
    fs::create_dir_all(&paths.state)
        .and_then(|()| fs::write(file(paths), serde_json::to_vec(&choice)?))
        .context("failed to remember the provider")
}

fn remembered(paths: &Paths) -> Option<Choice> {
    serde_json::from_slice(&fs::read(file(paths)).ok()?).ok()
}

fn file(paths: &Paths) -> PathBuf {
    paths.state.join("provider.json")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Run;

    #[test]
    fn a_verb_without_options_goes_by_the_provider_and_the_image_prefix_of_the_last_up() {
        let state = std::env::temp_dir().join(format!("trellis-provider-{}", std::process::id()));
        let paths = Paths {
            repository: state.clone(),
            state: state.clone(),
            cache: state.clone(),
        };
        let image = Image {
            name: "a".to_owned(),
            layers: Vec::new(),
            run: Run::default(),
        };
        let named = |prefix: &str| Options {
            image_prefix: Some(prefix.to_owned()),
            yes: true,
        };
        let none = Options::default();

        remember(&paths, Name::Current, &named("registry.example/one")).unwrap();
        remember(&paths, Name::Current, &none).unwrap();
        let again = choose(&paths, None, &none).unwrap();
        assert_eq!(again.name(), Name::Current);
        let reference = again.reference(&image).unwrap();
        assert!(reference.starts_with("registry.example/one/a:"), "{reference}");

        let other = choose(&paths, None, &named("registry.example/two")).unwrap();
        let reference = other.reference(&image).unwrap();
        assert!(reference.starts_with("registry.example/two/a:"), "{reference}");
        fs::remove_dir_all(state).unwrap();
    }
}
