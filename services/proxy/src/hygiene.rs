//! Fields that concern one connection do not cross the proxy (RFC 9110 7.6.1), in either direction.
//!
//! Removed: everything that `Connection` names, and the fields that are hop-by-hop by themselves. Kept: `TE: trailers`
//! (gRPC insists on it), `Trailer`, and `Upgrade: websocket` of an HTTP/1.1 request, which [`crate::upgrade`] carries
//! through. This runs before the proxy adds fields of its own, so a caller cannot have those removed by naming them; and
//! it never removes what frames or routes a message, whoever names it (a known way to smuggle).

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Version,
    header::{CONNECTION, CONTENT_LENGTH, COOKIE, HOST, PROXY_AUTHENTICATE, TE, TRANSFER_ENCODING, UPGRADE},
};

use crate::body::{Request, Response};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// Hop-by-hop without being named in `Connection`. `Proxy-Authorization` is not among them: a proxy that does not ask
/// for it must pass it on (RFC 9110 11.7.2).
const HOP_BY_HOP: [HeaderName; 7] = [
    CONNECTION,
    KEEP_ALIVE,
    PROXY_CONNECTION,
    PROXY_AUTHENTICATE,
    TRANSFER_ENCODING,
    UPGRADE,
    HTTP2_SETTINGS,
];

/// Begin the names of fields by which the saga engine says which step a request is.
const OF_SAGAS: &str = "trellis-saga-";

/// The request asks to switch to WebSocket. Travels in the request's extensions.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WantsWebSocket;

/// Cleans a request.
pub(crate) fn clean_request(request: &mut Request) {
    if wants_websocket(request) {
        request.extensions_mut().insert(WantsWebSocket);
    }
    let http2 = request.version() == Version::HTTP_2;
    let headers = request.headers_mut();
    let trailers = accepts_trailers(headers);
    strip(headers);
    headers.remove(TE);
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    if http2 {
        join_cookies(headers);
    }
}

/// Removes what the saga engine alone says of a request. From outside the mesh it would be anybody's word, and a participant would
/// believe it.
pub(crate) fn forget_sagas(request: &mut Request) {
    let headers = request.headers_mut();
    let is_claim = |name: &&HeaderName| name.as_str().starts_with(OF_SAGAS);
    let claims: Vec<HeaderName> = headers.keys().filter(is_claim).cloned().collect();
    for claim in claims {
        headers.remove(claim);
    }
}

/// Cleans a response. A response that switches protocols keeps what says so.
pub(crate) fn clean_response(response: &mut Response) {
    let switching = response.status() == http::StatusCode::SWITCHING_PROTOCOLS;
    // The version is each connection's own; hyper writes what the caller's speaks.
    *response.version_mut() = Version::HTTP_11;
    let headers = response.headers_mut();
    let upgrade = headers.get(UPGRADE).filter(|_| switching).cloned();
    strip(headers);
    if let Some(upgrade) = upgrade {
        headers.insert(UPGRADE, upgrade);
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    }
}

fn strip(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = tokens(headers, &CONNECTION)
        .filter_map(|name| HeaderName::from_bytes(name.as_bytes()).ok())
        .filter(|name| *name != HOST && *name != CONTENT_LENGTH)
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
}

fn wants_websocket(request: &Request) -> bool {
    let headers = request.headers();
    request.version() == Version::HTTP_11
        && request.method() == Method::GET
        && tokens(headers, &CONNECTION).any(|token| token.eq_ignore_ascii_case("upgrade"))
        && tokens(headers, &UPGRADE).any(|token| token.eq_ignore_ascii_case("websocket"))
        && http_body::Body::is_end_stream(request.body())
}

/// `TE` is a list, and members may have weights: `trailers;q=0.5`.
fn accepts_trailers(headers: &HeaderMap) -> bool {
    tokens(headers, &TE).any(|token| {
        token
            .split(';')
            .next()
            .is_some_and(|name| name.trim() == "trailers")
    })
}

