//! The path as the service is to see it, and the service's own links as the caller is to see them.
//!
//! ```text
//! caller    GET /order/orders/7          Location: /order/orders/7
//!                  | cut off                        ^ put back
//! service   GET /orders/7                Location: /orders/7
//!           X-Forwarded-Prefix: /order
//! ```
//!
//! A service behind a route that cuts off a prefix does not know the path at which its callers reach it. A link that it
//! makes from what it saw would lead them past the route, so the prefix is put back into `Location` and
//! `Content-Location`, as nginx does by its `proxy_redirect default`. A service that reads `X-Forwarded-Prefix` makes
//! right links by itself: what already begins with the prefix stays as it is. Where the service's own paths begin with
//! the same words (`/orders/orders/7` of the service `orders`), one prefix is its own, and only two are already right.
//!
//! Only links to the same site are touched: a path, or a URL with the host of the request. What this does not rewrite:
//! links in bodies, paths of cookies, and relative references, which are right without it.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::{
    HeaderName, HeaderValue, Uri,
    header::{CONTENT_LOCATION, HOST, LOCATION},
    uri::PathAndQuery,
};
use tower::Service;
use trellis_proxy_config::{Rewrite as Rule, path};

use crate::{
    body::{Request, Response},
    failure::Failure,
    target::Target,
};

const PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");
/// Fields of a response that are one link.
const LINKS: [HeaderName; 2] = [LOCATION, CONTENT_LOCATION];

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct Rewrite<S> {
    inner: S,
}

/// What was cut off a request's path.
#[derive(Debug)]
struct Cut {
    /// As the caller wrote it, without a slash at its end.
    prefix: HeaderValue,
    /// Whether the service's own path begins with the same words.
    own: bool,
    host: Option<HeaderValue>,
}

/// The answer to a request whose path may have been cut.
pub(crate) struct Answering<F> {
    answered: F,
    cut: Option<Cut>,
}

/// Makes the layer. Behind [`crate::forwarded`], which removes the caller's own `X-Forwarded-Prefix`.
pub(crate) fn layer<S>() -> impl tower::Layer<S, Service = Rewrite<S>> + Clone {
    tower::layer::layer_fn(|inner| Rewrite { inner })
}

impl<S> Service<Request> for Rewrite<S>
where
    S: Service<Request, Response = Response, Error = Failure>,
    S::Future: Unpin,
{
    type Response = Response;
    type Error = Failure;
    type Future = Answering<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request) -> Self::Future {
        let cut = cut(&mut request);
        Answering {
            answered: self.inner.call(request),
            cut,
        }
    }
}

impl<F: Future<Output = Result<Response, Failure>> + Unpin> Future for Answering<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let mut answered = ready!(Pin::new(&mut self.answered).poll(cx));
        if let (Ok(response), Some(cut)) = (&mut answered, &self.cut) {
            cut.put_back(response);
        }
        Poll::Ready(answered)
    }
}

/// Rewrites the request's path as its route says. Query and escapes stay as they came.
fn cut(request: &mut Request) -> Option<Cut> {
    let Some(Target { route: Ok(route), .. }) = request.extensions().get::<Target>() else {
        return None;
    };
    match route.rewrite {
        Rule::None => None,
        Rule::StripPrefix => {
            let (prefix, uri) = strip(request.uri(), route.depth)?;
            let own = prefix
                .to_str()
                .is_ok_and(|prefix| after_prefix(uri.path(), prefix).is_some());
            *request.uri_mut() = uri;
            let headers = request.headers_mut();
            headers.insert(PREFIX, prefix.clone());
            let host = headers.get(HOST).cloned();
            Some(Cut { prefix, own, host })
        }
    }
}

/// The first elements of the path, and the target without them. None if there are none: a route at the root.
fn strip(uri: &Uri, depth: usize) -> Option<(HeaderValue, Uri)> {
    let (prefix, rest) = path::split(uri.path(), depth);
    let target = match uri.query() {
        Some(query) => PathAndQuery::try_from(format!("{rest}?{query}")),
        None => PathAndQuery::try_from(rest),
    };
    // Pieces of a valid target are valid; what begins with a slash is a target.
    let prefix = HeaderValue::from_str(prefix).ok().filter(|it| !it.is_empty())?;
    Some((prefix, Uri::from(target.ok()?)))
}

impl Cut {
    fn put_back(&self, response: &mut Response) {
        for name in LINKS {
            if let Some(link) = response.headers().get(&name)
                && let Some(rewritten) = self.rewritten(link)
            {
                response.headers_mut().insert(name, rewritten);
            }
        }
    }

