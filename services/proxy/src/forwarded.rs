//! What a gateway tells services about the caller: address, scheme, host.
//!
//! The address is the peer's. Whatever a caller from outside says about itself in these fields is dropped, or anyone
//! could choose the address that limits and logs see.

use http::{HeaderName, HeaderValue, header::FORWARDED};

use crate::{body::Request, connection::Peer};

const FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// Other spellings of the same claims.
const CLAIMS: [HeaderName; 6] = [
    FORWARDED,
    HeaderName::from_static("x-forwarded-port"),
    HeaderName::from_static("x-forwarded-prefix"),
    HeaderName::from_static("x-forwarded-server"),
    HeaderName::from_static("x-real-ip"),
    HeaderName::from_static("x-client-ip"),
];

/// Replaces the caller's claims by what the gateway knows.
pub(crate) fn add(request: &mut Request) {
    let peer = request.extensions().get::<Peer>().copied();
    let headers = request.headers_mut();
    for claim in CLAIMS.iter().chain([&FOR, &HOST]) {
        headers.remove(claim);
    }
    // The text of an address is a valid header value.
    if let Some(address) = peer.and_then(|Peer(peer)| HeaderValue::try_from(peer.ip().to_string()).ok()) {
        headers.insert(FOR, address);
    }
    headers.insert(PROTO, HeaderValue::from_static("http"));
    if let Some(host) = headers.get(http::header::HOST).cloned() {
        headers.insert(HOST, host);
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::body::Body;

    #[test]
    fn claims_of_the_caller_are_replaced() {
        let mut request = http::Request::builder()
            .header("host", "shop.example:8080")
            .header("x-forwarded-for", "10.0.0.1")
            .header("x-forwarded-for", "10.0.0.2")
            .header("x-forwarded-proto", "https")
            .header("forwarded", "for=10.0.0.1")
            .header("x-real-ip", "10.0.0.1")
            .extension(Peer("192.0.2.7:5000".parse::<SocketAddr>().unwrap()))
            .body(Body::empty())
            .unwrap();
        add(&mut request);
        let headers = request.headers();
        assert_eq!(headers.get_all(FOR).iter().collect::<Vec<_>>(), ["192.0.2.7"]);
        assert_eq!(headers[PROTO], "http");
        assert_eq!(headers[HOST], "shop.example:8080");
        assert!(!headers.contains_key(FORWARDED) && !headers.contains_key("x-real-ip"));
    }
}
