//! Condition `RateLimitPolicyAffected`.

use std::collections::BTreeSet;

use trellis_api::condition::Reason;

use super::Verdict;
use crate::microservice::validated::Validated;

/// None if no limit holds: then there is no such condition.
pub(super) fn verdict(validated: &Validated) -> Option<Verdict> {
    let policies: BTreeSet<&str> = validated.limits.iter().map(|limit| &*limit.policy).collect();
    if policies.is_empty() {
        return None;
    }
    let policies: Vec<&str> = policies.into_iter().collect();
    let message = format!("rate limit policies that hold here: {}", policies.join(", "));
    Some(Verdict::good(Reason::Affected, message))
}
