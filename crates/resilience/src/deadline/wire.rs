//! How a deadline travels: what the caller still has, as a relative time.
//!
//! - `trellis-deadline-ms`: whole milliseconds, between proxies and for services that care;
//! - `grpc-timeout`: gRPC's own, at most eight digits and a unit (`H` `M` `S` `m` `u` `n`). It is written for gRPC only.
//!
//! Both may be there (a gRPC call over two proxies); the shorter holds. One that cannot be read counts as not there, as in
//! Envoy and in the gRPC libraries: refusing a request for a hint would be worse.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

use super::Call;

/// The time left, in milliseconds.
pub const DEADLINE: HeaderName = HeaderName::from_static("trellis-deadline-ms");
/// gRPC's time left.
pub const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

const UNITS: [(u8, u128); 6] = [
    (b'n', 1),
    (b'u', 1_000),
    (b'm', 1_000_000),
    (b'S', 1_000_000_000),
    (b'M', 60_000_000_000),
    (b'H', 3_600_000_000_000),
];
const MOST_DIGITS: u128 = 99_999_999;

/// What the caller has left, by its headers. `grpc-timeout` is gRPC's word and nobody else's.
#[must_use]
pub fn read(headers: &HeaderMap) -> Option<Duration> {
    let own = headers
        .get(DEADLINE)
        .and_then(|value| parse_millis(value.as_bytes()));
    let grpc = headers
        .get(GRPC_TIMEOUT)
        .filter(|_| Call::of(headers) == Call::Grpc)
        .and_then(|value| parse_grpc(value.as_bytes()));
    match (own, grpc) {
        (Some(own), Some(grpc)) => Some(own.min(grpc)),
        (own, grpc) => own.or(grpc),
    }
}

/// Tells the next hop what is left; none: nothing is said, and what the caller said is taken away.
pub fn write(headers: &mut HeaderMap, call: Call, left: Option<Duration>) {
    let Some(left) = left else {
        headers.remove(DEADLINE);
        headers.remove(GRPC_TIMEOUT);
        return;
    };
    let millis = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
    headers.insert(DEADLINE, HeaderValue::from(millis));
    match call {
        Call::Grpc => headers.insert(GRPC_TIMEOUT, format_grpc(left)),
        Call::Http => headers.remove(GRPC_TIMEOUT),
    };
}

fn parse_millis(text: &[u8]) -> Option<Duration> {
    digits(text, 19).map(Duration::from_millis)
}

/// Reads a value of `grpc-timeout`.
#[must_use]
pub fn parse_grpc(text: &[u8]) -> Option<Duration> {
    let (unit, number) = text.split_last()?;
    let (_, nanos) = UNITS.iter().find(|(name, _)| name == unit)?;
    // Eight digits of hours are below 2^64 seconds.
    let total = u128::from(digits(number, 8)?) * nanos;
    let seconds = u64::try_from(total / 1_000_000_000).ok()?;
    let rest = u32::try_from(total % 1_000_000_000).ok()?;
    Some(Duration::new(seconds, rest))
}

/// Writes a value of `grpc-timeout`: the finest unit that has room, rounded down, and never zero, which is no valid value.
#[must_use]
pub fn format_grpc(left: Duration) -> HeaderValue {
    let nanos = left.as_nanos().max(1);
    let (unit, number) = UNITS
        .iter()
        .map(|(unit, length)| (*unit, nanos / length))
        .find(|(_, number)| *number <= MOST_DIGITS)
        .unwrap_or((b'H', MOST_DIGITS));
    let text = format!("{number}{}", char::from(unit));
    // Digits and a letter always make a value.
    HeaderValue::from_str(&text).unwrap_or(const { HeaderValue::from_static("1n") })
}

fn digits(text: &[u8], most: usize) -> Option<u64> {
    let sound = !text.is_empty() && text.len() <= most && text.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(text)
        .ok()
        .filter(|_| sound)
        .and_then(|text| text.parse().ok())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn grpc_timeouts_are_read_as_the_specification_has_them() {
        for (text, nanos) in [
            ("1H", Some(3_600_000_000_000)),
            ("2M", Some(120_000_000_000)),
            ("3S", Some(3_000_000_000)),
            ("100m", Some(100_000_000)),
            ("5u", Some(5_000)),
            ("99999999n", Some(99_999_999)),
            ("0m", Some(0)),
            ("99999999H", Some(359_999_996_400_000_000_000)),
            ("", None),
            ("S", None),
            ("1", None),
            ("1s", None),
            ("+1S", None),
            ("-1S", None),
            ("1.5S", None),
            ("123456789n", None),
            ("1 S", None),
        ] {
            let read = parse_grpc(text.as_bytes()).map(|duration| duration.as_nanos());
            assert_eq!(read, nanos, "{text:?}");
        }
    }

    #[test]
    fn the_shorter_of_the_two_headers_holds_and_one_that_cannot_be_read_is_not_there() {
        for (own, grpc, millis) in [
            (Some("250"), None, Some(250)),
            (Some("250"), Some("1S"), Some(250)),
            (Some("2500"), Some("1S"), Some(1000)),
            (Some("soon"), Some("1S"), Some(1000)),
            (Some("-5"), None, None),
            (Some("99999999999999999999"), None, None),
            (None, None, None),
        ] {
            let mut headers = HeaderMap::from_iter([(
                http::header::CONTENT_TYPE,
                HeaderValue::from_static("application/grpc"),
            )]);
            for (name, value) in [(DEADLINE, own), (GRPC_TIMEOUT, grpc)] {
                if let Some(value) = value {
                    headers.insert(name, HeaderValue::from_static(value));
                }
            }
            assert_eq!(
                read(&headers),
                millis.map(Duration::from_millis),
                "{own:?} {grpc:?}"
            );
            headers.remove(http::header::CONTENT_TYPE);
            let own = own.and_then(|own| parse_millis(own.as_bytes()));
            assert_eq!(read(&headers), own, "a request that is not gRPC");
        }
    }

    #[test]
    fn what_is_written_is_what_is_left_and_the_callers_own_word_goes() {
        let mut headers = HeaderMap::new();
        headers.insert(GRPC_TIMEOUT, HeaderValue::from_static("9H"));
        write(&mut headers, Call::Http, Some(Duration::from_micros(1_999)));
        assert_eq!(headers[DEADLINE], "1");
        assert!(!headers.contains_key(GRPC_TIMEOUT));
        write(&mut headers, Call::Grpc, Some(Duration::from_secs(2)));
        assert_eq!(headers[GRPC_TIMEOUT], "2000000u");
        write(&mut headers, Call::Grpc, None);
        assert!(headers.is_empty());
    }

    proptest! {
        #[test]
        fn a_written_grpc_timeout_is_valid_never_longer_and_loses_little(nanos in 1..u64::MAX) {
            let left = Duration::from_nanos(nanos);
            let text = format_grpc(left);
            let read = parse_grpc(text.as_bytes()).expect("valid");
            prop_assert!(read <= left && read > Duration::ZERO);
            prop_assert!((left - read).as_nanos() * 1_000_000 <= left.as_nanos());
        }
    }
}
