//! The first layer: reads a request's head once, so that everything behind it can rely on it.
//!
//! Behind this layer a request has an origin-form target and exactly one Host, whatever form it came in; its head is
//! within bounds; and it carries the [`Target`] that its direction chose and the [`Client`](crate::forwarded::Client)
//! that it comes from. Nothing is answered here, so that refused
//! requests are logged and counted like all others.

use std::{
    net::IpAddr,
    task::{Context, Poll},
};

use http::{
    HeaderMap, HeaderValue, Method, Uri, Version,
    header::HOST,
    uri::{Authority, PathAndQuery},
};
use tower::Service;

use crate::{
    body::Request,
    failure::{Failure, Reason},
    forwarded,
    route::Labels,
    target::Target,
};

/// Longest target, as in Envoy's and nginx' defaults.
const MAX_URI: usize = 8 * 1024;
/// Most bytes of header fields, counted as HTTP/2 does but without its 32 bytes a field.
pub(crate) const MAX_HEADER_BYTES: usize = 16 * 1024;
/// Most header fields; HTTP/2 cookie crumbs count. Fewer than the 100 at which hyper itself answers HTTP/1.1, so that the
/// refusal is ours, and leaves room for the fields that the proxy adds before an app with the same bound.
pub(crate) const MAX_HEADER_FIELDS: usize = 80;

/// Chooses where a request goes.
pub(crate) trait Choose: Clone + Send + Sync + 'static {
    /// The target of a request whose head is sound.
    fn choose(&self, request: &Request) -> Target;

    /// Names for a request that is not.
    fn labels(&self) -> Labels;

    /// Whether what a peer at this address says about its own caller is believed.
    fn believes(&self, _: IpAddr) -> bool {
        false
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct Intake<C, S> {
    choose: C,
    inner: S,
}

/// Makes the layer.
pub(crate) fn layer<C: Choose, S>(choose: C) -> impl tower::Layer<S, Service = Intake<C, S>> + Clone {
    tower::layer::layer_fn(move |inner| Intake {
        choose: choose.clone(),
        inner,
    })
}

impl<C: Choose, S: Service<Request>> Service<Request> for Intake<C, S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request) -> S::Future {
        let target = match check_size(&request).and_then(|()| normalise(&mut request)) {
            Ok(()) => self.choose.choose(&request),
            Err(failure) => Target::refused(self.choose.labels(), failure),
        };
        request.extensions_mut().insert(target);
        forwarded::identify(&mut request, |peer| self.choose.believes(peer));
        self.inner.call(request)
    }
}

fn check_size(request: &Request) -> Result<(), Failure> {
    let target = request
        .uri()
        .path_and_query()
        .map_or(0, |target| target.as_str().len());
    if target > MAX_URI {
        return Err(Failure::new(
            Reason::UriTooLong,
            format!("the target has {target} bytes; at most {MAX_URI} are taken"),
        ));
    }
    let headers = request.headers();
    if headers.len() > MAX_HEADER_FIELDS {
        let detail = format!(
            "the request has {} header fields; at most {MAX_HEADER_FIELDS} are taken",
            headers.len()
        );
        return Err(Failure::new(Reason::HeadersTooLarge, detail));
    }
    let bytes: usize = headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len())
        .sum();
    if bytes > MAX_HEADER_BYTES {
        let detail = format!("the header fields have {bytes} bytes; at most {MAX_HEADER_BYTES} are taken");
        return Err(Failure::new(Reason::HeadersTooLarge, detail));
    }
    Ok(())
}

/// Brings the target to origin-form and the authority into Host (RFC 9112 3.2, RFC 9113 8.3.1).
fn normalise(request: &mut Request) -> Result<(), Failure> {
    if request.method() == Method::CONNECT {
        return Err(Failure::new(
            Reason::BadRequest,
            "CONNECT is not supported; send the request itself",
        ));
    }
    let given = hosts(request.headers())?;
    let host = match (request.uri().authority(), given) {
        (Some(authority), Some(host)) if request.version() == Version::HTTP_2 => {
            if !host
                .as_bytes()
                .eq_ignore_ascii_case(authority.as_str().as_bytes())
            {
                return Err(Failure::new(
                    Reason::BadRequest,
                    ":authority and Host differ; send one of them",
                ));
            }
            None
        }
        // Absolute form: Host is ignored (RFC 9112 3.2.2).
        (Some(authority), _) => Some(from_authority(authority)?),
        (None, Some(host)) => {
            check_host(host)?;
            None
        }
        (None, None) if request.version() == Version::HTTP_10 => Some(HeaderValue::from_static("localhost")),
        (None, None) => return Err(Failure::new(Reason::BadRequest, "the request has no Host")),
    };
    if let Some(host) = host {
        request.headers_mut().insert(HOST, host);
    }
    let uri = std::mem::take(request.uri_mut());
    if uri.authority().is_some() {
        let target = uri
            .into_parts()
            .path_and_query
            .unwrap_or_else(|| PathAndQuery::from_static("/"));
        *request.uri_mut() = Uri::from(target);
    } else {
        *request.uri_mut() = uri;
    }
    Ok(())
}

