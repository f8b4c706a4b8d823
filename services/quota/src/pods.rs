//! The watch of all pods of Microservices.
//!
//! It runs in every replica from its start, so that one that takes over knows which pods have ended lately (see
//! [`trellis_rate::lease`], learning).

use std::collections::HashSet;
use std::sync::Arc;

use futures::{StreamExt as _, pin_mut};
use k8s_openapi::api::core::v1::Pod as KubePod;
use kube::api::{ListParams, PartialObjectMeta};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, ResourceExt as _};
use parking_lot::Mutex;
use trellis_api::names;
use trellis_chassis::readiness::Pending;
use trellis_quota_stream::{clock, wire};
use trellis_rate::lease::Pod;

use crate::book::Book;
use crate::roster::Owner;

/// Pods whose processes run or will: one that has failed or succeeded holds nothing any more.
const LIVE: &str = "status.phase!=Failed,status.phase!=Succeeded";
/// Seconds after which the API server ends a watch, which then goes on; one that hangs is noticed soon after (see `run`).
const WATCH: u32 = 30;

/// Lists every pod as it is now.
///
/// # Errors
/// The API server's.
pub async fn list(client: &Client) -> Result<Vec<(Pod, Owner)>, kube::Error> {
    let pods: Api<PartialObjectMeta<KubePod>> = Api::all(client.clone());
    let settings = ListParams::default()
        .labels(names::LABEL_MICROSERVICE)
        .fields(LIVE);
    Ok(pods.list(&settings).await?.iter().filter_map(identity).collect())
}

/// Tells the book of every pod, for ever.
pub async fn watch(client: Client, book: Arc<Mutex<Book>>, known: Pending) {
    let mut known = Some(known);
    let pods: Api<PartialObjectMeta<KubePod>> = Api::all(client);
    let settings = watcher::Config::default()
        .labels(names::LABEL_MICROSERVICE)
        .fields(LIVE)
        .timeout(WATCH);
    let events = watcher(pods, settings).default_backoff();
    pin_mut!(events);
    let mut listed: HashSet<Pod> = HashSet::new();
    while let Some(event) = events.next().await {
        match event {
            Ok(watcher::Event::Init) => listed.clear(),
            Ok(watcher::Event::InitApply(pod)) => {
                if let Some((pod, owner)) = identity(&pod) {
                    listed.insert(pod);
                    book.lock().roster().appeared(pod, owner);
                }
            }
            Ok(watcher::Event::InitDone) => {
                let now = clock::now();
                let mut book = book.lock();
                for (pod, owner) in book.roster().relisted(&listed, now) {
                    book.close(pod, &owner, now);
                }
                drop(book);
                if let Some(known) = known.take() {
                    tracing::info!(pods = listed.len(), "all pods are known");
                    known.ready();
                }
            }
            Ok(watcher::Event::Apply(pod)) => {
                if let Some((pod, owner)) = identity(&pod) {
                    book.lock().roster().appeared(pod, owner);
                }
            }
            // The object goes when the kubelet has ended the last process, unless somebody forces it.
            Ok(watcher::Event::Delete(pod)) => {
                if let Some((pod, _)) = identity(&pod) {
                    book.lock().pod_ended(pod, clock::now());
                }
            }
            Err(error) => {
                let error: &dyn std::error::Error = &error;
                tracing::warn!(error, "failed to watch pods; trying again");
            }
        }
    }
}

fn identity(pod: &PartialObjectMeta<KubePod>) -> Option<(Pod, Owner)> {
    let owner = pod.labels().get(names::LABEL_MICROSERVICE)?;
    let uid = pod.uid()?;
    Some((wire::pod(&uid), (pod.namespace()?, owner.clone())))
}
