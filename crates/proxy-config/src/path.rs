//! Paths as a gateway reads them: whole elements, and no path that two readers could read in two ways.
//!
//! One rule for the paths of requests, which the proxy reads, and for those of routes, which the operator accepts: a route
//! that no request could take would otherwise make a document that no proxy takes.
//!
//! A gateway decides by path who gets a request, and policies will be attached to that decision. A path that the gateway
//! and the service read differently is a way round both, so such a path is refused instead of being repaired:
//!
//! | in the path | why it is refused |
//! |---|---|
//! | `//` | many servers merge slashes: `/order//admin` becomes `/order/admin` behind the gateway |
//! | `.` or `..` as an element, also as `%2e`, also before `;` | servers resolve them: `/order/../user` becomes `/user` |
//! | `%2f`, `%5c`, `\` | decoded before or after splitting into elements? |
//! | `%00`, a `%` without two hex digits | ends strings, or is decoded by guess |
//!
//! Escapes of harmless characters are decoded for matching (`/%6frders` is `/orders`, RFC 3986 6.2.2.2). What is forwarded
//! are always the bytes that came.

use std::borrow::Cow;

/// Why a path is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ambiguity {
    /// `//`.
    EmptyElement,
    /// `.` or `..`.
    DotElement,
    /// A slash or backslash that is escaped, or a backslash.
    EscapedSlash,
    /// An escape that is none, or of NUL.
    BadEscape,
}

impl Ambiguity {
    /// What the caller is told.
    #[must_use]
    pub const fn detail(self) -> &'static str {
        match self {
            Self::EmptyElement => "the path contains an empty element (//); write a single slash",
            Self::DotElement => "the path contains . or .. as an element; resolve it before sending",
            Self::EscapedSlash => {
                "the path contains an escaped slash or a backslash; pass such values in the query"
            }
            Self::BadEscape => "the path contains % without two hexadecimal digits, or %00",
        }
    }
}

/// The elements of a path, decoded. A trailing slash makes no element.
///
/// # Errors
/// In the iterator: the element is one that another reader could read in another way.
pub fn elements(path: &str) -> impl Iterator<Item = Result<Cow<'_, str>, Ambiguity>> {
    let inner = path.strip_prefix('/').unwrap_or(path);
    let inner = inner.strip_suffix('/').unwrap_or(inner);
    // `/` has no elements, not one that is empty; but `//` has.
    let none = path.len() <= 1;
    inner.split('/').filter(move |_| !none).map(element)
}

fn element(raw: &str) -> Result<Cow<'_, str>, Ambiguity> {
    if raw.is_empty() {
        return Err(Ambiguity::EmptyElement);
    }
    if raw.contains('\\') {
        return Err(Ambiguity::EscapedSlash);
    }
    let decoded = if raw.contains('%') {
        Cow::Owned(decode(raw)?)
    } else {
        Cow::Borrowed(raw)
    };
    // `..;x` is `..` to servers that know path parameters.
    let name = decoded.split(';').next().unwrap_or_default();
    if name == "." || name == ".." {
        return Err(Ambiguity::DotElement);
    }
    Ok(decoded)
}

/// Decodes escapes of printable ASCII; others stay as they are, in upper case.
fn decode(raw: &str) -> Result<String, Ambiguity> {
    let mut decoded = String::with_capacity(raw.len());
    let mut rest = raw;
    while let Some(at) = rest.find('%') {
        decoded.push_str(&rest[..at]);
        let digits = rest.get(at + 1..at + 3).ok_or(Ambiguity::BadEscape)?;
        let is_hex = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        let byte = u8::from_str_radix(digits, 16)
            .ok()
            .filter(|_| is_hex)
            .ok_or(Ambiguity::BadEscape)?;
        match byte {
            0 => return Err(Ambiguity::BadEscape),
            b'/' | b'\\' => return Err(Ambiguity::EscapedSlash),
            b'%' | 0x01..=0x1f | 0x7f.. => {
                decoded.push('%');
                decoded.push_str(&digits.to_ascii_uppercase());
            }
            _ => decoded.push(char::from(byte)),
        }
        rest = &rest[at + 3..];
    }
    decoded.push_str(rest);
    Ok(decoded)
}

/// Whether a route may have this path.
///
/// # Errors
/// Why not.
pub fn check(path: &str) -> Result<(), Ambiguity> {
    elements(path).try_for_each(|element| element.map(drop))
}

