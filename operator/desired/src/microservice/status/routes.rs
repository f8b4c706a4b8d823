//! Condition `RoutesAccepted`.

use trellis_api::condition::Reason;

use super::Verdict;
use crate::microservice::validated::{Role, Validated};

pub(super) fn verdict(validated: &Validated) -> Verdict {
    let Role::Service(service) = &validated.role else {
        return Verdict::good(Reason::NotApplicable, "a gateway serves the routes of others");
    };
    let routes = &service.routes;
    if routes.count == 0 {
        return Verdict::good(Reason::NotApplicable, "spec.routes is empty");
    }
    if !routes.has_gateway {
        return Verdict::bad(
            Reason::NoGateway,
            format!(
                "spec.routes: no gateway serves namespace {:?}: create a Microservice with spec.gateway there, or one \
                 with spec.gateway.routes.fromNamespaces: All",
                validated.key.namespace
            ),
        );
    }
    let conflict = |lost: &crate::microservice::routes::Lost| {
        format!(
            "spec.routes[{}].path: {:?} is served by {}/{}, which is older: choose another path, or remove it there",
            lost.index, lost.path, lost.winner.namespace, lost.winner.name
        )
    };
    match routes.lost.as_slice() {
        [] => Verdict::good(Reason::Reconciled, format!("served: {}", routes.count)),
        [only] => Verdict::bad(Reason::RouteConflict, conflict(only)),
        [first, rest @ ..] => Verdict::bad(
            Reason::RouteConflict,
            format!("{} (and {} more)", conflict(first), rest.len()),
        ),
    }
}
