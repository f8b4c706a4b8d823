//! The cluster as processes of this machine; see `node`.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::{Name, Provider};
use crate::command::output;
use crate::image::{Image, pause, postgres};
use crate::kubectl::Kubectl;
use crate::node::{self, Node, binary, runtime};
use crate::packages;
use crate::paths::Paths;
use crate::privilege;
use crate::progress;
use crate::space;

/// How many images of one name are kept: the newest, and a few to compare with.
const KEPT: usize = 3;

/// The local cluster of a user.
pub struct Local {
    paths: Paths,
    node: Node,
}

impl Local {
    /// The cluster whose state is in these folders.
    pub fn new(paths: &Paths) -> Result<Self> {
        let node = Node {
            state: paths.state.join("node"),
            programs: binary::folder(&paths.cluster_sources(), &paths.cache)?,
        };
        Ok(Self {
            paths: paths.clone(),
            node,
        })
    }

    /// The node behind it.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// Runs a part of this program as root; `here` is the same for a process that is root already.
    fn as_root<T: Default>(
        &self,
        verb: &str,
        files: &[PathBuf],
        here: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        if privilege::is_root() {
            return here();
        }
        let mut arguments = vec!["node".to_owned(), verb.to_owned()];
        for (name, folder) in [("--state", &self.paths.state), ("--cache", &self.paths.cache)] {
            arguments.extend([name.to_owned(), folder.display().to_string()]);
        }
        arguments.extend(files.iter().map(|file| file.display().to_string()));
        privilege::again(&arguments).map(|()| T::default())
    }

    fn known_images(&self) -> Result<Vec<String>> {
        if privilege::is_root() {
            return runtime::images();
        }
        let mut command = privilege::command(&std::env::current_exe()?.display().to_string());
        command
            .args(["node", "images", "--state"])
            .arg(&self.paths.state)
            .arg("--cache")
            .arg(&self.paths.cache);
        Ok(output(&mut command)?.lines().map(str::to_owned).collect())
    }

    /// Forgets images that were replaced long ago. Those that a pod still uses stay, whatever their age.
    fn forget_old(&self, loaded: &[(String, String)]) -> Result<()> {
        let file = self.node.state.join("images.json");
        let mut history: BTreeMap<String, Vec<String>> = fs::read(&file)
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default();
        let used = self.kubectl().output(&[
            "get",
            "pods",
            "-A",
            "-o",
            "jsonpath={.items[*].spec['containers','initContainers'][*].image}",
        ])?;
        let mut old = Vec::new();
        for (name, reference) in loaded {
            let references = history.entry(name.clone()).or_default();
            references.retain(|known| known != reference);
            references.push(reference.clone());
            let surplus = references.len().saturating_sub(KEPT);
            let (forgotten, kept): (Vec<_>, Vec<_>) = references
                .drain(..)
                .enumerate()
                .partition(|(age, known)| *age < surplus && !used.split(' ').any(|image| image == known));
            old.extend(forgotten.into_iter().map(|(_, reference)| reference));
            *references = kept.into_iter().map(|(_, reference)| reference).collect();
        }
        let known = runtime::images()?;
        old.retain(|reference| known.contains(reference));
        runtime::remove(&old)?;
        fs::write(&file, serde_json::to_vec(&history)?).context("failed to note the images")
    }
}

impl Provider for Local {
    fn name(&self) -> Name {
        Name::Local
    }

    fn prepare(&self) -> Result<()> {
        space::ensure(&self.paths.state)?;
        space::ensure(&self.paths.cache)?;
        packages::ensure(packages::NODE)?;
        let programs = binary::ensure(&self.paths.cluster_sources(), &self.paths.cache)?;
        link(&programs.join("kubectl"), &self.paths.state.join("bin"))?;
        pause::build(&self.paths.layers()).map(drop)
    }

    fn start(&self) -> Result<()> {
        self.as_root("up", &[], || {
            node::start(&self.node, &pause::build(&self.paths.layers())?)
        })
    }

    fn stop(&self) -> Result<Vec<String>> {
        self.as_root("down", &[], || node::stop(&self.node))
    }

    fn wipe(&self) -> Result<()> {
        self.as_root("wipe", &[], || node::wipe(&self.node))
    }

    fn is_running(&self) -> bool {
        self.node.is_running()
    }

    fn kubectl(&self) -> Kubectl {
        Kubectl::new(
            self.paths.state.join("bin/kubectl"),
            self.paths.state.join("kubeconfig"),
        )
    }

    fn substitutes(&self) -> Result<Vec<(String, Image)>> {
        let folder = self.paths.layers();
        let step = progress::step("image postgres");
        let postgres = postgres::build(&folder)?;
        step.done("");
        Ok(vec![("postgres:17".to_owned(), postgres)])
    }

    fn reference(&self, image: &Image) -> Result<String> {
        image.reference()
    }

    fn load(&self, images: &[Image]) -> Result<Vec<String>> {
        let known = self.known_images()?;
        let mut loaded = Vec::new();
        for image in images {
            let reference = image.reference()?;
            if known.contains(&reference) {
                continue;
            }
            let step = progress::step(format!("loading {reference}"));
            let archive =
                self.paths
                    .layers()
                    .join(format!("{}.{}.docker.tar", image.name, std::process::id()));
            image.write(&archive, &reference)?;
            let outcome = self.load_archive(&archive);
            fs::remove_file(&archive).context("failed to remove an archive")?;
            outcome?;
            step.done("");
            loaded.push((image.name.clone(), reference));
        }
        if !loaded.is_empty() && privilege::is_root() {
            self.forget_old(&loaded)?;
        }
        Ok(loaded.into_iter().map(|(_, reference)| reference).collect())
    }

    fn load_archive(&self, archive: &Path) -> Result<()> {
        self.as_root("import", &[archive.to_owned()], || runtime::import(archive))
    }

    fn began(&self) -> Option<String> {
        self.node.began()
    }

    fn gateway(&self) -> Option<String> {
        Some("http://127.0.0.1:30080".to_owned())
    }
}

/// Puts `kubectl` alone into a folder for the user's PATH, where the other components have no place.
fn link(program: &Path, folder: &Path) -> Result<()> {
    let link = folder.join("kubectl");
    if fs::read_link(&link).is_ok_and(|target| target == program) {
        return Ok(());
    }
    fs::create_dir_all(folder).with_context(|| format!("failed to create {}", folder.display()))?;
    let _ = fs::remove_file(&link);
    symlink(program, &link).with_context(|| format!("failed to link {}", link.display()))
}
