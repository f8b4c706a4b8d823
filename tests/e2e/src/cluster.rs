//! The cluster under test.

use std::{fs::File, path::PathBuf, process::Command};

use anyhow::{Context as _, Result, bail};
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde::Deserialize;

/// Tests, and soaks beside them, are several processes: only a lock in a file is seen by all. Locks are taken in this order.
const OPERATOR: &str = "trellis-e2e.lock";
const SHOP: &str = "trellis-e2e-shop.lock";

/// A connection to the cluster under test.
#[derive(Clone)]
pub struct Cluster {
    /// The API server.
    pub client: Client,
    /// Base URL of the shop's gateway.
    pub gateway: String,
    /// Path of the kubeconfig, for tests that call kubectl as a user would.
    pub kubeconfig: PathBuf,
}

/// What `cargo xtask status --json` prints.
#[derive(Deserialize)]
struct Status {
    kubeconfig: PathBuf,
    gateway: Option<String>,
}

impl Cluster {
    /// Connects to the running cluster.
    ///
    /// # Errors
    /// If none runs; the text names the command that starts one.
    pub async fn connect() -> Result<Self> {
        let output = xtask(["status", "--json"])?;
        let status: Status = serde_json::from_str(&output).context("failed to read the cluster's status")?;
        let gateway = status
            .gateway
            .context("no gateway is up; run `cargo xtask up` first")?;
        let kubeconfig = Kubeconfig::read_from(&status.kubeconfig).with_context(|| {
            format!(
                "failed to read {}; run `cargo xtask up` first",
                status.kubeconfig.display()
            )
        })?;
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        Ok(Self {
            client: Client::try_from(config)?,
            gateway,
            kubeconfig: status.kubeconfig,
        })
    }

    /// Runs kubectl as a user would and returns what it prints.
    ///
    /// # Errors
    /// What kubectl wrote to its error output, if it failed.
    pub fn kubectl<const N: usize>(&self, arguments: [&str; N]) -> Result<String> {
        let mut all = vec!["kubectl", "--"];
        all.extend(arguments);
        xtask(all)
    }

    /// Runs the command `trellis` as a user would: whether it answers yes, and what it prints.
    ///
    /// # Errors
    /// It cannot be run, or ends by an error.
    pub fn trellis<const N: usize>(&self, arguments: [&str; N]) -> Result<(bool, String)> {
        let output = program("trellis", "trellis-cli")?
            .args(arguments)
            .env("KUBECONFIG", &self.kubeconfig)
            .output()
            .context("failed to run trellis")?;
        let errors = String::from_utf8_lossy(&output.stderr);
        if errors.starts_with("error: ") {
            bail!("trellis {arguments:?} failed: {errors}");
        }
        Ok((output.status.success(), String::from_utf8(output.stdout)?))
    }
}

/// Runs a verb of xtask and returns what it prints.
///
/// # Errors
/// What it wrote to its error output, if it failed.
pub fn xtask<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Result<String> {
    // The binary itself, if it was built beside this program or, for a test, a folder above: `cargo run` would wait for
    // the build lock.
    let output = program("xtask", "xtask")?
        .args(arguments)
        .output()
        .context("failed to run xtask")?;
    if !output.status.success() {
        bail!("xtask failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// A program of the workspace.
fn program(name: &str, package: &str) -> Result<Command> {
    let own = std::env::current_exe()?;
    let mut beside = own.ancestors().skip(1).take(2).map(|folder| folder.join(name));
    let mut command = match beside.find(|path| path.is_file()) {
        Some(path) => Command::new(path),
        None => {
            let mut cargo = Command::new("cargo");
            cargo.args(["run", "--quiet", "--package", package, "--"]);
            cargo
        }
    };
    // Tests run in the folder of their package.
    command.current_dir("../..");
    Ok(command)
}

/// Shared use of the operator: held by every test that needs it running and undisturbed.
///
/// # Errors
/// If the lock file cannot be made.
pub async fn share_operator() -> Result<File> {
    locked(OPERATOR, |file| file.lock_shared()).await
}

/// Sole use of the cluster: held by a test that stops or restarts parts of it which others need.
///
/// # Errors
/// If the lock file cannot be made.
pub async fn own_operator() -> Result<File> {
    locked(OPERATOR, |file| file.lock()).await
}

/// Shared use of the operator and the shop: held by a test that needs the shop undisturbed.
///
/// # Errors
/// If a lock file cannot be made.
pub async fn share_shop() -> Result<[File; 2]> {
    Ok([
        share_operator().await?,
        locked(SHOP, |file| file.lock_shared()).await?,
    ])
}

/// Sole use of the shop, shared of the operator: held by a test that stops or changes services of the shop.
///
/// # Errors
/// If a lock file cannot be made.
pub async fn own_shop() -> Result<[File; 2]> {
    Ok([share_operator().await?, locked(SHOP, |file| file.lock()).await?])
}

async fn locked(name: &'static str, take: fn(&File) -> std::io::Result<()>) -> Result<File> {
    tokio::task::spawn_blocking(move || {
        let file = File::create(std::env::temp_dir().join(name))?;
        take(&file)?;
        Ok(file)
    })
    .await?
}
