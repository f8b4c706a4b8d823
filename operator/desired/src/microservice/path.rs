//! Paths of routes: matched by whole elements, a trailing slash makes no difference.

use trellis_proxy_config::path::{self, Ambiguity};

/// The path as it is compared and as the proxy gets it: without escapes that change nothing and without a trailing slash.
///
/// One that the proxy does not take stays as it is; such a path never gets into a document.
pub(super) fn normalise(path: &str) -> String {
    match path::canonical(path) {
        Ok(canonical) if path.starts_with('/') => canonical,
        _ => path.to_owned(),
    }
}

/// What is wrong with a route's path, and the fix.
pub(super) fn fault(path: &str) -> Option<&'static str> {
    if !path.starts_with('/') {
        Some("does not start with '/': write it as /orders")
    } else if path.contains(['?', '#']) {
        Some("has a query or fragment, which no route can match: write the path alone")
    } else if path.contains(|c: char| c.is_whitespace() || c.is_control()) {
        Some("has a space or control character: percent-encode it")
    } else {
        path::check(path).err().map(|ambiguity| match ambiguity {
            Ambiguity::EmptyElement => "has an empty element: write single slashes",
            Ambiguity::DotElement => {
                "has an element '.' or '..', which clients resolve before they ask: write the resolved path"
            }
            Ambiguity::EscapedSlash => {
                "has an escaped slash or a backslash, which servers read in two ways: such values belong in the query"
            }
            Ambiguity::BadEscape => "has a '%' without two hexadecimal digits, or %00: percent-encode the character",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trailing_slash_makes_no_difference() {
        assert_eq!(normalise("/orders/"), "/orders");
        assert_eq!(normalise("/"), "/");
        assert_eq!(normalise("/a/b"), "/a/b");
        assert_eq!(normalise("/%61/b"), "/a/b");
    }

    #[test]
    fn a_path_that_no_request_has_is_a_fault() {
        for path in [
            "orders",
            "",
            "/a?b",
            "/a#b",
            "/a b",
            "/a//b",
            "/a/../b",
            "/.",
            "/a%2fb",
            "/a\\b",
            "/a%zz",
            "/a%00",
            "/%2e%2e/a",
            "/..;x/a",
        ] {
            assert!(fault(path).is_some(), "{path:?} was accepted");
        }
        for path in ["/", "/orders", "/orders/", "/a.b/%20/~c"] {
            assert_eq!(fault(path), None, "{path:?}");
        }
    }
}
