//! Keeps a cache in step with the API server, for as long as the process lives.
//!
//! Every kind has its own task, stream and backoff: if one kind cannot be watched (its verbs are missing, say), that is
//! logged and tried again, and the others go on. A process that has not listed a kind yet does not lead; but if an optional
//! kind is refused again and again, it goes on as if there were none, until it is allowed to look. A watch is ended and resumed every [`TIMEOUT_SECONDS`], which bounds
//! for how long a dead connection goes unnoticed.

use std::{fmt::Debug, sync::Arc};

use futures::StreamExt;
use kube::{
    Api, Resource,
    runtime::{
        WatchStreamExt,
        watcher::{self, Event},
    },
};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use trellis_chassis::readiness::Pending;

use crate::{
    cache::{Cache, Change},
    error::chain,
};

/// Objects a page of a list. A page is parsed as a whole, `managedFields` included, which are most of an object: pages of
/// 500, kube's default, made the peak of memory three times as high.
const PAGE: u32 = 50;
/// Length of a watch.
const TIMEOUT_SECONDS: u32 = 60;
/// An API server that has just started may refuse what it allows a moment later; these many refusals in a row are meant.
const REFUSALS: u32 = 3;

/// What to watch of a kind, and what to do about it.
pub struct Watch<K> {
    /// Where.
    pub api: Api<K>,
    /// Which, by label selector; empty: all.
    pub selector: String,
    /// What the cache can do without.
    pub trim: fn(&mut K),
    /// Whether the others are of use without this kind.
    pub optional: bool,
    /// Becomes ready with the first complete list.
    pub synced: Pending,
    /// Dropped with the first complete list.
    pub syncing: mpsc::Sender<()>,
}

impl<K> Watch<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    /// Watches; ends only with its task.
    pub async fn run(self, cache: Arc<Cache<K>>, mut on_change: impl FnMut(&Change<K>)) {
        let Self {
            api,
            selector,
            trim,
            optional,
            synced,
            syncing,
        } = self;
        let kind = K::kind(&());
        let mut config = watcher::Config::default()
            .timeout(TIMEOUT_SECONDS)
            .page_size(PAGE);
        if !selector.is_empty() {
            config = config.labels(&selector);
        }
        let mut synced = Some((synced, syncing));
        let mut refusals = 0;
        let mut events = std::pin::pin!(watcher::watcher(api, config).default_backoff());
        while let Some(event) = events.next().await {
            let event = match event {
                Ok(event) => event.modify(trim),
                Err(error) => {
                    tracing::warn!(%kind, error = chain(&error), "failed to watch; trying again");
                    refusals = if is_refused(&error) { refusals + 1 } else { 0 };
                    if optional
                        && refusals == REFUSALS
                        && let Some((synced, _)) = synced.take()
                    {
                        tracing::warn!(%kind, "going on without what cannot be watched");
                        synced.ready();
                    }
                    continue;
                }
            };
            let complete = matches!(event, Event::InitDone);
            cache.observe(event).for_each(|change| on_change(&change));
            if complete && let Some((synced, _)) = synced.take() {
                tracing::debug!(%kind, objects = cache.len(), "listed");
                synced.ready();
            }
        }
    }
}

/// Whether the API server has refused, or does not know, the kind.
fn is_refused(error: &watcher::Error) -> bool {
    let (watcher::Error::InitialListFailed(source)
    | watcher::Error::WatchStartFailed(source)
    | watcher::Error::WatchFailed(source)) = error
    else {
        return false;
    };
    matches!(source, kube::Error::Api(status) if status.is_forbidden() || status.is_not_found())
}
