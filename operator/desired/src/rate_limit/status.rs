//! The status of a policy.

use std::{collections::BTreeSet, sync::Arc};

use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
    jiff::Timestamp,
};
use trellis_api::{
    Microservice, RateLimitPolicy, RateLimitPolicyStatus,
    condition::{self, ConditionType, PolicyConditionType, PolicyReason},
    rate_limit_policy::{TargetKind, TargetStatus},
};
use trellis_proxy_config::Document;

use super::{Holders, Judged, in_force};

/// A Microservice of the policy's namespace, and what its proxies are told.
#[derive(Debug, Clone)]
pub struct Target {
    /// The Microservice.
    pub microservice: Arc<Microservice>,
    /// Its document as it is stored.
    pub document: Option<Document>,
}

/// What became of the policy.
#[derive(Default)]
struct Found {
    targets: BTreeSet<TargetStatus>,
    missing: BTreeSet<String>,
    lost: BTreeSet<String>,
    overridden: BTreeSet<String>,
    /// Whether all that it could concern are parts of Trellis.
    of_trellis: bool,
    /// Where it holds: whether all proxies run by it; None: they have not said yet.
    held: Vec<Option<bool>>,
}

/// A Microservice, and which policies may hold something there.
struct Here<'a> {
    target: &'a Target,
    holders: Holders<'a>,
}

/// The statuses of all policies of a namespace, in their order, by all its Microservices. `own` is the operator's namespace.
#[must_use]
pub fn statuses(
    policies: &[Arc<RateLimitPolicy>],
    targets: &[Target],
    own: &str,
    now: Timestamp,
) -> Vec<RateLimitPolicyStatus> {
    let policies: Vec<Judged> = policies.iter().map(Judged::new).collect();
    let all: Vec<Here<'_>> = targets
        .iter()
        .map(|target| Here {
            target,
            holders: Holders::new(&policies, &in_force(target.document.as_ref())),
        })
        .collect();
    let found = |policy: &Judged| {
        if policy.policy.metadata.namespace.as_deref() == Some(own) {
            return Found {
                of_trellis: true,
                ..Found::default()
            };
        }
        find(policy, &all)
    };
    policies
        .iter()
        .map(|policy| status(policy, &found(policy), now))
        .collect()
}

fn status(judged: &Judged, found: &Found, now: Timestamp) -> RateLimitPolicyStatus {
    let policy = &judged.policy;
    let invalid = !judged.is_good;
    let previous = policy.status.clone().unwrap_or_default();
    let holds = found.held.len();
    let mut conditions = Vec::new();
    let mut set = |type_: PolicyConditionType, status: &str, reason: PolicyReason, message: String| {
        let type_ = type_.as_ref().to_owned();
        let before = previous
            .conditions
            .iter()
            .find(|condition| condition.type_ == type_);
        let since = before.filter(|before| before.status == status);
        conditions.push(Condition {
            last_transition_time: since.map_or(Time(now), |before| before.last_transition_time.clone()),
            message,
            observed_generation: policy.metadata.generation,
            reason: reason.as_ref().to_owned(),
            status: status.to_owned(),
            type_,
        });
    };
    let (yes, no, unknown) = (
        condition::status::TRUE,
        condition::status::FALSE,
        condition::status::UNKNOWN,
    );
    match judged.problems.first().filter(|_| invalid) {
        Some(first) => {
            let kept = if holds > 0 {
                "; what was in force before stays in force"
            } else {
                ""
            };
            let message = format!("{first}{kept}");
            set(PolicyConditionType::Accepted, no, PolicyReason::Invalid, message);
        }
        None => set(
            PolicyConditionType::Accepted,
            yes,
            PolicyReason::Accepted,
            "it makes sense".to_owned(),
        ),
    }
    if found.lost.is_empty() {
        let message = "no older policy has a target of it".to_owned();
        set(
            PolicyConditionType::Conflicted,
            no,
            PolicyReason::NoConflict,
            message,
        );
    } else {
        let message = list(&found.lost);
        set(
            PolicyConditionType::Conflicted,
            yes,
            PolicyReason::OlderPolicy,
            message,
        );
    }
    if found.overridden.is_empty() {
        let message = "no policy is put over it".to_owned();
        set(
            PolicyConditionType::Overridden,
            no,
            PolicyReason::NotOverridden,
            message,
        );
    } else {
        let message = format!("have policies of their own: {}", list(&found.overridden));
        set(
            PolicyConditionType::Overridden,
            yes,
            PolicyReason::OwnPolicy,
            message,
        );
    }
    if holds > 0 {
        let mut message = format!("it decides at {holds} target(s)");
        if !found.missing.is_empty() {
            message = format!("{message}; there is no {}", list(&found.missing));
        }
        set(
            PolicyConditionType::Enforced,
            yes,
            PolicyReason::Enforced,
            message,
        );
    } else {
        let (reason, message) = if found.of_trellis {
            let message = "the Microservices of the operator's own namespace are parts of Trellis, which no policy limits: make it in the namespace of what is to be limited";
            (PolicyReason::PartOfTrellis, message.to_owned())
        } else if invalid {
            (PolicyReason::Invalid, "its spec has faults".to_owned())
        } else if !found.lost.is_empty() {
            (PolicyReason::OlderPolicy, list(&found.lost))
        } else if found.missing.is_empty() {
            (
                PolicyReason::OwnPolicy,
                "every Microservice has a policy of its own, or there is none".to_owned(),
            )
        } else {
            (
                PolicyReason::TargetNotFound,
                format!("there is no {}", list(&found.missing)),
            )
        };
        set(PolicyConditionType::Enforced, no, reason, message);
    }
    let refused = found.held.contains(&Some(false));
    if holds > 0 && found.held.iter().all(|held| *held == Some(true)) && !invalid {
        let message = "every proxy of its targets runs by it".to_owned();
        set(
            PolicyConditionType::Programmed,
            yes,
            PolicyReason::Programmed,
            message,
        );
    } else if refused {
        let message =
            "a proxy refused it; the Microservice's condition Programmed says which and why".to_owned();
        set(
            PolicyConditionType::Programmed,
            no,
            PolicyReason::ProxyRefused,
            message,
        );
    } else {
        let message = if holds == 0 || invalid {
            "there is nothing to run by"
        } else {
            "not every proxy has said yet that it runs by it"
        };
        set(
            PolicyConditionType::Programmed,
            unknown,
            PolicyReason::Pending,
            message.to_owned(),
        );
    }
    RateLimitPolicyStatus {
        observed_generation: policy.metadata.generation,
        conditions,
        problems: judged.problems.clone(),
        targets: found.targets.iter().cloned().collect(),
    }
}