fn hosts(headers: &HeaderMap) -> Result<Option<&HeaderValue>, Failure> {
    let mut values = headers.get_all(HOST).iter();
    let first = values.next();
    if values.next().is_some() {
        return Err(Failure::new(
            Reason::BadRequest,
            "the request has more than one Host",
        ));
    }
    Ok(first)
}

fn check_host(host: &HeaderValue) -> Result<(), Failure> {
    match Authority::try_from(host.as_bytes()) {
        Ok(authority) if !authority.as_str().contains('@') => Ok(()),
        _ => Err(Failure::new(
            Reason::BadRequest,
            "Host is not a host with an optional port",
        )),
    }
}

fn from_authority(authority: &Authority) -> Result<HeaderValue, Failure> {
    if authority.as_str().contains('@') {
        return Err(Failure::new(
            Reason::BadRequest,
            "the target names a user; send credentials in Authorization",
        ));
    }
    HeaderValue::from_str(authority.as_str())
        .map_err(|_| Failure::new(Reason::BadRequest, "the target's host cannot be forwarded"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body::Body;

    fn request(version: Version, uri: &str, hosts: &[&str]) -> Request {
        let mut builder = http::Request::builder().version(version).uri(uri);
        for host in hosts {
            builder = builder.header(HOST, *host);
        }
        builder.body(Body::empty()).unwrap()
    }

    fn normalised(version: Version, uri: &str, hosts: &[&str]) -> Result<(String, String), Reason> {
        let mut request = request(version, uri, hosts);
        normalise(&mut request).map_err(|failure| failure.reason)?;
        assert_eq!(request.headers().get_all(HOST).iter().count(), 1);
        Ok((
            request.uri().to_string(),
            request.headers()[HOST].to_str().unwrap().to_owned(),
        ))
    }

    #[test]
    fn every_form_of_target_becomes_origin_form_and_one_host() {
        for (version, uri, hosts, expected) in [
            (
                Version::HTTP_11,
                "/a?b",
                &["user.mesh:15001"][..],
                ("/a?b", "user.mesh:15001"),
            ),
            (
                Version::HTTP_11,
                "http://user.mesh/a?b",
                &["other"],
                ("/a?b", "user.mesh"),
            ),
            (Version::HTTP_11, "http://user.mesh", &[], ("/", "user.mesh")),
            (Version::HTTP_11, "*", &["h"], ("*", "h")),
            (Version::HTTP_10, "/", &[], ("/", "localhost")),
            (Version::HTTP_2, "http://user.mesh/a", &[], ("/a", "user.mesh")),
            (
                Version::HTTP_2,
                "http://user.mesh/a",
                &["User.Mesh"],
                ("/a", "User.Mesh"),
            ),
            (Version::HTTP_2, "/a", &["user.mesh"], ("/a", "user.mesh")),
        ] {
            let (uri, host) = normalised(version, uri, hosts).unwrap();
            assert_eq!((uri.as_str(), host.as_str()), expected);
        }
    }

    #[test]
    fn contradicting_hosts_are_refused() {
        for (version, uri, hosts) in [
            (Version::HTTP_11, "/", &[][..]),
            (Version::HTTP_11, "/", &["a", "b"]),
            (Version::HTTP_11, "/", &["a", "a"]),
            (Version::HTTP_11, "/", &["a b"]),
            (Version::HTTP_11, "/", &[""]),
            (Version::HTTP_11, "/", &["user@a"]),
            (Version::HTTP_11, "http://user@a/", &[]),
            (Version::HTTP_2, "http://a/", &["b"]),
            (Version::HTTP_2, "/", &[]),
        ] {
            assert_eq!(
                normalised(version, uri, hosts),
                Err(Reason::BadRequest),
                "{version:?} {uri} {hosts:?}"
            );
        }
    }

    #[test]
    fn heads_are_bounded_in_bytes_fields_and_length_of_target() {
        let mut many = request(Version::HTTP_2, "/", &["h"]);
        for i in 0..MAX_HEADER_FIELDS {
            many.headers_mut().append("cookie", HeaderValue::from(i));
        }
        assert_eq!(check_size(&many).unwrap_err().reason, Reason::HeadersTooLarge);
        let mut large = request(Version::HTTP_11, "/", &["h"]);
        large.headers_mut().insert(
            "x",
            HeaderValue::from_bytes(&vec![b'x'; MAX_HEADER_BYTES]).unwrap(),
        );
        assert_eq!(check_size(&large).unwrap_err().reason, Reason::HeadersTooLarge);
        let long = format!("/{}", "x".repeat(MAX_URI));
        assert_eq!(
            check_size(&request(Version::HTTP_11, &long, &["h"]))
                .unwrap_err()
                .reason,
            Reason::UriTooLong
        );
        assert!(check_size(&request(Version::HTTP_11, "/", &["h"])).is_ok());
    }
}