/// HTTP/2 may split a cookie field for compression; HTTP/1.1 has one (RFC 9113 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    if headers.get_all(COOKIE).iter().nth(1).is_none() {
        return;
    }
    let crumbs: Vec<&[u8]> = headers
        .get_all(COOKIE)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    if let Ok(joined) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..])) {
        headers.insert(COOKIE, joined);
    }
}

fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|token| !token.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body::Body;

    fn cleaned(version: Version, fields: &[(&str, &str)]) -> (Vec<(String, String)>, bool) {
        let mut builder = http::Request::builder().version(version);
        for (name, value) in fields {
            builder = builder.header(*name, *value);
        }
        let mut request = builder.body(Body::empty()).unwrap();
        clean_request(&mut request);
        let websocket = request.extensions().get::<WantsWebSocket>().is_some();
        let fields = request.headers().iter();
        let mut fields: Vec<_> = fields
            .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
            .collect();
        fields.sort();
        (fields, websocket)
    }

    fn fields(expected: &[(&str, &str)]) -> Vec<(String, String)> {
        expected
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn named_and_standard_hop_by_hop_fields_are_removed() {
        let (left, _) = cleaned(
            Version::HTTP_11,
            &[
                ("connection", "close, X-Secret"),
                ("connection", "x-other"),
                ("x-secret", "1"),
                ("x-other", "2"),
                ("x-kept", "3"),
                ("keep-alive", "timeout=5"),
                ("proxy-connection", "keep-alive"),
                ("proxy-authorization", "Basic eA=="),
                ("transfer-encoding", "chunked"),
                ("upgrade", "h2c"),
                ("http2-settings", "AAMAAABk"),
                ("te", "gzip, trailers;q=0.5"),
                ("trailer", "grpc-status"),
            ],
        );
        let expected = [
            ("proxy-authorization", "Basic eA=="),
            ("te", "trailers"),
            ("trailer", "grpc-status"),
            ("x-kept", "3"),
        ];
        assert_eq!(left, fields(&expected));
    }

    #[test]
    fn fields_that_frame_or_route_cannot_be_named_away() {
        let (left, _) = cleaned(
            Version::HTTP_11,
            &[
                ("connection", "host, content-length, te"),
                ("host", "a"),
                ("content-length", "3"),
                ("te", "trailers"),
            ],
        );
        assert_eq!(
            left,
            fields(&[("content-length", "3"), ("host", "a"), ("te", "trailers")])
        );
    }

    #[test]
    fn only_a_websocket_upgrade_is_noted() {
        let upgrade = |protocol| [("connection", "keep-alive, Upgrade"), ("upgrade", protocol)];
        assert_eq!(
            cleaned(Version::HTTP_11, &upgrade("WebSocket")),
            (Vec::new(), true)
        );
        assert_eq!(cleaned(Version::HTTP_11, &upgrade("h2c")), (Vec::new(), false));
        assert_eq!(
            cleaned(Version::HTTP_11, &[("upgrade", "websocket")]),
            (Vec::new(), false)
        );
        assert_eq!(
            cleaned(Version::HTTP_10, &upgrade("websocket")),
            (Vec::new(), false)
        );
    }

    #[test]
    fn cookie_crumbs_become_one_field() {
        let (left, _) = cleaned(Version::HTTP_2, &[("cookie", "a=1"), ("cookie", "b=2")]);
        assert_eq!(left, fields(&[("cookie", "a=1; b=2")]));
    }

    #[test]
    fn a_response_keeps_its_upgrade_only_when_it_switches() {
        for (status, kept) in [(101, true), (200, false)] {
            let mut response = http::Response::builder()
                .status(status)
                .header("connection", "upgrade, x-hop")
                .header("upgrade", "websocket")
                .header("x-hop", "1")
                .body(Body::empty())
                .unwrap();
            clean_response(&mut response);
            assert_eq!(response.headers().contains_key(UPGRADE), kept, "{status}");
            assert!(!response.headers().contains_key("x-hop"));
        }
    }
}
