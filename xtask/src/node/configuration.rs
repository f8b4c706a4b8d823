//! Configuration files of the components: templates from `dev/cluster/config` with `${NAME}` filled in.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::{Node, RUN, binary};

const FILES: [(&str, &str); 6] = [
    (
        "containerd.toml",
        include_str!("../../../dev/cluster/config/containerd.toml"),
    ),
    (
        "cni/trellis.conflist",
        include_str!("../../../dev/cluster/config/cni.conflist"),
    ),
    (
        "kubeadm.yaml",
        include_str!("../../../dev/cluster/config/kubeadm.yaml"),
    ),
    (
        "kubelet.yaml",
        include_str!("../../../dev/cluster/config/kubelet.yaml"),
    ),
    (
        "kube-proxy.yaml",
        include_str!("../../../dev/cluster/config/kube-proxy.yaml"),
    ),
    ("Corefile", include_str!("../../../dev/cluster/config/Corefile")),
];

/// Objects that a fresh API server needs.
pub const ADDONS: &str = include_str!("../../../dev/cluster/config/addons.yaml");

/// Where the files are, once written.
pub fn folder(node: &Node) -> PathBuf {
    node.at("config")
}

/// Writes every file that changed.
pub fn write(node: &Node, pause_image: &str) -> Result<()> {
    let resolver = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let upstream = nameservers(&resolver);
    let forward = if upstream.is_empty() {
        "/etc/resolv.conf".to_owned()
    } else {
        upstream.join(" ")
    };
    let values = [
        ("STATE", node.state.display().to_string()),
        ("RUN", RUN.to_owned()),
        ("CONFIG", folder(node).display().to_string()),
        ("PAUSE_IMAGE", pause_image.to_owned()),
        ("UPSTREAM_DNS", forward),
        ("KUBERNETES_VERSION", binary::version()?.to_owned()),
    ];
    for (name, template) in FILES {
        put(&folder(node).join(name), &fill(name, template, &values)?)?;
    }
    let for_pods = upstream
        .iter()
        .map(|server| format!("nameserver {server}\n"))
        .collect::<String>();
    put(&folder(node).join("resolv.conf"), &for_pods)
}

/// Writes a file unless it holds this already: kube-proxy ends when its file is so much as touched.
fn put(path: &Path, content: &str) -> Result<()> {
    if fs::read_to_string(path).is_ok_and(|known| known == content) {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).with_context(|| format!("failed to create {}", parent.display()))?;
    }
    fs::write(path, content).with_context(|| format!("failed to write {}", path.display()))
}

/// Replaces every `${NAME}`; one without a value is a mistake in the template.
fn fill(file: &str, template: &str, values: &[(&str, String)]) -> Result<String> {
    let filled = values.iter().fold(template.to_owned(), |text, (name, value)| {
        text.replace(&format!("${{{name}}}"), value)
    });
    match filled.find("${") {
        Some(at) => bail!(
            "no value for {} in {file}",
            filled[at..].chars().take(24).collect::<String>()
        ),
        None => Ok(filled),
    }
}

/// Name servers that a pod can reach too: those of the machine that are not the machine itself.
fn nameservers(resolver: &str) -> Vec<String> {
    resolver
        .lines()
        .filter_map(|line| {
            line.trim()
                .strip_prefix("nameserver")?
                .split_whitespace()
                .next()?
                .parse::<IpAddr>()
                .ok()
        })
        .filter(|address| !address.is_loopback())
        .map(|address| address.to_string())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_placeholder_without_a_value_is_an_error_that_names_it() {
        let values = [("A", "1".to_owned())];
        assert_eq!(fill("f", "x ${A} ${A}", &values).unwrap(), "x 1 1");
        assert!(
            fill("f", "x ${B}", &values)
                .unwrap_err()
                .to_string()
                .contains("${B}")
        );
    }

    #[test]
    fn a_resolver_on_the_machine_itself_is_not_offered_to_pods() {
        assert_eq!(
            nameservers("# c\nnameserver 127.0.0.53\nnameserver 192.0.2.1\nsearch x\n"),
            ["192.0.2.1"]
        );
    }
}
