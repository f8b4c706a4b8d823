//! The forms of names, as the API server checks them.
//!
//! By hand and not by regular expression: each is one line, and this crate stays small.

use std::ops::RangeInclusive;

/// Longest name of a Microservice: names made from it must stay below 63 characters.
pub(crate) const MICROSERVICE_NAME_MAX: usize = 50;
/// Longest name of a port: with the prefix `t-` it must stay below 16 characters.
pub(crate) const PORT_NAME_MAX: usize = 13;
/// Longest name of a label's kind (RFC 1123).
pub(crate) const LABEL_MAX: usize = 63;

/// Letters, digits and dashes, not starting or ending with a dash: a label of RFC 1123.
pub(crate) fn is_dns_label(text: &str, lengths: RangeInclusive<usize>) -> bool {
    lengths.contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// A label of RFC 1123 that starts with a letter, as names of Services do.
pub(crate) fn is_microservice_name(text: &str) -> bool {
    is_dns_label(text, 1..=MICROSERVICE_NAME_MAX) && text.starts_with(|c: char| c.is_ascii_lowercase())
}

/// Labels of RFC 1123 with dots between: most names of objects.
pub(crate) fn is_dns_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(|label| is_dns_label(label, 1..=253))
}

/// A service name of RFC 6335 that starts with a letter: letters, digits and single dashes.
pub(crate) fn is_port_name(text: &str) -> bool {
    is_dns_label(text, 1..=PORT_NAME_MAX)
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && !text.contains("--")
}

/// The name of an environment variable: printable ASCII without `=` (`IsRelaxedEnvVarName`).
pub(crate) fn is_environment_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| (0x20..0x7f).contains(&b) && b != b'=')
}

/// A key of a Secret or ConfigMap.
pub(crate) fn is_config_key(text: &str) -> bool {
    (1..=253).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        && text != "."
        && !text.starts_with("..")
}

/// The key of a label or annotation: an optional domain, a slash, a name.
pub(crate) fn is_qualified_name(text: &str) -> bool {
    match text.split_once('/') {
        Some((prefix, name)) => is_dns_subdomain(prefix) && is_label_text(name) && !name.is_empty(),
        None => is_label_text(text) && !text.is_empty(),
    }
}

/// The value of a label, which may be empty.
pub(crate) fn is_label_text(text: &str) -> bool {
    let edge = |c: char| c.is_ascii_alphanumeric();
    text.is_empty()
        || (text.len() <= LABEL_MAX
            && text.starts_with(edge)
            && text.ends_with(edge)
            && text
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.')))
}

/// Whether a container runtime can read the text as an image: lower-case path, optional tag and digest.
///
/// After `github.com/distribution/reference`, without its finer points: what this refuses, no runtime takes.
pub(crate) fn is_image(text: &str) -> bool {
    let (text, digest) = match text.split_once('@') {
        Some((text, digest)) => (text, Some(digest)),
        None => (text, None),
    };
    if digest.is_some_and(|digest| {
        digest.split_once(':').is_none_or(|(algorithm, hex)| {
            algorithm.is_empty() || hex.len() < 32 || !hex.bytes().all(|b| b.is_ascii_hexdigit())
        })
    }) {
        return false;
    }
    let last = text.rfind('/').map_or(0, |slash| slash + 1);
    let (path, tag) = match text[last..].split_once(':') {
        Some((name, tag)) => (&text[..last + name.len()], Some(tag)),
        None => (text, None),
    };
    if tag.is_some_and(|tag| {
        tag.is_empty()
            || tag.len() > 128
            || !tag
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
    }) {
        return false;
    }
    let path = match path.split_once('/') {
        Some((host, path)) if host.contains(['.', ':']) || host == "localhost" || is_upper(host) => path,
        _ => path,
    };
    path.split('/').all(|part| {
        part.starts_with(is_lower_alphanumeric)
            && part.ends_with(is_lower_alphanumeric)
            && part
                .chars()
                .all(|c| is_lower_alphanumeric(c) || matches!(c, '-' | '_' | '.'))
    })
}

fn is_upper(text: &str) -> bool {
    text.contains(|c: char| c.is_ascii_uppercase())
}

const fn is_lower_alphanumeric(c: char) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_what_a_runtime_can_read() {
        let digest = "a".repeat(64);
        for image in [
            "hello",
            "hello:1.0",
            "registry.example/shop/order:1.4.2",
            "localhost:5000/order",
            "localhost:5000/order:1",
            "trellis.local/user:0123456789ab",
            &format!("order@sha256:{digest}"),
            &format!("registry.example/order:1@sha256:{digest}"),
        ] {
            assert!(is_image(image), "{image} was refused");
        }
        for image in [
            "",
            "Order:1",
            "order:",
            "order: 1",
            "shop/Order",
            "order@sha256:12",
            "a//b",
            "https://x/y",
            ":1",
        ] {
            assert!(!is_image(image), "{image:?} was accepted");
        }
    }

    #[test]
    fn names_follow_their_rfc() {
        assert!(is_microservice_name("order-2"));
        for name in ["", "2order", "-order", "order-", "Order", "a.b", &"a".repeat(51)] {
            assert!(!is_microservice_name(name), "{name:?} was accepted");
        }
        assert!(is_port_name("http-2"));
        for name in ["", "a--b", "2http", "http-", "fourteen-chars"] {
            assert!(!is_port_name(name), "{name:?} was accepted");
        }
        assert!(is_qualified_name("example.org/team"));
        for name in ["", "/team", "example.org/", "a/b/c", "-team", "Example.org/team"] {
            assert!(!is_qualified_name(name), "{name:?} was accepted");
        }
    }
}
