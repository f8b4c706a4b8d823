//! A cluster of kind. Written, kept tiny, and not seen running: no machine of this project has a container engine.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::{Name, Provider};
use crate::command::{on_path, output, output_with_input, succeeds};
use crate::image::Image;
use crate::kubectl::Kubectl;
use crate::paths::Paths;
use crate::progress;

const NAME: &str = "trellis";
/// The gateway's node port, led to the same address as on the local provider.
const CONFIG: &str = "\
kind: Cluster
apiVersion: kind.x-k8s.io/v1alpha4
nodes:
- role: control-plane
  extraPortMappings:
  - {containerPort: 30080, hostPort: 30080, listenAddress: 127.0.0.1}
";

/// A cluster in a container engine.
pub struct KindCluster {
    kubeconfig: PathBuf,
    layers: PathBuf,
}

/// Whether kind and a container engine answer.
pub fn is_usable() -> bool {
    on_path("kind")
        && ["docker", "podman"]
            .iter()
            .any(|engine| succeeds(Command::new(engine).arg("info")))
}

impl KindCluster {
    /// The cluster whose kubeconfig is in these folders.
    pub fn new(paths: &Paths) -> Self {
        Self {
            kubeconfig: paths.state.join("kind.kubeconfig"),
            layers: paths.layers(),
        }
    }

    fn kind(&self) -> Command {
        let mut command = Command::new("kind");
        command
            .env("KUBECONFIG", &self.kubeconfig)
            .env("KIND_CLUSTER_NAME", NAME);
        command
    }

    fn exists(&self) -> bool {
        output(self.kind().args(["get", "clusters"]))
            .is_ok_and(|names| names.lines().any(|name| name == NAME))
    }
}

impl Provider for KindCluster {
    fn name(&self) -> Name {
        Name::Kind
    }

    fn prepare(&self) -> Result<()> {
        if !is_usable() {
            bail!(
                "kind or its container engine does not answer\n  fix: start the engine, or say --provider local"
            );
        }
        Ok(())
    }

    fn start(&self) -> Result<()> {
        if self.exists() {
            return output(self.kind().args(["export", "kubeconfig"])).map(drop);
        }
        let step = progress::step("making a kind cluster");
        output_with_input(
            self.kind()
                .args(["create", "cluster", "--wait", "120s", "--config", "-"]),
            CONFIG,
        )?;
        step.done("");
        Ok(())
    }

    /// A kind cluster has no state of being stopped: it is deleted, and its data with it.
    fn stop(&self) -> Result<Vec<String>> {
        output(self.kind().args(["delete", "cluster"])).map(|_| Vec::new())
    }

    fn wipe(&self) -> Result<()> {
        Ok(())
    }

    fn is_running(&self) -> bool {
        self.exists()
    }

    fn kubectl(&self) -> Kubectl {
        Kubectl::new("kubectl", &self.kubeconfig)
    }

    fn substitutes(&self) -> Result<Vec<(String, Image)>> {
        Ok(Vec::new())
    }

    fn reference(&self, image: &Image) -> Result<String> {
        image.reference()
    }

    fn load(&self, images: &[Image]) -> Result<Vec<String>> {
        let mut loaded = Vec::new();
        for image in images {
            let reference = image.reference()?;
            let step = progress::step(format!("loading {reference}"));
            let archive = self.layers.join(format!("{}.docker.tar", image.name));
            image.write(&archive, &reference)?;
            self.load_archive(&archive)?;
            fs::remove_file(&archive).context("failed to remove an archive")?;
            step.done("");
            loaded.push(reference);
        }
        Ok(loaded)
    }

    fn load_archive(&self, archive: &Path) -> Result<()> {
        output(self.kind().args(["load", "image-archive"]).arg(archive)).map(drop)
    }

    fn began(&self) -> Option<String> {
        None
    }

    fn gateway(&self) -> Option<String> {
        Some("http://127.0.0.1:30080".to_owned())
    }
}
