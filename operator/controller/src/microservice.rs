//! One pass over one Microservice: five steps, level-triggered, no memory between passes.
//!
//! ```text
//! dereference --> validate --> build --> apply --> update_status
//!  (reads)        (pure)       (pure)    (writes)  (pure, then one write if it differs)
//! ```
//!
//! `validate`, `build` and the status itself are decided by `trellis-operator-desired`. A pass that ends early still
//! writes a status: an invalid object, a child that could not be written, an object that cannot even be read. There is
//! no finalizer: children go with their owner by the garbage collector. A pass that has just changed the Deployment
//! leaves the status to the next one, which the Deployment controller's first look sets off.

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::apps::v1::Deployment;
use kube::{Client, Resource, ResourceExt};
use tokio::sync::mpsc;
use trellis_api::Microservice;
use trellis_operator_desired::microservice::{self as decisions, ApplyFault, Outcome, Settings, Validation};

use crate::{
    apply::{self, Applier, Owner},
    caches::Caches,
    error::{chain, is_namespace_terminating, refusal},
    events::Events,
    key::Key,
    leader::Authority,
    metrics::Metrics,
    observed::Observed,
    queue::Done,
    stream::answers::Answers,
    workers::Trigger,
};

pub mod dereference;
mod unreadable;
mod update_status;

/// Time between visits of an object at rest, before jitter: what repairs whatever every watch has missed.
const VISIT: Duration = Duration::from_secs(600);
/// Time between looks at an object of somebody else that stands in the way; nobody tells us when it goes.
const LOOK_AGAIN: Duration = Duration::from_secs(15);
/// For so long a status waits for Kubernetes to look at a Deployment that was just changed.
const FIRST_LOOK: Duration = Duration::from_secs(1);
/// Longest time between looks at a failure.
const RECHECK_SELDOM: Duration = Duration::from_secs(30);
/// For so long after its creation a Microservice waits for its predecessor's children without complaint.
const LEFTOVER_PATIENCE: Duration = Duration::from_secs(60);
/// Time between looks at children that the garbage collector is about to delete.
const LEFTOVER_LOOK: Duration = Duration::from_secs(1);

/// Time to the next decision after one that was made from what is no longer there.
const STALE_LOOK: Duration = Duration::from_millis(100);

/// What a pass works with.
pub struct Context {
    /// Reads that no cache answers, and statuses.
    pub client: Client,
    /// Everything that is watched.
    pub caches: Arc<Caches>,
    /// What proxies said.
    pub answers: Arc<Answers>,
    /// Makes Microservices due.
    pub triggers: mpsc::UnboundedSender<Trigger>,
    /// Writes children.
    pub applier: Applier,
    /// Whether this replica may write.
    pub authority: Authority,
    /// Writes Kubernetes Events.
    pub events: Events,
    /// Counts writes.
    pub metrics: Metrics,
    /// What shows in the objects.
    pub settings: Settings,
}

impl Context {
    /// The Microservice of the saga engine.
    pub fn engine_key(&self) -> Key {
        Key::new(&*self.settings.namespace, &*self.settings.saga_engine)
    }
}

