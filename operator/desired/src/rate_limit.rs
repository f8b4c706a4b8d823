//! Rate limit policies: which of them hold where, what proxies are told, and what their statuses say.
//!
//! ```text
//! policies of a namespace --oldest first--> the holder of each target: a Microservice, a route of it
//!                                           a Namespace policy: every Microservice without one of its own
//! ```
//!
//! A policy whose spec has faults goes on holding what it held, by the limits that are in force: an edit that makes no sense
//! neither opens the service nor hands it to another policy.
//!
//! In the operator's own namespace nothing holds: the Microservices there are parts of Trellis, the quota service among them,
//! which cannot wait for leases from itself.

mod limit;
mod status;
mod validate;

use std::{collections::BTreeSet, sync::Arc};

use trellis_api::{
    Microservice, Problem, RateLimitPolicy,
    microservice::Route,
    rate_limit_policy::{TargetKind, TargetRef},
};
use trellis_proxy_config::{Document, RateLimit, limit::Lease};

pub use self::{
    status::{Target, statuses},
    validate::problems,
};
use crate::microservice::Key;

/// The rate limit policies of a namespace.
#[derive(Debug, Clone, Default)]
pub struct Policies {
    /// Those that could be read.
    pub known: Vec<Arc<RateLimitPolicy>>,
    /// The others.
    pub unknown: Unknown,
}

/// Policies of which it is not known what they say: what is in force of them stays.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Unknown {
    /// There is none.
    #[default]
    Nothing,
    /// These exist, and this release cannot read them.
    These(BTreeSet<String>),
    /// The API server has not shown the policies yet, or does not show them to the operator.
    Everything,
}

/// The limits of a Microservice's proxies, in the order of their names. `policies` are those of its namespace, `live` its
/// document as it is, `replicas` the most pods that it will have, `own` the operator's namespace.
pub(crate) fn resolve(
    cr: &Microservice,
    Policies { known, unknown }: &Policies,
    live: Option<&Document>,
    replicas: u32,
    own: &str,
) -> Vec<RateLimit> {
    let Key { namespace, name } = Key::of(cr);
    if namespace == own {
        return Vec::new();
    }
    let policies = known
        .iter()
        .filter(|policy| concerned(policy).is_none_or(|names| names.contains(&name)));
    let policies: Vec<Judged> = policies.map(Judged::new).collect();
    let holders = Holders::new(&policies, &in_force(live));
    let mut limits = Vec::new();
    let whole = holders.of(&name, None).or_else(|| holders.of_namespace());
    let routes = cr
        .spec
        .routes
        .iter()
        .map(|route| (Some(route), holders.of(&name, Some(&route.name))));
    for (route, policy) in [(None, whole)].into_iter().chain(routes) {
        let unknown = kept(|policy| unknown.has(policy), route, live, replicas);
        if !unknown.is_empty() {
            limits.extend(unknown);
            continue;
        }
        let Some(policy) = policy else { continue };
        if policy.is_good {
            limits.extend(limit::of(&policy.policy, route, replicas));
        } else {
            limits.extend(kept(|name| name == policy.name(), route, live, replicas));
        }
    }
    limits.sort_by(|left, right| place(left).cmp(&place(right)));
    limits
}

/// Microservices that a policy may concern: None stands for all of its namespace.
#[must_use]
pub fn concerned(policy: &RateLimitPolicy) -> Option<BTreeSet<String>> {
    let targets = &policy.spec.target_refs;
    if targets.iter().any(|target| target.kind == TargetKind::Namespace) {
        return None;
    }
    Some(targets.iter().map(|target| target.name.clone()).collect())
}

impl Unknown {
    fn has(&self, policy: &str) -> bool {
        match self {
            Self::Nothing => false,
            Self::These(names) => names.contains(policy),
            Self::Everything => true,
        }
    }
}

/// What is in force of some policies for a target, by the live document.
fn kept(
    is_meant: impl Fn(&str) -> bool,
    route: Option<&Route>,
    live: Option<&Document>,
    replicas: u32,
) -> Vec<RateLimit> {
    let limits = live.into_iter().flat_map(|live| &live.config.limits);
    limits
        .filter(|limit| {
            is_meant(&limit.policy)
                && limit.route.as_ref().map(|route| &route.name) == route.map(|route| &route.name)
        })
        .cloned()
        .map(|limit| RateLimit {
            lease: limit.lease.map(|lease| Lease { replicas, ..lease }),
            ..limit
        })
        .collect()
}

fn in_force(live: Option<&Document>) -> BTreeSet<String> {
    let limits = live.into_iter().flat_map(|live| &live.config.limits);
    limits.map(|limit| limit.policy.clone()).collect()
}

fn place(limit: &RateLimit) -> (&str, &str, Option<&str>) {
    let route = limit.route.as_ref().map(|route| &*route.name);
    (&limit.policy, &limit.name, route)
}

/// A policy, and what is to be said of its spec.
struct Judged {
    policy: Arc<RateLimitPolicy>,
    problems: Vec<Problem>,
    /// Whether it can be acted on.
    is_good: bool,
}

impl Judged {
    fn new(policy: &Arc<RateLimitPolicy>) -> Self {
        let problems = problems(policy);
        Self {
            policy: Arc::clone(policy),
            is_good: !validate::has_errors(&problems),
            problems,
        }
    }

    fn name(&self) -> &str {
        self.policy.metadata.name.as_deref().unwrap_or_default()
    }
}

/// The policies of a namespace that may hold something, oldest first.
struct Holders<'a>(Vec<&'a Judged>);

impl<'a> Holders<'a> {
    /// `in_force` has the names of those that hold something already.
    fn new(policies: &'a [Judged], in_force: &BTreeSet<String>) -> Self {
        let mut all: Vec<&Judged> = policies
            .iter()
            .filter(|it| it.policy.metadata.deletion_timestamp.is_none())
            .filter(|it| it.is_good || in_force.contains(it.name()))
            .collect();
        all.sort_by_key(|it| {
            let created = it.policy.metadata.creation_timestamp.as_ref();
            (created.is_none(), created.map(|time| time.0), it.name())
        });
        Self(all)
    }

    fn of(&self, microservice: &str, section: Option<&str>) -> Option<&'a Judged> {
        self.find(|target| {
            target.kind == TargetKind::Microservice
                && target.name == microservice
                && target.section_name.as_deref() == section
        })
    }

    fn of_namespace(&self) -> Option<&'a Judged> {
        self.find(|target| target.kind == TargetKind::Namespace)
    }

    fn find(&self, mut is_meant: impl FnMut(&TargetRef) -> bool) -> Option<&'a Judged> {
        let mut all = self.0.iter();
        all.find(|it| it.policy.spec.target_refs.iter().any(&mut is_meant))
            .copied()
    }

    /// Whether a policy may hold anything here.
    fn has(&self, name: &str) -> bool {
        self.0.iter().any(|it| it.name() == name)
    }
}

#[cfg(test)]
mod tests;
