//! The path as the service is to see it.

use http::{Uri, uri::PathAndQuery};
use trellis_proxy_config::{Rewrite, path};

use crate::{body::Request, target::Target};

/// Rewrites the request's path as its route says. Query and escapes stay as they came.
pub(crate) fn rewrite(request: &mut Request) {
    let Some(Target { route: Ok(route), .. }) = request.extensions().get::<Target>() else {
        return;
    };
    match route.rewrite {
        Rewrite::None => {}
        Rewrite::StripPrefix => {
            let uri = strip(request.uri(), route.depth);
            *request.uri_mut() = uri;
        }
    }
}

fn strip(uri: &Uri, depth: usize) -> Uri {
    let rest = path::without_elements(uri.path(), depth);
    let target = match uri.query() {
        Some(query) => PathAndQuery::try_from(format!("{rest}?{query}")),
        None => PathAndQuery::try_from(rest),
    };
    // A piece of a valid target that begins with a slash is a valid target.
    target.map_or_else(|_| uri.clone(), Uri::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn query_and_escapes_survive() {
        for (from, to) in [
            ("/order/orders/7?a=%2F&b", "/orders/7?a=%2F&b"),
            ("/order/a%20b%C3%A9", "/a%20b%C3%A9"),
            ("/order?x=1", "/?x=1"),
            ("/order/?", "/?"),
            ("/order", "/"),
        ] {
            assert_eq!(strip(&Uri::from_static(from), 1), to, "{from}");
        }
    }
}
