//! Removing the firewall chains of kube-proxy, the kubelet and the CNI, and nothing else.
//!
//! `kube-proxy --cleanup` leaves the kubelet's and the CNI's chains, and the empty tables that iptables made on first use.

use std::process::Command;

use anyhow::Result;

use super::snapshot::Snapshot;
use crate::command::{output, output_with_input, succeeds};

const FAMILIES: [(&str, &str, &str); 2] = [
    ("iptables-save", "iptables-restore", "ip"),
    ("ip6tables-save", "ip6tables-restore", "ip6"),
];

/// Chains of pods, by the beginning of their names.
pub const OF_PODS: &[&str] = &["CNI-"];
/// Chains of the whole cluster.
pub const ALL: &[&str] = &["KUBE-", "CNI-"];

/// Removes the chains of these prefixes and the rules that lead into them, one transaction a table. Chains that were there
/// before the first start are somebody else's.
pub fn remove(prefixes: &[&str], before: &Snapshot) -> Result<()> {
    let is_ours = |chain: &str| {
        prefixes.iter().any(|prefix| chain.starts_with(prefix))
            && !before.has_line_with(&format!(":{chain} "))
    };
    for (save, restore, _) in FAMILIES {
        let Ok(rules) = output(&mut Command::new(format!("/usr/sbin/{save}"))) else {
            continue;
        };
        if let Some(edits) = removal(&rules, is_ours) {
            output_with_input(
                Command::new(format!("/usr/sbin/{restore}")).args(["--noflush", "-w", "10"]),
                &edits,
            )?;
        }
    }
    Ok(())
}

/// Removes the tables that did not exist before the first start and hold no rule now.
pub fn remove_empty_tables(before: &Snapshot) {
    for (_, _, family) in FAMILIES {
        for table in ["filter", "nat", "mangle", "raw"] {
            let name = format!("table {family} {table} ");
            let now = output(Command::new("/usr/sbin/nft").args(["list", "table", family, table]))
                .unwrap_or_default();
            if !before.has_line_with(&name) && now.starts_with(&name) && is_empty(&now) {
                succeeds(Command::new("/usr/sbin/nft").args(["delete", "table", family, table]));
            }
        }
    }
}

/// Whether a listed table holds base chains only.
fn is_empty(table: &str) -> bool {
    table.lines().map(str::trim).all(|line| {
        line.is_empty()
            || line == "}"
            || line.starts_with("table ")
            || line.starts_with("chain ")
            || line.starts_with("type ")
    })
}

/// The edits, in the language of iptables-restore, that remove the chains; none if there are none.
fn removal(rules: &str, ours: impl Fn(&str) -> bool) -> Option<String> {
    let mut edits = String::new();
    let (mut flush, mut drop_rules, mut drop_chains) = (String::new(), String::new(), String::new());
    for line in rules.lines() {
        if let Some(chain) = line.strip_prefix(':').and_then(|rest| rest.split(' ').next()) {
            if ours(chain) {
                flush.push_str(&format!(":{chain} - [0:0]\n"));
                drop_chains.push_str(&format!("-X {chain}\n"));
            }
        } else if let Some(rule) = line.strip_prefix("-A ") {
            let from = rule.split(' ').next().unwrap_or_default();
            if !ours(from) && rule.split(' ').any(&ours) {
                drop_rules.push_str(&format!("-D {rule}\n"));
            }
        } else if line.starts_with('*') {
            edits.push_str(line);
            edits.push('\n');
        } else if line == "COMMIT" {
            for part in [&mut flush, &mut drop_rules, &mut drop_chains] {
                edits.push_str(part);
                part.clear();
            }
            edits.push_str("COMMIT\n");
        }
    }
    edits.contains("-X ").then_some(edits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_chains_and_rules_stay() {
        let rules = "*nat\n:PREROUTING ACCEPT [0:0]\n:MINE - [0:0]\n:KUBE-A - [0:0]\n:KUBE-B - [0:0]\n-A PREROUTING -j MINE\n\
                     -A PREROUTING -m comment --comment \"x y\" -j KUBE-A\n-A KUBE-A -j KUBE-B\n-A MINE -j ACCEPT\nCOMMIT\n";
        assert_eq!(
            removal(rules, |chain| chain.starts_with("KUBE-")).unwrap(),
            "*nat\n:KUBE-A - [0:0]\n:KUBE-B - [0:0]\n-D PREROUTING -m comment --comment \"x y\" -j KUBE-A\n-X KUBE-A\n-X KUBE-B\nCOMMIT\n"
        );
        assert_eq!(
            removal("*nat\n:MINE - [0:0]\n-A MINE -j ACCEPT\nCOMMIT\n", |chain| chain
                .starts_with("KUBE-")),
            None
        );
    }

    #[test]
    fn a_table_with_a_rule_is_not_empty() {
        assert!(is_empty(
            "table ip nat {\n\tchain POSTROUTING {\n\t\ttype nat hook postrouting priority srcnat; policy accept;\n\t}\n}\n"
        ));
        assert!(!is_empty(
            "table ip nat {\n\tchain POSTROUTING {\n\t\toifname \"eth0\" masquerade\n\t}\n}\n"
        ));
    }
}
