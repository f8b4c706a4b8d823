//! `cargo xtask check-layers`: which package may depend on which.
//!
//! Deployables never depend on each other, libraries never on what is above them, and pure packages cannot reach a network,
//! a clock or a disk. The first two are read from `cargo metadata`; the last from `cargo tree` for each pure package alone,
//! because the features of a whole workspace are joined and would show a client in a library that does not ask for one.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Result, bail};

use crate::command::{cargo, output};
use crate::workspace::{Package, Workspace};

/// Packages that only compute.
const PURE: [&str; 8] = [
    "trellis-api",
    "trellis-expression",
    "trellis-messaging",
    "trellis-operator-desired",
    "trellis-proxy-config",
    "trellis-rate",
    "trellis-resilience",
    "trellis-saga-core",
];
/// Packages by which a program reaches the world.
const IMPURE: [&str; 9] = [
    "axum",
    "hyper",
    "kube-client",
    "mio",
    "reqwest",
    "rustls",
    "socket2",
    "tokio",
    "tonic",
];

/// Fails if a rule is broken, naming each case.
pub fn check(repository: &Path) -> Result<()> {
    let mut faults = between(&Workspace::read(repository)?);
    for package in PURE {
        let tree = output(cargo(repository).args([
            "tree",
            "--package",
            package,
            "--edges",
            "normal",
            "--prefix",
            "none",
            "--format",
            "{p}",
        ]))?;
        faults.extend(reached(package, &tree));
    }
    if faults.is_empty() {
        return Ok(());
    }
    bail!(
        "layers are broken:\n{}",
        faults
            .iter()
            .map(|fault| format!("    {fault}"))
            .collect::<Vec<_>>()
            .join("\n")
    )
}

/// Dependencies inside the workspace that point the wrong way.
fn between(workspace: &Workspace) -> Vec<String> {
    let packages = &workspace.packages;
    let is_library = |package: &Package| workspace.place(package).starts_with("crates/");
    let mut faults = Vec::new();
    for package in packages {
        for dependency in package
            .dependencies
            .iter()
            .filter(|dependency| dependency.path.is_some())
        {
            let Some(below) = packages
                .iter()
                .find(|candidate| candidate.name == dependency.name)
            else {
                continue;
            };
            if below.is_program() {
                faults.push(format!(
                    "{} depends on {}, which is a program: share a library under crates/ instead",
                    package.name, below.name
                ));
            } else if is_library(package) && !is_library(below) {
                faults.push(format!(
                    "{} is a library and depends on {}, which is above it",
                    package.name, below.name
                ));
            }
        }
    }
    faults
}

/// Impure packages in the tree of a pure one.
fn reached(package: &str, tree: &str) -> Vec<String> {
    let names: BTreeSet<&str> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
    IMPURE
        .iter()
        .filter(|impure| names.contains(*impure))
        .map(|impure| format!("{package} is pure and reaches {impure}: `cargo tree -p {package} -e normal -i {impure}` shows by what way"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::{Dependency, Target};

    fn workspace(packages: &[Package]) -> Workspace {
        Workspace {
            packages: packages.to_vec(),
            workspace_root: "/r".to_owned(),
        }
    }

    fn package(path: &str, name: &str, kind: &str, dependencies: &[&str]) -> Package {
        Package {
            name: name.to_owned(),
            manifest_path: format!("/r/{path}/Cargo.toml"),
            dependencies: dependencies
                .iter()
                .map(|name| Dependency {
                    name: (*name).to_owned(),
                    path: Some(String::new()),
                })
                .collect(),
            targets: vec![Target {
                kind: vec![kind.to_owned()],
            }],
        }
    }

    #[test]
    fn a_program_may_depend_on_libraries_only() {
        let mut packages = vec![
            package("crates/api", "api", "lib", &[]),
            package("operator/desired", "desired", "lib", &["api"]),
            package("operator/controller", "controller", "bin", &["api", "desired"]),
            package("cli", "cli", "bin", &["desired"]),
        ];
        assert_eq!(between(&workspace(&packages)), Vec::<String>::new());
        packages.push(package("services/a", "a", "bin", &["controller"]));
        let faults = between(&workspace(&packages));
        assert!(
            faults.len() == 1 && faults[0].contains("a depends on controller"),
            "{faults:?}"
        );
    }

    #[test]
    fn a_library_does_not_depend_on_what_is_above_it() {
        let packages = [
            package("crates/api", "api", "lib", &["desired"]),
            package("operator/desired", "desired", "lib", &[]),
        ];
        assert!(between(&workspace(&packages))[0].contains("above"));
    }

    #[test]
    fn a_pure_package_reaches_no_runtime() {
        assert_eq!(
            reached("p", "p v1\nserde v1\ntokio-like v1\n"),
            Vec::<String>::new()
        );
        assert!(reached("p", "p v1\ntokio v1.2 (*)\n")[0].contains("reaches tokio"));
    }
}
