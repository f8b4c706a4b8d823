//! The node binary: every component of Kubernetes, built from source modules once and kept.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::SystemTime;

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
    if !is_complete(&folder) {
        build(sources, &folder)?;
        link(&folder)?;
        forget_old(&cache.join("node"), &folder);
    }
    // The time of the last use decides which of the others stay.
    let _ = File::open(&folder).and_then(|folder| folder.set_modified(SystemTime::now()));
    Ok(folder)
}

/// Whether every component is there. The binary gets its name only when it is whole.
fn is_complete(folder: &Path) -> bool {
    folder.join(BINARY).is_file()
        && NAMES
            .iter()
            .all(|name| fs::read_link(folder.join(name)).is_ok_and(|target| target == Path::new(BINARY)))
}

fn link(folder: &Path) -> Result<()> {
    for name in NAMES {
        let link = folder.join(name);
        let _ = fs::remove_file(&link);
        symlink(BINARY, &link).with_context(|| format!("failed to link {name}"))?;
    }
    Ok(())
}

/// Removes binaries of other sources, 215 MB each, but for the newest of them: two checkouts may take turns.
fn forget_old(folder: &Path, current: &Path) {
    let mut others: Vec<(SystemTime, PathBuf)> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.path() != current)
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
        .collect();
    others.sort();
    others.pop();
    for (_, folder) in others {
        // What stays for want of rights costs room and nothing else.
        let _ = fs::remove_dir_all(folder);
    }
}

fn build(sources: &Path, folder: &Path) -> Result<()> {
    if !on_path("go") {
        bail!(
            "the local cluster is built with Go, and there is no `go`\n  fix: install Go 1.26 or later and put it on PATH"
        );
    }
    let step = progress::step("building the Kubernetes node (first time: about 8 minutes on 2 cores)");
    fs::create_dir_all(folder).with_context(|| format!("failed to create {}", folder.display()))?;
    let most = packages(sources).unwrap_or(0);
    let unfinished = folder.join(format!("{BINARY}.new"));
    let flags = linker_flags(version()?);
    let mut child = Command::new("go")
        .args(["build", "-v", "-buildvcs=false", "-ldflags", &flags, "-o"])
        .arg(&unfinished)
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
    fs::rename(&unfinished, folder.join(BINARY)).context("failed to name the Kubernetes node's binary")?;
    step.done("");
    Ok(())
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
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_folder_is_complete_only_with_the_binary_and_every_name() {
        let folder = std::env::temp_dir().join(format!("trellis-binary-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        link(&folder).unwrap();
        assert!(!is_complete(&folder), "no binary");
        fs::write(folder.join(BINARY), "").unwrap();
        assert!(is_complete(&folder));
        fs::remove_file(folder.join("kubelet")).unwrap();
        assert!(!is_complete(&folder), "no kubelet");
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn the_current_binary_and_the_newest_of_the_others_are_kept() {
        let folder = std::env::temp_dir().join(format!("trellis-old-{}", std::process::id()));
        // The current one is the oldest: it has been built before the others were used.
        for (age, name) in ["newest", "old", "older", "current"].iter().enumerate() {
            fs::create_dir_all(folder.join(name).join("bin")).unwrap();
            let at = SystemTime::now() - Duration::from_secs(60 * age as u64);
            File::open(folder.join(name)).unwrap().set_modified(at).unwrap();
        }
        forget_old(&folder, &folder.join("current"));
        let mut left: Vec<_> = fs::read_dir(&folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        left.sort();
        assert_eq!(left, ["current", "newest"]);
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn the_version_is_the_one_that_the_module_requires() {
        let module = "require (\n\tk8s.io/kubernetes-x v1.0.0\n\tk8s.io/kubernetes v1.36.3\n)\n";
        assert_eq!(required(module, "k8s.io/kubernetes"), Some("v1.36.3"));
        assert!(linker_flags("v1.36.3").ends_with("gitMajor=1 -X k8s.io/component-base/version.gitMinor=36"));
        assert!(version().is_ok());
    }
}
