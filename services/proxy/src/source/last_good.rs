//! A copy of what the proxy runs by, so that a restarted container serves what it served before, alone in the world.
//!
//! One file, replaced by renaming: it is the old one or the new one, never half of both. It is not synced to the disk,
//! because it lives in an `emptyDir`, which does not survive the node either.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use trellis_proxy_config::ClusterName;

use crate::{
    configuration::Configuration,
    discovery::{Discovery, Known, Origin},
    snapshot::Source,
};

const FILE: &str = "last-good.json";
/// Changes often come in groups (a roll, a reconnect); one copy of the outcome is enough.
const SETTLE: Duration = Duration::from_millis(200);

/// Why the copy is of no use. The proxy goes on without.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The folder is missing, full, or not ours.
    #[error("failed to access {path}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The file is damaged or of another release.
    #[error("failed to read {path}")]
    Json {
        /// The file.
        path: PathBuf,
        /// The parser's reason.
        source: serde_json::Error,
    },
}

#[derive(Serialize)]
struct Written<'a> {
    document: &'a trellis_proxy_config::Document,
    endpoints: BTreeMap<String, Vec<SocketAddr>>,
}

#[derive(Deserialize)]
struct Read {
    /// As written, so that validation is the same as for every other source.
    document: Box<RawValue>,
    #[serde(default)]
    endpoints: BTreeMap<String, Vec<SocketAddr>>,
}

/// Offers the copy, if there is one.
///
/// # Errors
/// If there is one that cannot be read.
pub(crate) fn load(folder: &Path, configuration: &Configuration) -> Result<(), Error> {
    let path = folder.join(FILE);
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(Error::Io { path, source }),
    };
    let read: Read = serde_json::from_slice(&text).map_err(|source| Error::Json { path, source })?;
    for (cluster, addresses) in read.endpoints {
        if let Ok(cluster) = cluster.parse::<ClusterName>() {
            configuration
                .discovery
                .note(&cluster, Origin::LastGood, addresses);
        }
    }
    configuration.offer(Source::LastGood, read.document.get().as_bytes());
    Ok(())
}

/// Writes a copy after every change.
pub(crate) async fn keep(folder: PathBuf, configuration: Arc<Configuration>) {
    loop {
        configuration.changed.notified().await;
        tokio::time::sleep(SETTLE).await;
        let Some(snapshot) = configuration.snapshot.load_full() else {
            continue;
        };
        let endpoints = worth_keeping(&configuration.discovery);
        let folder = folder.clone();
        let written = tokio::task::spawn_blocking(move || {
            store(
                &folder,
                &Written {
                    document: &snapshot.document,
                    endpoints,
                },
            )
        });
        if let Ok(Err(error)) = written.await {
            let error: &dyn std::error::Error = &error;
            tracing::warn!(error, "failed to keep a copy of the configuration");
        }
    }
}

fn worth_keeping(discovery: &Discovery) -> BTreeMap<String, Vec<SocketAddr>> {
    let known = discovery.all().into_iter();
    // No endpoints are no help after a restart; DNS might be.
    known
        .filter(|(_, Known { addresses, .. })| !addresses.is_empty())
        .map(|(name, Known { addresses, .. })| (name.to_string(), addresses))
        .collect()
}

fn store(folder: &Path, written: &Written<'_>) -> Result<(), Error> {
    let path = folder.join(FILE);
    let json = serde_json::to_vec(written).map_err(|source| Error::Json {
        path: path.clone(),
        source,
    })?;
    let new = folder.join(format!("{FILE}.new"));
    std::fs::write(&new, json)
        .and_then(|()| std::fs::rename(&new, &path))
        .map_err(|source| Error::Io { path, source })
}