/// The path as it is matched: two routes whose paths read alike here take the same requests.
///
/// # Errors
/// Why no route may have this path.
pub fn canonical(path: &str) -> Result<String, Ambiguity> {
    let mut canonical = String::with_capacity(path.len());
    for element in elements(path) {
        canonical.push('/');
        canonical.push_str(&element?);
    }
    Ok(if canonical.is_empty() {
        "/".to_owned()
    } else {
        canonical
    })
}

/// The path in two: its first `count` elements, and what is left after a prefix of so many was matched. What is left
/// begins with a slash.
#[must_use]
pub fn split(path: &str, count: usize) -> (&str, &str) {
    let mut rest = path;
    for _ in 0..count {
        rest = rest
            .get(1..)
            .and_then(|inner| inner.find('/').map(|at| &inner[at..]))
            .unwrap_or_default();
    }
    let prefix = &path[..path.len() - rest.len()];
    (prefix, if rest.is_empty() { "/" } else { rest })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(path: &str) -> Result<Vec<String>, Ambiguity> {
        elements(path)
            .map(|element| element.map(Cow::into_owned))
            .collect()
    }

    #[test]
    fn elements_are_whole_decoded_and_a_trailing_slash_makes_none() {
        assert_eq!(read("/").unwrap(), Vec::<String>::new());
        assert_eq!(read("/orders").unwrap(), ["orders"]);
        assert_eq!(read("/orders/").unwrap(), ["orders"]);
        assert_eq!(read("/%6Frders/a%20b/c%2Bd").unwrap(), ["orders", "a b", "c+d"]);
        assert_eq!(read("/caf%c3%a9").unwrap(), ["caf%C3%A9"]);
        assert_eq!(read("/100%25").unwrap(), ["100%25"]);
        assert_eq!(read("/...").unwrap(), ["..."]);
        assert_eq!(read("/.well-known/a;v=1").unwrap(), [".well-known", "a;v=1"]);
    }

    #[test]
    fn paths_with_two_readings_are_refused() {
        for (path, why) in [
            ("//", Ambiguity::EmptyElement),
            ("//orders", Ambiguity::EmptyElement),
            ("/orders//7", Ambiguity::EmptyElement),
            ("/orders//", Ambiguity::EmptyElement),
            ("/./orders", Ambiguity::DotElement),
            ("/order/../user", Ambiguity::DotElement),
            ("/order/..", Ambiguity::DotElement),
            ("/order/%2e%2E/user", Ambiguity::DotElement),
            ("/order/.%2e/user", Ambiguity::DotElement),
            ("/order/..;/user", Ambiguity::DotElement),
            ("/order/..;a=b/user", Ambiguity::DotElement),
            ("/order%2fadmin", Ambiguity::EscapedSlash),
            ("/order%2Fadmin", Ambiguity::EscapedSlash),
            ("/order%5cadmin", Ambiguity::EscapedSlash),
            ("/order\\admin", Ambiguity::EscapedSlash),
            ("/order/%00", Ambiguity::BadEscape),
            ("/order/%", Ambiguity::BadEscape),
            ("/order/%2", Ambiguity::BadEscape),
            ("/order/%zz", Ambiguity::BadEscape),
            ("/order/%+1", Ambiguity::BadEscape),
        ] {
            assert_eq!(read(path), Err(why), "{path}");
        }
    }

    #[test]
    fn double_escapes_are_not_decoded_twice() {
        assert_eq!(
            read("/order/%252e%252e/user").unwrap(),
            ["order", "%252e%252e", "user"]
        );
    }

    #[test]
    fn what_takes_the_same_requests_reads_alike_and_stays_so() {
        for (path, expected) in [
            ("/", "/"),
            ("/orders/", "/orders"),
            ("/%6frders", "/orders"),
            ("/a%20b/c", "/a b/c"),
            ("/caf%c3%a9", "/caf%C3%A9"),
            ("/%2541", "/%2541"),
        ] {
            assert_eq!(canonical(path).unwrap(), expected, "{path}");
            assert_eq!(canonical(expected).unwrap(), expected, "{path}");
        }
        assert_eq!(canonical("/a%2fb"), Err(Ambiguity::EscapedSlash));
    }

    #[test]
    fn a_prefix_and_what_is_left_after_it_keep_their_bytes() {
        assert_eq!(split("/order/orders/7", 1), ("/order", "/orders/7"));
        assert_eq!(split("/%6frder/a%20b/", 1), ("/%6frder", "/a%20b/"));
        assert_eq!(split("/order/", 1), ("/order", "/"));
        assert_eq!(split("/order", 1), ("/order", "/"));
        assert_eq!(split("/a/b/c", 2), ("/a/b", "/c"));
        assert_eq!(split("/a", 0), ("", "/a"));
    }
}
