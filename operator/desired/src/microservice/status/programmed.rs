//! Condition `Programmed` and `status.proxies`: whether the proxies run by the newest document.
//!
//! ```text
//! a proxy refused it --------------------------------------------> False, ProxyRefused
//! all run by it -------------------------------------------------> True, Programmed
//! some have not said so --- for longer than PATIENCE ------------> Unknown, ProxiesBehind
//!                      \--- another document was asked for before > Unknown, ProxiesPending
//!                       \-- the same one --------------------------> what was said before
//! ```
//!
//! **Writes.** A thousand answers must not make a thousand statuses, and an operator that has just started hears of its
//! proxies one by one. So what was said of the same document stays until all have answered or one is overdue, and counts
//! are taken anew only when the Deployment and the pods agree that nothing is on its way. No message has a number or a
//! time in it that changes by itself.

use std::{cmp::Reverse, collections::BTreeSet, time::Duration};

use k8s_openapi::api::core::v1::ConfigMap;
use serde::Deserialize;
use trellis_api::{
    MicroserviceStatus,
    condition::{ConditionType, Reason, status},
    microservice::{Laggard, LaggardReason, Proxies},
    names::KEY_PROXY_CONFIG,
};

use super::{
    conditions::{Conditions, Verdict, shorten},
    rollout::Rollout,
};
use crate::{
    microservice::Proxy,
    resources::{Applied, Resources},
};

/// How long a proxy may be silent before that is told. A proxy that lost its operator tries again after 10 s at the
/// latest, and a new leader hears of the proxies of others as soon as those have found it.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);
/// Most laggards that are named: an object in Kubernetes is no place for a list of pods.
const MOST_LAGGARDS: usize = 5;

/// What the proxies said to one document.
struct Tally<'a> {
    document: &'a str,
    proxies: &'a [Proxy],
    /// By reason, then by pod.
    laggards: BTreeSet<(LaggardReason, &'a str, &'a str)>,
}

/// Sets the condition; answers the counts.
pub(super) fn set(
    resources: &Resources<Applied>,
    proxies: &[Proxy],
    previous: &MicroserviceStatus,
    conditions: &mut Conditions<'_>,
) -> Option<Proxies> {
    let document = digest(&resources.proxy_config);
    let tally = Tally::of(&document, proxies);
    let rollout = Rollout::of(&resources.deployment, 0);
    let before = conditions
        .previous(ConditionType::Programmed)
        .zip(previous.proxies.as_ref())
        .filter(|(_, counts)| counts.document == document);
    // The document is as old as the question that is still open, or was settled long ago.
    let asked = before.map_or(Duration::ZERO, |(condition, _)| {
        if condition.status == status::UNKNOWN {
            conditions.age(condition)
        } else {
            Duration::MAX
        }
    });
    let verdict = tally.verdict(&rollout, asked);
    if let Some((condition, counts)) = before {
        let at_rest = rollout.is_complete() && usize::try_from(rollout.ready).ok() == Some(proxies.len());
        let same = proxies.is_empty()
            || verdict
                .as_ref()
                .is_none_or(|verdict| verdict.is_said_by(condition));
        if verdict.is_none() || (same && !at_rest) {
            conditions.repeat(condition, ConditionType::Programmed);
            return Some(counts.clone());
        }
    }
    match verdict {
        Some(verdict) => conditions.set(ConditionType::Programmed, verdict),
        // From now on the document is asked for.
        None => conditions.set_anew(
            ConditionType::Programmed,
            Verdict::unknown(
                Reason::ProxiesPending,
                "the proxies have not said yet whether they take the newest document",
            ),
        ),
    }
    Some(tally.counts())
}

/// Whether a proxy has said nothing to the document.
pub(super) fn is_waiting(document: &str, proxies: &[Proxy]) -> bool {
    Tally::of(document, proxies).is_waiting()
}

/// Digest of the document in a ConfigMap; empty if there is none.
pub(super) fn digest(proxy_config: &ConfigMap) -> String {
    #[derive(Deserialize)]
    struct Digest {
        digest: String,
    }
    proxy_config
        .data
        .as_ref()
        .and_then(|data| data.get(KEY_PROXY_CONFIG))
        .and_then(|text| serde_json::from_str(text).ok())
        .map(|Digest { digest }| digest)
        .unwrap_or_default()
}

