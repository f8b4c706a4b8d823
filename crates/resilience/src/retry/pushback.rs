//! When a server would like to be asked again.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderName, header::RETRY_AFTER};

use crate::outcome::Pushback;

/// gRPC's word for it: milliseconds, negative for "not at all" (gRFC A6).
pub const GRPC_PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");

/// Reads `Retry-After` (seconds or a date, RFC 9110 10.2.3) and gRPC's pushback, which wins. What cannot be read is not
/// there, but for gRPC's, where gRFC A6 reads it as "not at all".
#[must_use]
pub fn read(headers: &HeaderMap, now: SystemTime) -> Option<Pushback> {
    if let Some(value) = headers.get(GRPC_PUSHBACK) {
        let millis = value.to_str().ok().and_then(|text| text.parse().ok());
        return Some(millis.map_or(Pushback::Never, |millis| {
            Pushback::After(Duration::from_millis(millis))
        }));
    }
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let after = if text.bytes().all(|byte| byte.is_ascii_digit()) {
        Duration::from_secs(text.parse().ok()?)
    } else {
        let date = httpdate::parse_http_date(text).ok()?;
        date.duration_since(now).unwrap_or_default()
    };
    Some(Pushback::After(after))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn seconds_dates_and_milliseconds_are_read() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777 - 7); // Sun, 06 Nov 1994 08:49:30 GMT
        for (retry_after, grpc, expected) in [
            (Some("3"), None, Some(Pushback::After(Duration::from_secs(3)))),
            (
                Some("Sun, 06 Nov 1994 08:49:37 GMT"),
                None,
                Some(Pushback::After(Duration::from_secs(7))),
            ),
            (
                Some("Sun, 06 Nov 1994 08:49:00 GMT"),
                None,
                Some(Pushback::After(Duration::ZERO)),
            ),
            (Some("soon"), None, None),
            (Some("-1"), None, None),
            (Some("99999999999999999999999"), None, None),
            (
                Some("3"),
                Some("20"),
                Some(Pushback::After(Duration::from_millis(20))),
            ),
            (None, Some("-1"), Some(Pushback::Never)),
            (None, Some("later"), Some(Pushback::Never)),
            (None, None, None),
        ] {
            let mut headers = HeaderMap::new();
            for (name, value) in [(RETRY_AFTER, retry_after), (GRPC_PUSHBACK, grpc)] {
                if let Some(value) = value {
                    headers.insert(name, HeaderValue::from_static(value));
                }
            }
            assert_eq!(read(&headers, now), expected, "{retry_after:?} {grpc:?}");
        }
    }
}
