//! Who made a request in the first place, and what the next hop is told about it.
//!
//! | direction | peer | client | fields that say so |
//! |---|---|---|---|
//! | gateway | anybody | the peer | replaced |
//! | inbound | a gateway that serves this service and is trusted | as the gateway says | kept |
//! | inbound | anybody else, as an app of the mesh | the peer | replaced |
//! | outbound | the app in the same pod | the peer | kept: the proxy at the other end decides what it believes |
//!
//! "Replaced" is what Envoy does at an untrusted edge: whatever a caller says about itself in these fields is dropped, or
//! anyone could choose the address that limits and logs see. A gateway is known by the address of its connection, which
//! no other pod can take while the gateway's lives. Which gateways are believed is in the document: those of the same
//! namespace, and of namespaces that the operator was told to trust. What this does not protect against: whoever may
//! create pods in a believed gateway's namespace, since one with the gateway's labels counts as a pod of it; and a node
//! that forges packets.

use std::net::IpAddr;

use http::{HeaderMap, HeaderName, HeaderValue, header::FORWARDED};

use crate::{body::Request, connection::Peer};

const FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// All that a caller may say about itself.
const CLAIMS: [HeaderName; 9] = [
    FOR,
    HOST,
    PROTO,
    FORWARDED,
    HeaderName::from_static("x-forwarded-port"),
    HeaderName::from_static("x-forwarded-prefix"),
    HeaderName::from_static("x-forwarded-server"),
    HeaderName::from_static("x-real-ip"),
    HeaderName::from_static("x-client-ip"),
];

/// Who made a request in the first place, as far as the proxy knows. Travels in the request's extensions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Client {
    /// The address for logs, limits and the like.
    pub(crate) address: IpAddr,
    /// A gateway says so, so its fields stay.
    vouched: bool,
}

/// Notes the client. `believes` says whether the word of a peer is taken.
pub(crate) fn identify(request: &mut Request, believes: impl FnOnce(IpAddr) -> bool) {
    let Some(peer) = request.extensions().get::<Peer>().map(|peer| peer.address.ip()) else {
        return;
    };
    let vouched = believes(peer);
    let address = if vouched {
        told(request.headers()).unwrap_or(peer)
    } else {
        peer
    };
    request.extensions_mut().insert(Client { address, vouched });
}

/// Replaces the caller's claims by what the proxy knows, unless a gateway vouches for them.
pub(crate) fn replace(request: &mut Request) {
    let extensions = request.extensions();
    if extensions.get::<Client>().is_some_and(|client| client.vouched) {
        return;
    }
    let peer = extensions.get::<Peer>().and_then(|peer| peer.text.clone());
    let headers = request.headers_mut();
    // To look at the names that are there is cheaper than to look for those that mostly are not.
    if headers.keys().any(is_claim) {
        for claim in &CLAIMS {
            headers.remove(claim);
        }
    }
    if let Some(peer) = peer {
        headers.insert(FOR, peer);
    }
    headers.insert(PROTO, HeaderValue::from_static("http"));
    if let Some(host) = headers.get(http::header::HOST).cloned() {
        headers.insert(HOST, host);
    }
}

fn is_claim(name: &HeaderName) -> bool {
    CLAIMS.contains(name)
}

/// The address that the last hop added: those before it are its callers' own words.
fn told(headers: &HeaderMap) -> Option<IpAddr> {
    let last = headers.get_all(FOR).iter().next_back()?.to_str().ok()?;
    let address: IpAddr = last.rsplit(',').next()?.trim().parse().ok()?;
    Some(address.to_canonical())
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::body::Body;

    const PEER: &str = "192.0.2.7";

    fn request(fields: &[(&str, &str)]) -> Request {
        let mut builder = http::Request::builder()
            .header("host", "shop.example:8080")
            .extension(Peer::new(SocketAddr::new(PEER.parse().unwrap(), 5000)));
        for (name, value) in fields {
            builder = builder.header(*name, *value);
        }
        builder.body(Body::empty()).unwrap()
    }

    fn client(request: &Request) -> String {
        request.extensions().get::<Client>().unwrap().address.to_string()
    }

    const CLAIMED: [(&str, &str); 7] = [
        ("x-forwarded-for", "10.0.0.1"),
        ("x-forwarded-for", "10.0.0.2"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "evil"),
        ("x-forwarded-prefix", "/evil"),
        ("forwarded", "for=10.0.0.1"),
        ("x-real-ip", "10.0.0.1"),
    ];

    #[test]
    fn claims_of_a_peer_that_is_not_believed_are_replaced() {
        let mut request = request(&CLAIMED);
        identify(&mut request, |_| false);
        assert_eq!(client(&request), PEER);
        replace(&mut request);
        let headers = request.headers();
        assert_eq!(headers.get_all(FOR).iter().collect::<Vec<_>>(), [PEER]);
        assert_eq!(headers[PROTO], "http");
        assert_eq!(headers[HOST], "shop.example:8080");
        for gone in ["forwarded", "x-real-ip", "x-forwarded-prefix"] {
            assert!(!headers.contains_key(gone), "{gone}");
        }
    }

    #[test]
    fn claims_of_a_gateway_stay_and_the_last_address_is_the_clients() {
        let mut request = request(&CLAIMED);
        identify(&mut request, |peer| peer.to_string() == PEER);
        assert_eq!(client(&request), "10.0.0.2");
        let before = request.headers().clone();
        replace(&mut request);
        assert_eq!(*request.headers(), before);
    }

    #[test]
    fn what_is_no_address_is_not_believed_of_a_gateway_either() {
        for (value, expected) in [
            ("198.51.100.1", "198.51.100.1"),
            ("10.9.9.9, 198.51.100.1", "198.51.100.1"),
            ("::ffff:198.51.100.1", "198.51.100.1"),
            ("2001:db8::1", "2001:db8::1"),
            ("unknown", PEER),
            ("198.51.100.1, ", PEER),
            ("", PEER),
        ] {
            let mut request = request(&[("x-forwarded-for", value)]);
            identify(&mut request, |_| true);
            assert_eq!(client(&request), expected, "{value}");
        }
    }
}
