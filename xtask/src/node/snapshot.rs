//! What the machine looked like before the first start, to be compared with what `down` leaves.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::network::SWITCHES;
use crate::command::output;

/// Mounts, network namespaces, firewall rules and kernel switches, as lines.
#[derive(Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
pub struct Snapshot {
    mounts: BTreeSet<String>,
    namespaces: BTreeSet<String>,
    links: BTreeSet<String>,
    firewall: BTreeSet<String>,
    switches: BTreeSet<(String, String)>,
}

impl Snapshot {
    /// The machine as it is now.
    pub fn take() -> Self {
        let text = |program: &str, arguments: &[&str]| {
            output(Command::new(program).args(arguments)).unwrap_or_default()
        };
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let names = |folder: &str| -> BTreeSet<String> {
            fs::read_dir(folder)
                .into_iter()
                .flatten()
                .flatten()
                .map(|entry| entry.file_name().to_string_lossy().into_owned())
                .collect()
        };
        let mut firewall = rules(&text("/usr/sbin/nft", &["list", "ruleset"]));
        firewall.extend(rules(&text("/usr/sbin/iptables-save", &[])));
        Self {
            mounts: mounts
                .lines()
                .filter_map(|line| line.split(' ').nth(1))
                .map(str::to_owned)
                .collect(),
            namespaces: names("/run/netns"),
            links: names("/sys/class/net"),
            firewall,
            switches: SWITCHES
                .iter()
                .filter_map(|(name, _)| {
                    let value = fs::read_to_string(Path::new("/proc/sys").join(name)).ok()?;
                    Some(((*name).to_owned(), value.trim().to_owned()))
                })
                .collect(),
        }
    }

    /// Reads the snapshot of before the first start, or takes and keeps it now.
    pub fn of_before(file: &Path) -> Result<Self> {
        if let Some(known) = Self::known(file) {
            return Ok(known);
        }
        let now = Self::take();
        fs::write(file, serde_json::to_vec_pretty(&now)?)
            .context("failed to keep the snapshot of the machine")?;
        Ok(now)
    }

    /// What is in this snapshot and was not in the earlier one.
    pub fn added_since(&self, before: &Self) -> Vec<String> {
        let parts = [
            ("mount", &self.mounts, &before.mounts),
            ("network namespace", &self.namespaces, &before.namespaces),
            ("network link", &self.links, &before.links),
            ("firewall rule", &self.firewall, &before.firewall),
        ];
        let mut added: Vec<String> = parts
            .iter()
            .flat_map(|(kind, now, then)| now.difference(then).map(move |line| format!("{kind}: {line}")))
            .collect();
        added.extend(
            self.switches
                .difference(&before.switches)
                .map(|(name, value)| format!("kernel switch: {name} = {value}")),
        );
        added
    }

    /// The snapshot of before the first start, if there was one.
    pub fn known(file: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(file).ok()?).ok()
    }

    /// Whether this network namespace was there.
    pub fn has_namespace(&self, name: &str) -> bool {
        self.namespaces.contains(name)
    }

    /// Whether a firewall line contains this text.
    pub fn has_line_with(&self, text: &str) -> bool {
        self.firewall.iter().any(|line| format!("{line} ").contains(text))
    }

    /// Sets the kernel switches back.
    pub fn restore_switches(&self) -> Result<()> {
        for (name, value) in &self.switches {
            let path = Path::new("/proc/sys").join(name);
            if fs::read_to_string(&path).is_ok_and(|now| now.trim() != value) {
                fs::write(&path, value).with_context(|| format!("failed to set {name} back to {value}"))?;
            }
        }
        Ok(())
    }
}

/// Rules without what changes by itself: comments, packet counts, handles.
fn rules(text: &str) -> BTreeSet<String> {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#') && *line != "}")
        .map(|line| {
            let words = line.split_whitespace().filter(|word| !word.starts_with('['));
            let mut kept: Vec<&str> = Vec::new();
            let mut skip = 0;
            for word in words {
                match word {
                    "packets" | "bytes" => skip = 1,
                    _ if skip > 0 => skip -= 1,
                    _ => kept.push(word),
                }
            }
            kept.join(" ")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_do_not_make_a_difference() {
        assert_eq!(
            rules(":INPUT ACCEPT [1:2]\ncounter packets 3 bytes 4 accept\n# x\n"),
            rules(":INPUT ACCEPT [9:9]\ncounter packets 5 bytes 6 accept\n")
        );
    }

    #[test]
    fn what_was_there_before_is_not_reported() {
        let before = Snapshot {
            links: ["lo".to_owned()].into(),
            ..Snapshot::default()
        };
        let now = Snapshot {
            links: ["lo".to_owned(), "cni0".to_owned()].into(),
            ..Snapshot::default()
        };
        assert_eq!(now.added_since(&before), ["network link: cni0"]);
    }
}
