//! The cluster that the user's own KUBECONFIG names. Written, kept tiny, and not seen running.
//!
//! Images are expected in a registry under `--image-prefix`; archives to push are left in the cache folder.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::{Name, Options, Provider};
use crate::image::Image;
use crate::kubectl::Kubectl;
use crate::paths::Paths;
use crate::progress;

/// Somebody else's cluster.
pub struct Current {
    kubectl: Kubectl,
    image_prefix: Option<String>,
    layers: PathBuf,
    yes: bool,
}

impl Current {
    /// The cluster of the environment.
    pub fn new(paths: &Paths, options: &Options) -> Result<Self> {
        Ok(Self {
            kubectl: Kubectl::ambient("kubectl"),
            image_prefix: options.image_prefix.clone(),
            layers: paths.layers(),
            yes: options.yes,
        })
    }
}

impl Provider for Current {
    fn name(&self) -> Name {
        Name::Current
    }

    fn prepare(&self) -> Result<()> {
        let server = self.kubectl.output(&[
            "config",
            "view",
            "--minify",
            "-o",
            "jsonpath={.clusters[0].cluster.server}",
        ])?;
        if !self.yes && !is_local(server.trim()) {
            bail!(
                "the current context's API server {server} is not on this machine\n  fix: choose another context, or say --yes if this is meant"
            );
        }
        Ok(())
    }

    fn start(&self) -> Result<()> {
        self.kubectl
            .output(&["get", "--raw", "/readyz"])
            .map(drop)
            .context("the current cluster does not answer")
    }

    fn stop(&self) -> Result<Vec<String>> {
        bail!(
            "the current cluster was not started here\n  fix: `kubectl delete namespace shop trellis-system` removes what was installed"
        )
    }

    fn wipe(&self) -> Result<()> {
        Ok(())
    }

    fn is_running(&self) -> bool {
        self.kubectl
            .succeeds(&["get", "--raw", "/readyz", "--request-timeout=3s"])
    }

    fn kubectl(&self) -> Kubectl {
        self.kubectl.clone()
    }

    fn substitutes(&self) -> Result<Vec<(String, Image)>> {
        Ok(Vec::new())
    }

    fn reference(&self, image: &Image) -> Result<String> {
        let prefix = self
            .image_prefix
            .as_deref()
            .context("no registry for the images\n  fix: say --image-prefix REGISTRY/PATH")?;
        image.reference_at(prefix)
    }

    /// Nothing here can push: the archives are written for a tool that can.
    fn load(&self, images: &[Image]) -> Result<Vec<String>> {
        let mut references = Vec::new();
        for image in images {
            let reference = self.reference(image)?;
            let archive = self.layers.join(format!("{}.docker.tar", image.name));
            image.write(&archive, &reference)?;
            progress::note(&format!(
                "push {} as {reference} (skopeo copy docker-archive:FILE docker://NAME)",
                archive.display()
            ));
            references.push(reference);
        }
        Ok(references)
    }

    fn load_archive(&self, archive: &Path) -> Result<()> {
        bail!(
            "{} cannot be loaded into a foreign cluster: push it to its registry",
            archive.display()
        )
    }

    fn began(&self) -> Option<String> {
        None
    }

    fn gateway(&self) -> Option<String> {
        None
    }
}

/// Whether an API server's URL leads to this machine.
fn is_local(server: &str) -> bool {
    let host = server.split_once("://").map_or(server, |(_, rest)| rest);
    let host = host.split('/').next().unwrap_or_default();
    let host = host
        .rsplit_once(':')
        .map_or(host, |(host, _)| host)
        .trim_matches(['[', ']']);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_loopback_server_is_local() {
        assert!(
            is_local("https://127.0.0.1:6443")
                && is_local("https://localhost:1/x")
                && is_local("https://[::1]:6443")
        );
        assert!(!is_local("https://10.0.0.1:6443") && !is_local("https://localhost.example.com"));
    }
}