fn find(judged: &Judged, all: &[Here<'_>]) -> Found {
    let mut found = Found::default();
    for target in &judged.policy.spec.target_refs {
        if target.kind == TargetKind::Microservice {
            let section = target.section_name.as_deref();
            let here = all.iter().find(|here| here.name() == target.name);
            let Some(here) = here.filter(|here| here.has_section(section)) else {
                let section = section
                    .map(|section| format!(" with a route {section}"))
                    .unwrap_or_default();
                found
                    .missing
                    .insert(format!("Microservice {}{section}", target.name));
                continue;
            };
            if let Some(holder) = here.holders.of(&target.name, section) {
                found.at(judged, here, section, holder);
            }
            continue;
        }
        for here in all {
            if let Some(own) = here.holders.of(here.name(), None) {
                if own.name() != judged.name() {
                    found.overridden.insert(here.name().to_owned());
                }
            } else if let Some(holder) = here.holders.of_namespace() {
                found.at(judged, here, None, holder);
            }
        }
    }
    found
}

impl Found {
    /// Notes who holds a target.
    fn at(&mut self, judged: &Judged, here: &Here<'_>, section: Option<&str>, holder: &Judged) {
        self.targets.insert(TargetStatus {
            microservice: here.name().to_owned(),
            section_name: section.map(str::to_owned),
            policy: holder.name().to_owned(),
        });
        if holder.name() == judged.name() {
            self.held.push(programmed(here.target, &judged.policy));
        } else if here.holders.has(judged.name()) {
            self.lost
                .insert(format!("{} has the older policy {}", here.name(), holder.name()));
        }
    }
}

impl Here<'_> {
    fn name(&self) -> &str {
        self.target
            .microservice
            .metadata
            .name
            .as_deref()
            .unwrap_or_default()
    }

    fn has_section(&self, section: Option<&str>) -> bool {
        let routes = &self.target.microservice.spec.routes;
        section.is_none_or(|section| routes.iter().any(|route| route.name == section))
    }
}

/// Whether all proxies of a target run by this generation of the policy; None: they have not said yet.
fn programmed(here: &Target, policy: &RateLimitPolicy) -> Option<bool> {
    let document = here.document.as_ref()?;
    let mut limits = document.config.limits.iter();
    let told = limits.any(|limit| {
        Some(&limit.policy) == policy.metadata.name.as_ref()
            && Some(limit.generation) == policy.metadata.generation
    });
    let status = here.microservice.status.as_ref()?;
    let about_it = status
        .proxies
        .as_ref()
        .is_some_and(|proxies| proxies.document == document.digest);
    if !told || !about_it {
        return None;
    }
    let type_ = ConditionType::Programmed;
    let condition = status.conditions.iter().find(|it| it.type_ == type_.as_ref())?;
    match &*condition.status {
        condition::status::TRUE => Some(true),
        condition::status::FALSE => Some(false),
        _ => None,
    }
}

fn list(names: &BTreeSet<String>) -> String {
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    names.join(", ")
}
