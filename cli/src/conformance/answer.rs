//! Answers, as the engine reads them.

use std::time::Duration;

use http::{StatusCode, header, response::Parts};
use hyper::body::Bytes;
use serde::Serialize;
use serde_json::Value;

/// On an answer that a proxy made, and not the participant.
const MADE_BY_PROXY: &str = "x-trellis-origin";

/// An answer, as the engine reads it.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    /// What the engine takes it for.
    pub reading: Reading,
    /// None: there was no answer in time.
    pub status: Option<u16>,
    /// The body, as JSON or as text.
    pub body: Value,
    /// How often it was asked for, answers that may pass included.
    pub tries: u32,
    /// Whether it was fetched at the `Location` of a 202.
    pub was_pending: bool,
}

/// What the engine takes an answer for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reading {
    /// 2xx.
    Done,
    /// 202 with `Location`, and no other answer there until the end of the time.
    Pending,
    /// 408, 425, 429, 5xx or none, until the end of the time.
    Again,
    /// Anything else: refused for good.
    Refused,
}

/// What came for one request, and what to do about it.
pub struct Reply {
    /// The answer.
    pub answer: Answer,
    /// Where to ask how far it is.
    pub location: Option<String>,
    /// How long to wait before the next try.
    pub after: Option<Duration>,
}

impl Reply {
    /// None came.
    pub fn none(why: &str) -> Self {
        Self {
            answer: Answer {
                reading: Reading::Again,
                status: None,
                body: why.into(),
                tries: 1,
                was_pending: false,
            },
            location: None,
            after: None,
        }
    }

    /// What came, read to its end as far as it can be.
    pub fn read(head: &Parts, body: &Result<Bytes, String>) -> Self {
        let status = head.status;
        let text = |name| head.headers.get(name).and_then(|value| value.to_str().ok());
        let location = text(header::LOCATION).filter(|_| status == StatusCode::ACCEPTED);
        let may_pass = status.is_server_error()
            || [
                StatusCode::REQUEST_TIMEOUT,
                StatusCode::TOO_EARLY,
                StatusCode::TOO_MANY_REQUESTS,
            ]
            .contains(&status);
        let is_text = body.as_ref().is_ok_and(|body| str::from_utf8(body).is_ok());
        let reading = if head.headers.contains_key(MADE_BY_PROXY) || body.is_err() || may_pass {
            Reading::Again
        } else if location.is_some() {
            Reading::Pending
        } else if status.is_success() {
            if is_text { Reading::Done } else { Reading::Again }
        } else {
            Reading::Refused
        };
        let seconds = text(header::RETRY_AFTER).and_then(|text| text.trim().parse().ok());
        Self {
            answer: Answer {
                reading,
                status: Some(status.as_u16()),
                body: body
                    .as_ref()
                    .map_or_else(|error| error.clone().into(), |body| json(body)),
                tries: 1,
                was_pending: false,
            },
            location: location
                .filter(|_| reading == Reading::Pending)
                .map(str::to_owned),
            after: seconds.map(Duration::from_secs),
        }
    }
}

/// JSON, or the text that it is; null for none.
pub fn json(body: &[u8]) -> Value {
    if body.is_empty() {
        return Value::Null;
    }
    serde_json::from_slice(body).unwrap_or_else(|_| String::from_utf8_lossy(body).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(status: u16, headers: &[(&str, &str)]) -> Reply {
        let response = headers.iter().fold(
            http::Response::builder().status(status),
            |response, (name, value)| response.header(*name, *value),
        );
        Reply::read(&response.body(()).unwrap().into_parts().0, &Ok("{}".into()))
    }

    #[test]
    fn an_answer_is_read_as_the_engine_reads_it() {
        for (status, reading) in [
            (200, Reading::Done),
            (202, Reading::Done),
            (204, Reading::Done),
            (302, Reading::Refused),
            (404, Reading::Refused),
            (408, Reading::Again),
            (409, Reading::Refused),
            (425, Reading::Again),
            (429, Reading::Again),
            (503, Reading::Again),
        ] {
            assert_eq!(of(status, &[]).answer.reading, reading, "{status}");
        }
        let pending = of(202, &[("location", "/jobs/1"), ("retry-after", "3")]);
        assert_eq!(
            (pending.answer.reading, pending.location.as_deref(), pending.after),
            (Reading::Pending, Some("/jobs/1"), Some(Duration::from_secs(3)))
        );
        assert_eq!(
            of(404, &[(MADE_BY_PROXY, "proxy")]).answer.reading,
            Reading::Again
        );
    }
}
