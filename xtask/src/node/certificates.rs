//! Keys, certificates and kubeconfig files, made by kubeadm's own phases.

use std::fs;
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};

use super::{Node, configuration};
use crate::command::output;
use crate::secret_file;

/// kubeadm's certificates hold for a year: make new ones well before.
const RENEW_AFTER: Duration = Duration::from_secs(300 * 24 * 3600);

/// Host processes that talk to the API server under a name of their own.
const USERS: [(&str, &str); 3] = [
    ("coredns.conf", "system:coredns"),
    ("metrics-server.conf", "system:metrics-server"),
    ("proxy.conf", "system:kube-proxy"),
];

/// Makes what is missing. The certificate authorities and the key of service accounts are kept for the cluster's life.
pub fn ensure(node: &Node) -> Result<()> {
    let marker = node.at("pki/complete");
    let age = fs::metadata(&marker)
        .and_then(|data| data.modified())
        .ok()
        .and_then(|at| SystemTime::now().duration_since(at).ok());
    if age.is_some_and(|age| age < RENEW_AFTER) {
        return Ok(());
    }
    if age.is_some() {
        expire(node)?;
    }
    let config = configuration::folder(node)
        .join("kubeadm.yaml")
        .display()
        .to_string();
    let folder = node.at("kubeconfig");
    fs::create_dir_all(&folder).context("failed to create the folder of kubeconfig files")?;
    let kubeadm = || Command::new(node.programs.join("kubeadm"));
    output(kubeadm().args(["init", "phase", "certs", "all", "--config", &config]))?;
    output(
        kubeadm()
            .args([
                "init",
                "phase",
                "kubeconfig",
                "all",
                "--config",
                &config,
                "--kubeconfig-dir",
            ])
            .arg(&folder),
    )?;
    for (file, user) in USERS {
        let text =
            output(kubeadm().args(["kubeconfig", "user", "--config", &config, "--client-name", user]))?;
        secret_file::write(&folder.join(file), text.as_bytes())?;
    }
    fs::write(&marker, "").context("failed to mark the certificates as complete")
}

/// Removes what a certificate authority has signed, and keeps the authorities.
fn expire(node: &Node) -> Result<()> {
    for folder in ["pki", "pki/etcd"] {
        for entry in fs::read_dir(node.at(folder))?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let kept =
                name.starts_with("ca.") || name.starts_with("front-proxy-ca.") || name.starts_with("sa.");
            if entry.file_type()?.is_file() && !kept {
                fs::remove_file(entry.path()).with_context(|| format!("failed to remove {name}"))?;
            }
        }
    }
    fs::remove_dir_all(node.at("kubeconfig")).context("failed to remove the kubeconfig files")
}
