//! Debian packages that the local provider and the tests need.

use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::command::output;
use crate::privilege;
use crate::progress;

/// A package, and a file by which it is known to be there.
type Package = (&'static str, &'static str);

/// What the Kubernetes node is run with.
pub const NODE: &[Package] = &[
    ("containerd", "/usr/bin/containerd"),
    ("runc", "/usr/sbin/runc"),
    ("containernetworking-plugins", "/usr/lib/cni/bridge"),
    ("iptables", "/usr/sbin/iptables-save"),
    ("nftables", "/usr/sbin/nft"),
    ("conntrack", "/usr/sbin/conntrack"),
    ("iproute2", "/usr/sbin/ip"),
    ("ethtool", "/usr/sbin/ethtool"),
    ("mmdebstrap", "/usr/bin/mmdebstrap"),
];

/// What the tests start themselves, besides.
pub const TESTS: &[Package] = &[("postgresql-15", "/usr/lib/postgresql/15/bin/initdb")];

/// What the benches get their peers with.
pub const BENCH: &[Package] = &[("python3-pip", "/usr/bin/pip3")];

/// Tells Debian's PostgreSQL to start no server of its own on installation.
const NO_SERVER: &str = "mkdir -p /etc/postgresql-common/createcluster.d && \
    echo 'create_main_cluster = false' > /etc/postgresql-common/createcluster.d/trellis.conf";

/// Installs what is missing if that is possible, and says so; an error says how to.
pub fn ensure(needed: &[Package]) -> Result<()> {
    let missing: Vec<&str> = needed
        .iter()
        .filter(|(_, file)| !Path::new(file).exists())
        .map(|(package, _)| *package)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let by_hand = format!("apt-get install {}", missing.join(" "));
    if !Path::new("/usr/bin/apt-get").exists() {
        bail!(
            "packages are missing: {}\n  fix: install them; on Debian: {by_hand}",
            missing.join(", ")
        );
    }
    privilege::available("packages are missing")?;
    let step = progress::step(format!("installing Debian packages: {}", missing.join(", ")));
    if missing.iter().any(|package| package.starts_with("postgresql")) {
        output(privilege::command("sh").args(["-c", NO_SERVER]))
            .context("failed to configure PostgreSQL before its installation")?;
    }
    let apt = || {
        let mut command = privilege::command("env");
        command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get"]);
        command
    };
    output(apt().args(["update", "--quiet"]))
        .context("failed to update the package lists\n  fix: check the network and /etc/apt/sources.list*")?;
    output(
        apt()
            .args(["install", "--yes", "--quiet", "--no-install-recommends"])
            .args(&missing),
    )
    .with_context(|| format!("failed to install packages\n  fix (as root): {by_hand}"))?;
    step.done("");
    Ok(())
}
