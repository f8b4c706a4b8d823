//! Requests from outside the mesh: by path, to whoever serves it.

use std::{iter, sync::Arc};

use arc_swap::ArcSwap;
use http::Method;
use tower::ServiceBuilder;
use trellis_chassis::drain;

use crate::{
    body::Request,
    connection::Stack,
    deadlines,
    direction::Direction,
    failure::{Failure, Reason},
    forward::Forward,
    forwarded, hygiene,
    intake::Choose,
    limits,
    observe::Telemetry,
    rewrite,
    route::{Labels, Methods, Route},
    snapshot::{Listener, Serves},
    stack,
    target::Target,
};

/// Chooses by path.
#[derive(Debug, Clone)]
struct Gateway(Arc<ArcSwap<Listener>>);

/// The stack of a listener whose requests come from outside.
pub(crate) fn stack(listener: Arc<ArcSwap<Listener>>, telemetry: Telemetry, draining: drain::Watch) -> Stack {
    let inner = ServiceBuilder::new()
        .map_request(|mut request| {
            forwarded::replace(&mut request);
            deadlines::forget(&mut request);
            hygiene::forget_sagas(&mut request);
            request
        })
        .layer(limits::layer(&listener))
        .layer(rewrite::layer())
        .service(Forward);
    stack::build(
        Direction::Gateway,
        Gateway(listener),
        telemetry,
        Some(draining),
        inner,
    )
}

impl Choose for Gateway {
    fn choose(&self, request: &Request) -> Target {
        let listener = self.0.load();
        let refused = |failure| Target::refused(listener.labels.clone(), failure);
        let Serves::Paths(table) = &listener.serves else {
            return refused(Failure::new(Reason::NoRoute, "the port has changed"));
        };
        match table.find(request.uri().path()) {
            Ok(Some([first, others @ ..])) => by_method(first, others, request.method()),
            Ok(None | Some([])) => refused(Failure::new(
                Reason::NoRoute,
                "no service has a route for this path",
            )),
            Err(ambiguity) => refused(Failure::new(Reason::AmbiguousPath, ambiguity.detail())),
        }
    }

    fn labels(&self) -> Labels {
        self.0.load().labels.clone()
    }
}

/// Of the routes of one path, the one that serves the method.
fn by_method(first: &Arc<Route>, others: &[Arc<Route>], method: &Method) -> Target {
    let mut all = iter::once(first).chain(others);
    if let Some(route) = all.find(|route| route.methods.serve(method)) {
        return Target::to(route);
    }
    let mut failure = Failure::new(Reason::MethodNotAllowed, format!("{method} is not served here"));
    let methods = iter::once(first).chain(others).map(|route| &route.methods);
    failure.allow = Some(Box::new(Methods::allow(methods)));
    // All are of one path; the first stands for it in logs and metrics.
    Target::refused(first.labels.clone(), failure)
}

#[cfg(test)]
mod tests {
    use trellis_proxy_config::{Cluster as Settings, Protocol, Rewrite};

    use super::*;
    use crate::cluster::Cluster;

    fn route(name: &str, method: &str) -> Arc<Route> {
        let settings = Settings::new(Protocol::Http1, None);
        Arc::new(Route {
            labels: Labels {
                service: "shop/order".into(),
                route: name.into(),
            },
            cluster: Arc::new(Cluster::new("c", &settings)),
            methods: Methods::new(&[method.to_owned()]),
            rewrite: Rewrite::None,
            depth: 1,
        })
    }

    #[test]
    fn routes_of_one_path_share_it_out_by_method() {
        let routes = [route("reads", "GET"), route("writes", "POST")];
        for (method, expected) in [
            (Method::GET, "reads"),
            (Method::HEAD, "reads"),
            (Method::POST, "writes"),
        ] {
            assert_eq!(
                &*by_method(&routes[0], &routes[1..], &method).labels.route,
                expected
            );
        }
        let refused = by_method(&routes[0], &routes[1..], &Method::DELETE);
        assert_eq!(*refused.route.unwrap_err().allow.unwrap(), "GET, HEAD, POST");
    }
}
