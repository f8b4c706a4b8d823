//! Passwords: made once at install, kept in the state folder and in Secrets, never in Git.
//!
//! The state folder wins over the cluster, the cluster over a new one: a Secret that was deleted comes back with the
//! password that the database knows, and a state folder that was lost does not lock everybody out.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{ENGINE, OPERATOR, SHOP, manifests};
use crate::digest;
use crate::kubectl::Kubectl;
use crate::paths::Paths;
use crate::provider::Name;
use crate::secret_file;

/// The Secret of the superuser.
pub const SUPERUSER: &str = "postgres";

/// Password by Secret.
pub type Passwords = BTreeMap<String, String>;

/// Makes the Secret of the superuser and one for each database; returns the passwords.
pub fn ensure(paths: &Paths, provider: Name, kubectl: &Kubectl, databases: &[String]) -> Result<Passwords> {
    let file = file(paths, provider);
    let mut known: Passwords = fs::read(&file)
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .unwrap_or_default();
    let mut objects = Vec::new();
    let all = [(SUPERUSER.to_owned(), "postgres".to_owned())]
        .into_iter()
        .chain(databases.iter().map(|name| (format!("{name}-db"), name.clone())));
    for (secret, name) in all {
        if !known.contains_key(&secret) {
            let password = in_cluster(kubectl, &secret).map_or_else(random, Ok)?;
            known.insert(secret.clone(), password);
        }
        objects.push(binding(SHOP, &secret, &name, &known[&secret]));
        // The Job that makes the databases runs in the shop; who uses this one does not.
        if name == ENGINE {
            objects.push(binding(OPERATOR, &secret, &name, &known[&secret]));
        }
    }
    keep(&file, &known)?;
    manifests::apply(kubectl, &objects).context("failed to make the Secrets of the databases")?;
    Ok(known)
}

/// Forgets the passwords of a cluster whose data is deleted.
pub fn forget(paths: &Paths, provider: Name) -> Result<()> {
    match fs::remove_file(file(paths, provider)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).context("failed to remove the kept passwords")
        }
        _ => Ok(()),
    }
}

fn file(paths: &Paths, provider: Name) -> PathBuf {
    paths.state.join(format!(
        "passwords.{}.json",
        format!("{provider:?}").to_lowercase()
    ))
}

/// A Secret as the Service Binding specification for Kubernetes describes it.
fn binding(namespace: &str, secret: &str, database: &str, password: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": secret, "namespace": namespace},
        "type": "servicebinding.io/postgresql",
        "stringData": {
            "type": "postgresql", "provider": "trellis", "host": "postgres.shop", "port": "5432",
            "database": database, "username": database, "password": password,
        },
    })
}

fn in_cluster(kubectl: &Kubectl, secret: &str) -> Option<String> {
    let text = kubectl
        .output(&[
            "get",
            "secret",
            secret,
            "-n",
            SHOP,
            "--ignore-not-found",
            "-o",
            "go-template={{.data.password | base64decode}}",
        ])
        .ok()?;
    (!text.is_empty() && text != "<no value>").then_some(text)
}

fn random() -> Result<String> {
    let mut bytes = [0; 24];
    File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut bytes))
        .context("failed to make a password")?;
    Ok(digest::hex(&bytes))
}

fn keep(file: &Path, passwords: &Passwords) -> Result<()> {
    secret_file::write(file, &serde_json::to_vec_pretty(passwords)?).context("failed to keep the passwords")
}
