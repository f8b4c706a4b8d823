//! The decisions about a `Microservice`.
//!
//! ```text
//! validate   every fault with its field path; else Validated, with every default and reference resolved
//! build      Validated -> the children
//! status     what became of it -> conditions, problems, columns
//! recheck    when to look again although nothing that is watched changes; recheck_proxies: at silent proxies
//! interests  which other Microservices it reads
//! seen       what others read of it
//! ```

use std::time::Duration;

use k8s_openapi::{api::core::v1::Pod, jiff::Timestamp};
use trellis_api::{Microservice, MicroserviceStatus, Problem};

use crate::resources::{Applied, Prepared, Resources};

mod build;
mod dependencies;
mod dependency;
mod gateways;
mod input;
mod interests;
mod path;
pub(crate) mod ports;
mod resilience;
mod resolve;
mod routes;
mod status;
mod validate;
mod validated;

pub use self::{
    input::{Answer, Fetched, PodEvent, Proxy, Refused, Settings},
    interests::{Interests, Key, Scope, Seen, interests, seen},
    validated::Validated,
};

/// What `validate` found.
#[derive(Debug, Clone)]
pub struct Validation {
    /// What builders work from; None if any problem is an error.
    pub validated: Option<Validated>,
    /// Every fault and hint, in the order of the fields.
    pub problems: Vec<Problem>,
}

/// Why a child could not be applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ApplyFault {
    /// What may be over by the next try: the API server does not answer, or has too much to do.
    Passing,
    /// The API server refuses what it is asked for, and will as long as nobody mends the cause.
    Refused {
        /// What it said of fields of the child; none if it refuses for another reason.
        fields: Vec<FieldFault>,
    },
    /// An object of that name belongs to somebody else.
    NotOwned,
}

/// What the API server said of a field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldFault {
    /// Path in the child, for example `spec.ports[0].nodePort`.
    pub field: String,
    /// What is wrong with it, beginning with the value.
    pub message: String,
}

/// How far a pass came.
#[derive(Debug)]
pub enum Outcome<'a> {
    /// First visit: nothing was made yet.
    Pending,
    /// The spec has faults; nothing was touched.
    Invalid {
        /// Every fault.
        problems: &'a [Problem],
    },
    /// A child could not be applied.
    ApplyFailed {
        /// Kind and name of the child, for example `Deployment order`.
        child: String,
        /// Answer of the API server.
        message: String,
        /// Whether it is over by itself.
        cause: ApplyFault,
    },
    /// Every child was applied.
    Applied {
        /// What was asked for.
        validated: &'a Validated,
        /// What the API server answered.
        resources: &'a Resources<Applied>,
        /// Live pods. Only needed while the Deployment is not complete.
        pods: &'a [Pod],
        /// Events about them.
        events: &'a [PodEvent],
        /// The proxies of all pods that are ready and not being stopped.
        proxies: &'a [Proxy],
    },
}

/// Checks a Microservice and resolves what it refers to.
#[must_use]
pub fn validate(cr: &Microservice, fetched: &Fetched, settings: &Settings) -> Validation {
    let problems = validate::problems(cr);
    let validated =
        (!validate::has_errors(&problems)).then(|| resolve::resolve(cr, fetched, settings, problems.clone()));
    Validation { validated, problems }
}

/// The children of a Microservice.
#[must_use]
pub fn build(validated: &Validated) -> Resources<Prepared> {
    build::build(validated)
}

/// The status after a pass. The times of conditions that did not flip are kept, so that the same input gives the same
/// bytes and a Microservice at rest is never written.
#[must_use]
pub fn status(cr: &Microservice, outcome: &Outcome<'_>, now: Timestamp) -> MicroserviceStatus {
    status::status(cr, outcome, now)
}

/// When to look again although no watched object changes: while the cause of a failure may show in an Event only. None:
/// at rest.
#[must_use]
pub fn recheck(status: &MicroserviceStatus) -> Option<Duration> {
    status::recheck(status)
}

/// When to look again at proxies that have not answered to the applied document, if there are any.
#[must_use]
pub fn recheck_proxies(resources: &Resources<Applied>, proxies: &[Proxy]) -> Option<Duration> {
    status::recheck_proxies(resources, proxies)
}
