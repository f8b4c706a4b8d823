//! The bridge of the pods and the kernel switches that it needs.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::{ADDRESS, BRIDGE};
use crate::command::{output, succeeds};

/// Kernel switches and the value each must have. The bridge ones exist only while the module `br_netfilter` does.
pub const SWITCHES: [(&str, &str); 3] = [
    ("net/ipv4/ip_forward", "1"),
    ("net/bridge/bridge-nf-call-iptables", "1"),
    ("net/ipv4/conf/all/route_localnet", "1"),
];

/// Whether the bridge is there.
pub fn has_bridge() -> bool {
    Path::new("/sys/class/net").join(BRIDGE).exists()
}

/// Makes the bridge before the first pod: the node's address and the cluster's name server live on it.
pub fn ensure() -> Result<()> {
    // May be built in or absent; what matters is whether the switch below can be written.
    succeeds(Command::new("modprobe").arg("br_netfilter"));
    for (name, value) in SWITCHES {
        let path = Path::new("/proc/sys").join(name);
        if fs::read_to_string(&path).is_ok_and(|now| now.trim() != value) {
            fs::write(&path, value).with_context(|| format!("failed to set {name} to {value}"))?;
        }
    }
    if !has_bridge() {
        output(ip().args(["link", "add", BRIDGE, "type", "bridge"]))?;
    }
    output(ip().args(["address", "replace", &format!("{ADDRESS}/24"), "dev", BRIDGE]))?;
    output(ip().args(["link", "set", BRIDGE, "up"]))?;
    Ok(())
}

/// Removes the bridge and the cables that lead into it.
pub fn remove() -> Result<()> {
    for cable in ports() {
        // Goes by itself when the pod's network namespace does.
        succeeds(ip().args(["link", "delete", &cable]));
    }
    if has_bridge() {
        output(ip().args(["link", "delete", BRIDGE]))?;
    }
    Ok(())
}

fn ports() -> Vec<String> {
    fs::read_dir(format!("/sys/class/net/{BRIDGE}/brif"))
        .map(|entries| {
            entries
                .flatten()
                .map(|entry| entry.file_name().to_string_lossy().into_owned())
                .collect()
        })
        .unwrap_or_default()
}

/// Network namespaces of pods: made by the CNI, and with an address of our bridge's network or none at all.
pub fn namespaces() -> Vec<String> {
    let Ok(entries) = fs::read_dir("/run/netns") else {
        return Vec::new();
    };
    entries
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name.starts_with("cni-") && is_ours(name))
        .collect()
}

fn is_ours(namespace: &str) -> bool {
    let addresses = output(ip().args(["-n", namespace, "-4", "-o", "address", "show", "scope", "global"]))
        .unwrap_or_default();
    addresses.trim().is_empty() || addresses.contains(" 10.244.0.")
}

/// Removes a network namespace.
pub fn remove_namespace(name: &str) -> Result<()> {
    output(ip().args(["netns", "delete", name])).map(drop)
}

fn ip() -> Command {
    Command::new("/usr/sbin/ip")
}
