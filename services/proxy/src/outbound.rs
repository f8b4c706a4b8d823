//! Requests of the app to other services: by host, on one port.
//!
//! Works for any client of any language, because every client can be given a host and a port. The request's own host is
//! kept on its way.

use std::{borrow::Cow, sync::Arc};

use arc_swap::ArcSwapOption;
use http::header::HOST;
use tower::ServiceBuilder;

use crate::{
    body::Request,
    connection::Stack,
    deadlines::Deadlines,
    direction::Direction,
    failure::{Failure, Reason},
    forward::Forward,
    intake::Choose,
    observe::Telemetry,
    route::Labels,
    snapshot::Snapshot,
    stack,
    target::Target,
};

/// Chooses by host.
#[derive(Debug, Clone)]
struct Outbound(Arc<ArcSwapOption<Snapshot>>);

/// The stack of the port that the app sends to.
pub(crate) fn stack(
    snapshot: Arc<ArcSwapOption<Snapshot>>,
    telemetry: Telemetry,
    deadlines: Deadlines,
) -> Stack {
    let inner = ServiceBuilder::new()
        .map_request(move |mut request| {
            deadlines.bound(&mut request);
            request
        })
        .service(Forward);
    // The app leaves when it likes; it is not told to go elsewhere, for there is no elsewhere.
    stack::build(Direction::Outbound, Outbound(snapshot), telemetry, None, inner)
}

impl Choose for Outbound {
    fn choose(&self, request: &Request) -> Target {
        // The layer before has put exactly one Host there.
        let host = request
            .headers()
            .get(HOST)
            .and_then(|host| host.to_str().ok())
            .unwrap_or_default();
        let host = name_of(host);
        if let Some(route) = self
            .0
            .load()
            .as_ref()
            .and_then(|snapshot| snapshot.outbound.get(host.as_ref()))
        {
            return Target::to(route);
        }
        let detail = format!(
            "no service is called {host:?} here; declare it in spec.dependsOn of the calling service"
        );
        Target::refused(self.labels(), Failure::new(Reason::NoRoute, detail))
    }

    fn labels(&self) -> Labels {
        unmatched()
    }
}

/// Names for requests to hosts that no service has.
pub(crate) fn unmatched() -> Labels {
    let unmatched: Arc<str> = trellis_chassis::metrics::UNMATCHED.into();
    Labels {
        service: Arc::clone(&unmatched),
        route: unmatched,
    }
}

/// The name in a Host: without port, in lower case, without the root's dot.
pub(crate) fn name_of(host: &str) -> Cow<'_, str> {
    let name = match host.rsplit_once(':') {
        // Colons of an IPv6 address are inside brackets.
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        name.to_ascii_lowercase().into()
    } else {
        name.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_ignore_case_port_and_the_dot_of_the_root() {
        for (host, name) in [
            ("user.mesh", "user.mesh"),
            ("user.mesh:15001", "user.mesh"),
            ("User.Shop.MESH:80", "user.shop.mesh"),
            ("user.mesh.:15001", "user.mesh"),
            ("[::1]:15001", "[::1]"),
            ("[::1]", "[::1]"),
        ] {
            assert_eq!(name_of(host), name);
        }
    }
}