impl<'a> Tally<'a> {
    fn of(document: &'a str, proxies: &'a [Proxy]) -> Self {
        let laggards = proxies
            .iter()
            .filter_map(|proxy| {
                let (reason, fault) = lags(document, proxy)?;
                Some((reason, proxy.pod.as_str(), fault))
            })
            .collect();
        Self {
            document,
            proxies,
            laggards,
        }
    }

    fn is_waiting(&self) -> bool {
        self.laggards
            .iter()
            .any(|(reason, ..)| *reason != LaggardReason::Refused)
    }

    /// None: it is too early to say. `asked` is for how long the document has been asked for.
    fn verdict(&self, rollout: &Rollout, asked: Duration) -> Option<Verdict> {
        let Some((reason, pod, fault)) = self.laggards.first() else {
            return Some(if !self.proxies.is_empty() {
                Verdict::good(Reason::Programmed, "every proxy runs by the newest document")
            } else if rollout.wanted == 0 {
                Verdict::good(Reason::ScaledToZero, "no pods run, so there are no proxies")
            } else {
                Verdict::good(
                    Reason::NotApplicable,
                    "no pod is ready; a proxy takes the document before its pod is",
                )
            });
        };
        let more = match self.laggards.len() - 1 {
            0 => String::new(),
            more => format!(" (and {more} more, see status.proxies.laggards)"),
        };
        if *reason == LaggardReason::Refused {
            return Some(Verdict::bad(
                Reason::ProxyRefused,
                format!(
                    "the proxy of pod {pod} refused document {}: {}{more}; the last good document stays in force there",
                    self.document,
                    shorten(fault)
                ),
            ));
        }
        // Of several that are overdue the one that is silent for longest: it is named until it answers.
        let overdue = self
            .proxies
            .iter()
            .filter(|proxy| proxy.waited.min(asked) >= PATIENCE)
            .filter_map(|proxy| Some((proxy, lags(self.document, proxy)?.0)))
            .max_by_key(|(proxy, _)| (proxy.waited, Reverse(&proxy.pod)));
        overdue.map(|(proxy, reason)| {
            Verdict::unknown(
                Reason::ProxiesBehind,
                format!("the proxy of pod {} {}{more}", proxy.pod, reason_text(reason)),
            )
        })
    }

    fn counts(&self) -> Proxies {
        let laggards = self
            .laggards
            .iter()
            .take(MOST_LAGGARDS)
            .map(|(reason, pod, fault)| Laggard {
                pod: (*pod).to_owned(),
                reason: *reason,
                message: match reason {
                    LaggardReason::Refused => shorten(fault),
                    LaggardReason::Behind | LaggardReason::NotConnected => reason_text(*reason).to_owned(),
                },
            });
        Proxies {
            document: self.document.to_owned(),
            total: count(self.proxies.len()),
            connected: count(self.proxies.iter().filter(|proxy| proxy.answer.is_some()).count()),
            acknowledged: count(self.proxies.len() - self.laggards.len()),
            laggards: laggards.collect(),
        }
    }
}

/// Why a proxy does not run by the document, with the fault if it refused it.
fn lags<'a>(document: &str, proxy: &'a Proxy) -> Option<(LaggardReason, &'a str)> {
    let Some(answer) = &proxy.answer else {
        return Some((LaggardReason::NotConnected, ""));
    };
    if answer.in_use == document {
        return None;
    }
    match &answer.refused {
        Some(refused) if refused.digest == document => Some((LaggardReason::Refused, &refused.fault)),
        _ => Some((LaggardReason::Behind, "")),
    }
}

const fn reason_text(reason: LaggardReason) -> &'static str {
    match reason {
        LaggardReason::Refused => "refused the newest document",
        LaggardReason::Behind => "is connected and has not taken the newest document; see its logs",
        LaggardReason::NotConnected => {
            "is not connected to the operator and serves by what it has; see its logs and its way to the operator"
        }
    }
}

fn count(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests;