/// Why a pass failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// This replica does not lead any more; the pass is not its business.
    #[error("failed to finish: this replica does not lead")]
    Deposed,
    /// Something could not be read.
    #[error(transparent)]
    Dereference(#[from] dereference::Error),
    /// A child could not be written; the status says so.
    #[error(transparent)]
    Apply(#[from] apply::Error),
    /// The status could not be written.
    #[error(transparent)]
    UpdateStatus(#[from] update_status::Error),
}

/// Makes the cluster what the Microservice `key` asks for, and says in its status how far that is.
///
/// # Errors
/// What is to be tried again after a backoff. A fault of the spec is no error.
pub async fn reconcile(context: &Context, key: &Key) -> Result<Done, Error> {
    let cr = match context.caches.microservices.get(key).as_deref() {
        None => return Ok(Done::Gone),
        Some(observed) if observed.meta().deletion_timestamp.is_some() => return Ok(Done::Visit(VISIT)),
        Some(Observed::Unreadable(invalid)) => {
            unreadable::report(context, key, invalid).await?;
            return Ok(Done::Visit(VISIT));
        }
        Some(Observed::Readable(cr)) => Arc::clone(cr),
    };
    // Before the first child, so that no tool ever takes a new object for a finished one.
    let cr = update_status::first(context, cr).await?;

    let fetched = dereference::dereference(context, &cr).await?;
    let Validation { validated, problems } = decisions::validate(&cr, &fetched, &context.settings);
    let Some(validated) = validated else {
        let outcome = Outcome::Invalid { problems: &problems };
        return finish(context, &cr, &outcome, None).await.map(Done::Visit);
    };
    let prepared = decisions::build(&validated);
    let applied = context
        .applier
        .apply(&owner(&cr, key), prepared, fetched.proxy_config.as_ref())
        .await;
    match applied {
        Ok(resources) if is_new_to_kubernetes(fetched.deployment.as_ref(), &resources.deployment) => {
            Ok(Done::Visit(FIRST_LOOK))
        }
        Ok(resources) => {
            // Pods as they are now: what was read before may be older than what was just applied.
            let seen = dereference::pods(context, &cr, &resources.deployment).await?;
            let proxies = dereference::proxies(context, &cr);
            let outcome = Outcome::Applied {
                validated: &validated,
                resources: &resources,
                pods: &seen.pods,
                events: &seen.events,
                proxies: &proxies,
            };
            let next = finish(context, &cr, &outcome, seen.newest).await?;
            let silent = decisions::recheck_proxies(&resources, &proxies);
            Ok(Done::Visit(silent.map_or(next, |silent| silent.min(next))))
        }
        Err(error) => apply_failed(context, &cr, error).await,
    }
}

/// Whether a pass changed the Deployment, or one before it has just made it, and Kubernetes has not looked at it since. There is
/// nothing to report yet, and its first look makes the next pass due: milliseconds later as a rule. The status of before
/// stands meanwhile, which is about the generation of before, so nobody takes it for the outcome. Saves a write of each
/// creation and each edit.
fn is_new_to_kubernetes(before: Option<&Deployment>, applied: &Deployment) -> bool {
    let generation = |deployment: &Deployment| deployment.metadata.generation;
    let looked_at = applied
        .status
        .as_ref()
        .and_then(|status| status.observed_generation);
    let changed = before.and_then(generation) != generation(applied);
    (changed || dereference::is_younger(applied, FIRST_LOOK)) && looked_at < generation(applied)
}

/// Writes the status of a pass and says after how long the next one is due. `newest` is the age of the newest pod.
async fn finish(
    context: &Context,
    cr: &Arc<Microservice>,
    outcome: &Outcome<'_>,
    newest: Option<Duration>,
) -> Result<Duration, Error> {
    let status = update_status::update(context, cr, outcome).await?;
    let next = decisions::recheck(&status).map(|soon| recheck(soon, newest));
    Ok(next.unwrap_or_else(visit))
}

/// Time to the next look at a failure whose cause shows in Events only: `soon` while its pods are new, seldom for one
/// that nobody has mended for minutes, or that has no pods to have Events. Thousands of those must not keep the API
/// server busy.
fn recheck(soon: Duration, newest: Option<Duration>) -> Duration {
    let seldom = newest.map_or(RECHECK_SELDOM, |age| (age / 10).min(RECHECK_SELDOM));
    soon.max(seldom)
}

/// Puts what stopped the Applier into the status and decides whether it is for a backoff or for waiting.
async fn apply_failed(context: &Context, cr: &Arc<Microservice>, error: apply::Error) -> Result<Done, Error> {
    let (child, next) = match &error {
        apply::Error::Deposed { .. } => return Err(Error::Deposed),
        // The object will go with its namespace, and nothing can be made there any more.
        apply::Error::Refused { source, .. } if is_namespace_terminating(source) => {
            return Ok(Done::Visit(RECHECK_SELDOM));
        }
        // Nobody's fault, and over by the next pass.
        apply::Error::Stale { .. } => {
            tracing::debug!(microservice = %Key::of(&**cr), error = chain(&error), "decides again");
            return Ok(Done::Visit(STALE_LOOK));
        }
        apply::Error::Leftover { .. } if is_new(cr) => return Ok(Done::Visit(LEFTOVER_LOOK)),
        apply::Error::Leftover { child } | apply::Error::NotOwned { child } => (child, Some(LOOK_AGAIN)),
        apply::Error::Refused { child, .. } | apply::Error::Unwritable { child, .. } => (child, None),
    };
    let outcome = Outcome::ApplyFailed {
        child: child.clone(),
        message: chain(&error),
        cause: fault(&error),
    };
    update_status::update(context, cr, &outcome).await?;
    next.map_or(Err(error.into()), |after| Ok(Done::Visit(after)))
}

/// Whether a failed apply is over by itself. What the API server refuses is tried again all the same: a quota may grow.
fn fault(error: &apply::Error) -> ApplyFault {
    match error {
        apply::Error::NotOwned { .. } => ApplyFault::NotOwned,
        apply::Error::Unwritable { .. } => ApplyFault::Refused { fields: Vec::new() },
        apply::Error::Refused { source, .. } => {
            refusal(source).map_or(ApplyFault::Passing, |fields| ApplyFault::Refused { fields })
        }
        apply::Error::Leftover { .. } | apply::Error::Stale { .. } | apply::Error::Deposed { .. } => {
            ApplyFault::Passing
        }
    }
}

fn owner(cr: &Microservice, key: &Key) -> Owner {
    Owner {
        key: key.clone(),
        uid: cr.uid().unwrap_or_default(),
    }
}

fn is_new(cr: &Microservice) -> bool {
    let age = cr
        .creation_timestamp()
        .map(|created| jiff::Timestamp::now().duration_since(created.0));
    age.is_some_and(|age| age.unsigned_abs() < LEFTOVER_PATIENCE)
}

fn visit() -> Duration {
    // Spread, so that objects that were first seen together do not come back together.
    VISIT.mul_f64(1.0 + rand::random::<f64>())
}

#[cfg(test)]
mod tests;
