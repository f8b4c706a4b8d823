//! Where things are: the checkout, the state of the cluster, and caches that survive `up --fresh`.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The folders that every verb works in.
#[derive(Clone, Debug)]
pub struct Paths {
    /// The checkout.
    pub repository: PathBuf,
    /// What belongs to one cluster: deleted by `up --fresh`.
    pub state: PathBuf,
    /// What is expensive to make and the same for every cluster: node binary, base images.
    pub cache: PathBuf,
}

impl Paths {
    /// Finds the folders by the XDG base directory rules.
    pub fn discover() -> Result<Self> {
        let home = env::var_os("HOME")
            .map(PathBuf::from)
            .context("HOME is not set")?;
        let base = |variable: &str, fallback: &str| {
            env::var_os(variable)
                .map(PathBuf::from)
                .filter(|path| path.is_absolute())
                .unwrap_or_else(|| home.join(fallback))
                .join("trellis")
        };
        Ok(Self {
            repository: repository()?,
            state: base("XDG_STATE_HOME", ".local/state"),
            cache: base("XDG_CACHE_HOME", ".cache"),
        })
    }

    /// Layers of images, for every cluster.
    pub fn layers(&self) -> PathBuf {
        self.cache.join("images")
    }

    /// Files of the development cluster that are kept in the checkout.
    pub fn cluster_sources(&self) -> PathBuf {
        self.repository.join("dev/cluster")
    }
}

/// The checkout. One target folder may serve several checkouts, so the place where this was compiled comes last.
fn repository() -> Result<PathBuf> {
    let compiled = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    [
        env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from),
        env::current_dir().ok(),
        Some(compiled),
    ]
    .iter()
    .flatten()
    .flat_map(|start| start.ancestors())
    .find(|folder| folder.join("xtask/Cargo.toml").is_file() && folder.join("dev/cluster").is_dir())
    .map(Path::to_path_buf)
    .context("failed to find the checkout: run this as `cargo xtask` inside it")
}
