//! The file that Kubernetes mounts: the floor that needs neither operator nor network.
//!
//! The kubelet replaces a mounted ConfigMap by swapping a symbolic link, up to a minute after the change. Looking every
//! other second costs one `read` of a small file and needs no watch that a swapped directory would break.

use std::{path::Path, sync::Arc, time::Duration};

use crate::{
    configuration::{Configuration, Verdict},
    snapshot::Source,
};

const INTERVAL: Duration = Duration::from_secs(2);

/// Offers the file's content, now and whenever it changes.
pub(crate) async fn watch(path: &Path, configuration: Arc<Configuration>) {
    let mut seen = Vec::new();
    let mut missing = false;
    loop {
        match tokio::fs::read(path).await {
            Ok(content) => {
                missing = false;
                if content != seen {
                    offer(&configuration, &content);
                    seen = content;
                }
            }
            Err(error) => {
                if !missing {
                    tracing::warn!(path = %path.display(), %error, "failed to read the configuration file");
                }
                missing = true;
            }
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

fn offer(configuration: &Configuration, content: &[u8]) {
    if let Verdict::Kept(in_use) = configuration.offer(Source::File, content) {
        tracing::debug!(version = in_use.version, "the file has nothing newer");
    }
}
