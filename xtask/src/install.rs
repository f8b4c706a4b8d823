//! What is put into a running cluster: the kinds, the operator with the quota service and the saga engine, and the shop.

pub mod databases;
pub mod manifests;
mod passwords;
mod wait;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::kubectl::Kubectl;
use crate::paths::Paths;
use crate::progress;
use crate::provider::Provider;
use manifests::ImageNames;
pub use passwords::forget as forget_passwords;

/// Namespace of the operator, the quota service and the saga engine.
pub const OPERATOR: &str = "trellis-system";
/// The saga engine, and its database.
const ENGINE: &str = "trellis-saga";
/// Namespace of the sample.
pub const SHOP: &str = "shop";

/// Applies everything, then waits until it works.
pub fn install(paths: &Paths, provider: &dyn Provider, images: &ImageNames) -> Result<()> {
    let kubectl = &provider.kubectl();
    let began = provider.began();
    let step = progress::step("installing the operator and the shop");
    namespaces(kubectl)?;
    step.detail("custom resource definitions");
    definitions(paths, kubectl)?;
    let shop = manifests::render(kubectl, &paths.repository.join("manifests/samples/shop"), images)?;
    step.detail("passwords");
    let operator = manifests::render(kubectl, &paths.repository.join("manifests/overlays/dev"), images)?;
    let databases = [databases::wanted(&shop), databases::wanted(&operator)].concat();
    let secrets = passwords::ensure(paths, provider.name(), kubectl, &databases)?;
    step.detail("the operator");
    manifests::apply(kubectl, &operator).context("failed to install the operator")?;
    step.detail("the shop");
    manifests::apply(kubectl, &shop).context("failed to install the shop")?;
    if !databases.is_empty() {
        databases::provision(kubectl, images, &databases, &secrets)
            .context("failed to make the databases")?;
    }
    step.done("");
    if !operator.is_empty() {
        wait::for_operator(kubectl, began.as_deref())?;
    }
    wait::for_shop(kubectl, began.as_deref(), provider.gateway().as_deref())
}

/// The two namespaces, in which only restricted pods may run.
fn namespaces(kubectl: &Kubectl) -> Result<()> {
    let items: Vec<Value> = [OPERATOR, SHOP]
        .iter()
        .map(|name| {
            let labels = json!({"pod-security.kubernetes.io/enforce": "restricted", "pod-security.kubernetes.io/warn": "restricted"});
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
        })
        .collect();
    manifests::apply(kubectl, &items).context("failed to make the namespaces")
}

/// The kinds; objects of them are refused until they are established.
fn definitions(paths: &Paths, kubectl: &Kubectl) -> Result<()> {
    let folder = paths.repository.join("crds");
    let mut text = String::new();
    for file in yaml_files(&folder)? {
        text.push_str("---\n");
        text.push_str(
            &fs::read_to_string(&file).with_context(|| format!("failed to read {}", file.display()))?,
        );
    }
    if text.is_empty() {
        return Ok(());
    }
    let applied = kubectl
        .apply(&text)
        .context("failed to install the custom resource definitions")?;
    let mut arguments = vec!["wait", "--for=condition=Established", "--timeout=30s"];
    arguments.extend(applied.lines().filter_map(|line| line.split(' ').next()));
    kubectl.output(&arguments).map(drop)
}

/// The YAML files of a folder in the order of names; none if there is no such folder.
pub fn yaml_files(folder: &Path) -> Result<Vec<std::path::PathBuf>> {
    let mut files: Vec<_> = fs::read_dir(folder)
        .map(|entries| {
            entries
                .flatten()
                .map(|entry| entry.path())
                .filter(|path| path.extension().is_some_and(|end| end == "yaml"))
                .collect()
        })
        .unwrap_or_default();
    files.sort();
    Ok(files)
}
