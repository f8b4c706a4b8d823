//! The packages of the checkout, as cargo sees them: the one list of what is built, checked and made into images.

use std::path::Path;

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::command::{cargo, output};

/// Folders whose programs run in the cluster.
const IN_CLUSTER: [&str; 2] = ["operator/", "services/"];

/// The workspace.
#[derive(Clone, Debug, Deserialize)]
pub struct Workspace {
    /// Its members.
    pub packages: Vec<Package>,
    /// Where it is.
    pub workspace_root: String,
}

/// A member.
#[derive(Clone, Debug, Deserialize)]
pub struct Package {
    /// What other packages call it.
    pub name: String,
    /// Where its `Cargo.toml` is.
    pub manifest_path: String,
    /// What it depends on, for whatever purpose.
    pub dependencies: Vec<Dependency>,
    /// What is compiled of it.
    pub targets: Vec<Target>,
}

/// A dependency.
#[derive(Clone, Debug, Deserialize)]
pub struct Dependency {
    /// The name of a package.
    pub name: String,
    /// Where it is, if in the checkout.
    pub path: Option<String>,
}

/// A library, a program, a test.
#[derive(Clone, Debug, Deserialize)]
pub struct Target {
    /// Which of them.
    pub kind: Vec<String>,
}

impl Workspace {
    /// Asks cargo; nothing is compiled or downloaded.
    pub fn read(repository: &Path) -> Result<Self> {
        let text = output(cargo(repository).args(["metadata", "--format-version", "1", "--no-deps"]))?;
        serde_json::from_str(&text).context("failed to parse cargo metadata")
    }

    /// The package's `Cargo.toml`, from the root of the workspace.
    pub fn place<'a>(&self, package: &'a Package) -> &'a str {
        package
            .manifest_path
            .trim_start_matches(&self.workspace_root)
            .trim_start_matches('/')
    }

    /// Packages whose program becomes an image of the same name, by name.
    pub fn images(&self) -> Vec<&str> {
        let in_cluster = |package: &&Package| {
            let place = self.place(package);
            IN_CLUSTER.iter().any(|folder| place.starts_with(folder))
        };
        let programs = self.packages.iter().filter(|package| package.is_program());
        let mut names: Vec<&str> = programs
            .filter(in_cluster)
            .map(|package| package.name.as_str())
            .collect();
        names.sort_unstable();
        names
    }
}

impl Package {
    /// Whether it is more than a library.
    pub fn is_program(&self) -> bool {
        let mut kinds = self.targets.iter().flat_map(|target| &target.kind);
        kinds.any(|kind| kind == "bin")
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::install::yaml_files;

    /// The images of ours that the manifests below a folder name.
    fn named(folder: &Path) -> Vec<String> {
        let mut names = Vec::new();
        for file in yaml_files(folder).unwrap() {
            let text = fs::read_to_string(file).unwrap();
            let images = text
                .lines()
                .filter_map(|line| line.trim().strip_prefix("image: "));
            let ours = images.filter(|image| image.starts_with("shop-") || image.starts_with("trellis-"));
            names.extend(ours.map(str::to_owned));
        }
        names
    }

    #[test]
    fn every_image_that_a_manifest_names_is_made() {
        let repository = Path::new("..");
        let workspace = Workspace::read(repository).unwrap();
        let made = workspace.images();
        let folders = ["base/operator", "base/quota", "base/saga", "samples/shop"];
        let named = folders.map(|folder| named(&repository.join("manifests").join(folder)));
        assert!(named.iter().all(|names| !names.is_empty()), "{named:?}");
        for name in named.iter().flatten() {
            assert!(made.contains(&&**name), "{name} is not among {made:?}");
        }
        for no_image in ["trellis-cli", "trellis-operator-desired", "xtask", "soak"] {
            assert!(!made.contains(&no_image), "{made:?}");
        }
    }
}
