//! The node binary: every component of Kubernetes, built from source modules once and kept.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::command::{on_path, output, tail};
use crate::digest;
use crate::progress;

const MODULE: &str = include_str!("../../../dev/cluster/go.mod");

/// Not `node`: the folder may stand on somebody's PATH.
const BINARY: &str = "kubernetes-node";

/// Names under which the binary is each component.
const NAMES: [&str; 10] = [
    "coredns",
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-proxy",
    "kube-scheduler",
    "kubeadm",
    "kubectl",
    "kubelet",
    "metrics-server",
];

/// The folder where the components of these sources are, or will be.
pub fn folder(sources: &Path, cache: &Path) -> Result<PathBuf> {
    Ok(cache.join("node").join(&key(sources)?[..16]))
}

/// The folder with the components, built if its sources changed.
pub fn ensure(sources: &Path, cache: &Path) -> Result<PathBuf> {
    let folder = folder(sources, cache)?;
    if folder.join("kubectl").exists() {
        return Ok(folder);
    }
    if !on_path("go") {
        bail!(
            "the local cluster is built with Go, and there is no `go`\n  fix: install Go 1.26 or later and put it on PATH"
        );
    }
    let step = progress::step("building the Kubernetes node (first time: about 8 minutes on 2 cores)");
    fs::create_dir_all(&folder).with_context(|| format!("failed to create {}", folder.display()))?;
    let most = packages(sources).unwrap_or(0);
    let binary = folder.join(BINARY);
    let flags = linker_flags(version()?);
    let mut child = Command::new("go")
        .args(["build", "-v", "-buildvcs=false", "-ldflags", &flags, "-o"])
        .arg(&binary)
        .arg(".")
        .current_dir(sources)
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("failed to start go")?;
    let mut lines = String::new();
    let mut built = 0;
    for line in BufReader::new(child.stderr.take().context("no output of go")?).lines() {
        let line = line.context("failed to read the output of go")?;
        if let Some(module) = line.strip_prefix("go: downloading ") {
            step.detail(format!("downloading {module}"));
        } else {
            built += 1;
            step.detail(if most > 0 {
                format!("compiled {built} of at most {most} packages")
            } else {
                format!("compiled {built} packages")
            });
        }
        lines.push_str(&line);
        lines.push('\n');
    }
    let status = child.wait().context("failed to wait for go")?;
    if !status.success() {
        bail!(
            "failed to build the Kubernetes node:\n{}\n  fix: the modules come from the Go module proxy: check the network and GOPROXY",
            tail(&lines, 15)
        );
    }
    for name in NAMES {
        let link = folder.join(name);
        let _ = fs::remove_file(&link);
        symlink(BINARY, &link).with_context(|| format!("failed to link {name}"))?;
    }
    step.done("");
    Ok(folder)
}

/// A digest of everything that decides what the binary is.
fn key(sources: &Path) -> Result<String> {
    let mut text = Vec::new();
    for file in ["go.mod", "go.sum", "main.go"] {
        let path = sources.join(file);
        text.extend(fs::read(&path).with_context(|| format!("failed to read {}", path.display()))?);
        text.push(0);
    }
    Ok(digest::sha256(&text))
}

/// The version of Kubernetes that the module asks for, as `v1.36.3`.
pub fn version() -> Result<&'static str> {
    required(MODULE, "k8s.io/kubernetes").context("go.mod does not require k8s.io/kubernetes")
}

fn required<'a>(module: &'a str, dependency: &str) -> Option<&'a str> {
    module.lines().find_map(|line| {
        line.trim()
            .strip_prefix(dependency)?
            .strip_prefix(' ')?
            .split(' ')
            .next()
    })
}

/// A release has its version set by the linker; without it the components say 0.0.0 and refuse each other.
fn linker_flags(version: &str) -> String {
    let mut parts = version.trim_start_matches('v').split('.');
    let (major, minor) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let package = "k8s.io/component-base/version";
    format!(
        "-s -w -X {package}.gitVersion={version} -X {package}.gitMajor={major} -X {package}.gitMinor={minor}"
    )
}

/// How many packages there are to compile, if nothing is cached.
fn packages(sources: &Path) -> Option<usize> {
    output(
        Command::new("go")
            .args(["list", "-deps", "."])
            .current_dir(sources),
    )
    .ok()
    .map(|text| text.lines().count())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_the_one_that_the_module_requires() {
        let module = "require (\n\tk8s.io/kubernetes-x v1.0.0\n\tk8s.io/kubernetes v1.36.3\n)\n";
        assert_eq!(required(module, "k8s.io/kubernetes"), Some("v1.36.3"));
        assert!(linker_flags("v1.36.3").ends_with("gitMajor=1 -X k8s.io/component-base/version.gitMinor=36"));
        assert!(version().is_ok());
    }
}