    /// The link with the prefix; None if it stays as it is.
    fn rewritten(&self, link: &HeaderValue) -> Option<HeaderValue> {
        let (link, prefix) = (link.to_str().ok()?, self.prefix.to_str().ok()?);
        let host = self.host.as_ref().and_then(|host| host.to_str().ok());
        let (site, path) = link.split_at(path_of_same_site(link, host)?);
        let put_back =
            after_prefix(path, prefix).is_some_and(|rest| !self.own || after_prefix(rest, prefix).is_some());
        if put_back {
            return None;
        }
        HeaderValue::try_from(format!("{site}{prefix}{path}")).ok()
    }
}

/// What follows the prefix in a path, if whole elements of it are the prefix.
fn after_prefix<'a>(path: &'a str, prefix: &str) -> Option<&'a str> {
    path.strip_prefix(prefix)
        .filter(|rest| rest.is_empty() || rest.starts_with(['/', '?', '#']))
}

/// Where the path begins in a link to `host`: a path, or a URL with or without its scheme.
fn path_of_same_site(link: &str, host: Option<&str>) -> Option<usize> {
    let authority = match link.split_once("//") {
        Some(("", _)) => 2,
        Some((scheme, _))
            if ["http:", "https:"]
                .iter()
                .any(|it| it.eq_ignore_ascii_case(scheme)) =>
        {
            scheme.len() + 2
        }
        _ => return link.starts_with('/').then_some(0),
    };
    let rest = &link[authority..];
    let length = rest.find(['/', '?', '#', '\\']).unwrap_or(rest.len());
    rest[..length]
        .eq_ignore_ascii_case(host?)
        .then_some(authority + length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn query_and_escapes_survive() {
        for (from, prefix, to) in [
            ("/order/orders/7?a=%2F&b", "/order", "/orders/7?a=%2F&b"),
            ("/%6frder/a%20b%C3%A9", "/%6frder", "/a%20b%C3%A9"),
            ("/order?x=1", "/order", "/?x=1"),
            ("/order/?", "/order", "/?"),
            ("/order", "/order", "/"),
        ] {
            let (cut, rest) = strip(&Uri::from_static(from), 1).unwrap();
            assert_eq!((cut.to_str().unwrap(), rest.to_string().as_str()), (prefix, to));
        }
        assert!(strip(&Uri::from_static("/a"), 0).is_none());
    }

    #[test]
    fn links_to_the_same_site_get_the_prefix_once() {
        let cut = Cut {
            prefix: HeaderValue::from_static("/order"),
            own: false,
            host: Some(HeaderValue::from_static("shop.example:8080")),
        };
        for (link, expected) in [
            ("/orders/7", Some("/order/orders/7")),
            ("/", Some("/order/")),
            ("/orders2?x#y", Some("/order/orders2?x#y")),
            (
                "/orders/7?next=http://a/b",
                Some("/order/orders/7?next=http://a/b"),
            ),
            ("/order/orders/7", None),
            ("/order", None),
            ("/order?x", None),
            (
                "http://shop.example:8080/orders/7",
                Some("http://shop.example:8080/order/orders/7"),
            ),
            (
                "HTTPS://Shop.Example:8080/orders/7",
                Some("HTTPS://Shop.Example:8080/order/orders/7"),
            ),
            ("http://shop.example:8080", Some("http://shop.example:8080/order")),
            (
                "//shop.example:8080/orders/7",
                Some("//shop.example:8080/order/orders/7"),
            ),
            ("http://shop.example:8080/order/orders/7", None),
            ("http://shop.example/orders/7", None),
            ("http://other.example/orders/7", None),
            ("http://shop.example:8080@other.example/orders/7", None),
            ("//other.example/orders/7", None),
            ("ftp://shop.example:8080/orders/7", None),
            ("7", None),
            ("../orders/7", None),
            ("?x", None),
            ("", None),
        ] {
            let rewritten = cut.rewritten(&HeaderValue::from_static(link));
            assert_eq!(
                rewritten.as_ref().map(|link| link.to_str().unwrap()),
                expected,
                "{link}"
            );
        }
    }
    #[test]
    fn a_service_whose_own_paths_begin_like_the_prefix_gets_it_put_back_once_too() {
        let cut = Cut {
            prefix: HeaderValue::from_static("/orders"),
            own: true,
            host: None,
        };
        for (link, expected) in [
            ("/orders/7", Some("/orders/orders/7")),
            ("/orders", Some("/orders/orders")),
            ("/orders/orders/7", None),
            ("/orders/orders", None),
            ("/orders/ordersx", Some("/orders/orders/ordersx")),
            ("/other", Some("/orders/other")),
        ] {
            let rewritten = cut.rewritten(&HeaderValue::from_static(link));
            assert_eq!(
                rewritten.as_ref().map(|link| link.to_str().unwrap()),
                expected,
                "{link}"
            );
        }
    }
}
