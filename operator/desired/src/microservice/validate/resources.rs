//! `spec.resources`.

use std::collections::BTreeMap;

use trellis_api::{MicroserviceSpec, Quantity, quantity::Amount};

use super::Problems;
use crate::syntax;

pub(super) fn check(spec: &MicroserviceSpec, problems: &mut Problems) {
    let Some(resources) = &spec.resources else {
        return;
    };
    let requests = amounts("requests", &resources.requests, problems);
    let limits = amounts("limits", &resources.limits, problems);
    for (name, request) in requests {
        if let Some(limit) = limits.get(name)
            && request > *limit
        {
            problems.error(
                path("requests", name),
                format!(
                    "{} is more than spec.resources.limits ({}): lower the request or raise the limit",
                    resources.requests[name], resources.limits[name]
                ),
            );
        }
    }
}

fn amounts<'a>(
    list: &str,
    quantities: &'a BTreeMap<String, Quantity>,
    problems: &mut Problems,
) -> BTreeMap<&'a str, Amount> {
    let mut amounts = BTreeMap::new();
    for (name, quantity) in quantities {
        let field = path(list, name);
        if !is_resource(name) {
            problems.error(
                &field,
                format!(
                    "{name:?} is no resource of a container: use cpu, memory, ephemeral-storage, hugepages-<size> or a \
                     device as example.org/gpu"
                ),
            );
        }
        match quantity.amount() {
            Ok(amount) if amount.is_negative() => {
                problems.error(&field, format!("{quantity} is negative: use 0 or more"));
            }
            Ok(amount) => {
                amounts.insert(name.as_str(), amount);
            }
            Err(_) => problems.error(
                &field,
                format!(
                    "{:?} is no quantity: write a number with a unit, for example 50m, 1, 32Mi or 1G",
                    quantity.as_str()
                ),
            ),
        }
    }
    amounts
}

fn is_resource(name: &str) -> bool {
    matches!(name, "cpu" | "memory" | "ephemeral-storage")
        || name.starts_with("hugepages-")
        || (name.contains('/') && syntax::is_qualified_name(name))
}

fn path(list: &str, name: &str) -> String {
    if syntax::is_dns_label(name, 1..=syntax::LABEL_MAX) {
        format!("spec.resources.{list}.{name}")
    } else {
        format!("spec.resources.{list}[{name}]")
    }
}
