//! What became of a try or of a request, in the words that every policy decides by.

use std::time::Duration;

use http::StatusCode;
use serde::{Deserialize, Serialize};

/// How a try, or a request as a whole, ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// There is a response.
    Answered(Answer),
    /// No connection; nothing was sent.
    ConnectFailed,
    /// The connection broke before a response; the request may have been acted on.
    Broken,
    /// No response in time; the request may have been acted on.
    Timeout,
    /// A policy of ours did not let it go on. Not a try: nothing was sent.
    Refused(Refusal),
    /// The request itself is at fault, or its caller stopped sending: it says nothing about the target, and is not worth
    /// another try.
    OfCaller,
}

/// A response, as far as policies care.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// The status of HTTP.
    pub status: StatusCode,
    /// `grpc-status`, if the response's head has it (a trailers-only response).
    pub grpc: Option<GrpcCode>,
    /// When the server would like to be asked again.
    pub pushback: Option<Pushback>,
}

/// What a server says about asking again: `Retry-After`, or gRPC's `grpc-retry-pushback-ms`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushback {
    /// Not before so long.
    After(Duration),
    /// Not at all (a negative `grpc-retry-pushback-ms`).
    Never,
}

/// Which policy refused; a label of metrics and logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Refusal {
    /// The breaker is open.
    BreakerOpen,
    /// As many requests as may are under way and waiting.
    BulkheadFull,
    /// No place came free in time.
    BulkheadTimeout,
    /// There is no endpoint.
    NoEndpoints,
}

/// What a try says about the health of its target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// It answered, be it that the request was wrong (4xx).
    Success,
    /// It did not, or with 5xx.
    Failure,
    /// Nothing: the caller went away, or the try was never sent.
    Unknown,
}

/// Status codes of gRPC (`google/rpc/code.proto`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[repr(u8)]
#[allow(missing_docs)] // the names are the specification's
pub enum GrpcCode {
    Ok = 0,
    Cancelled = 1,
    Unknown = 2,
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    NotFound = 5,
    AlreadyExists = 6,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    FailedPrecondition = 9,
    Aborted = 10,
    OutOfRange = 11,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
    DataLoss = 15,
    Unauthenticated = 16,
}

impl Outcome {
    /// What it says about its target. 5xx fail and 4xx do not; gRPC codes likewise, by the HTTP status that
    /// `google/rpc/code.proto` gives them, but for `UNIMPLEMENTED`: a caller that asks for what there is not. "Unavailable"
    /// that says when to come back says nothing: whoever answers so is alive, and tells of somebody behind it.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        match self {
            Self::Answered(answer) => answer.verdict(),
            Self::ConnectFailed | Self::Broken | Self::Timeout => Verdict::Failure,
            Self::Refused(_) | Self::OfCaller => Verdict::Unknown,
        }
    }
}

impl Answer {
    fn verdict(&self) -> Verdict {
        let unavailable =
            self.status == StatusCode::SERVICE_UNAVAILABLE || self.grpc == Some(GrpcCode::Unavailable);
        if unavailable && matches!(self.pushback, Some(Pushback::After(_))) {
            return Verdict::Unknown;
        }
        let failed = self.status.is_server_error()
            || matches!(
                self.grpc,
                Some(
                    GrpcCode::Unknown
                        | GrpcCode::DeadlineExceeded
                        | GrpcCode::Internal
                        | GrpcCode::Unavailable
                        | GrpcCode::DataLoss
                )
            );
        if failed {
            Verdict::Failure
        } else {
            Verdict::Success
        }
    }
}

impl Refusal {
    /// The label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BreakerOpen => "breaker_open",
            Self::BulkheadFull => "bulkhead_full",
            Self::BulkheadTimeout => "bulkhead_timeout",
            Self::NoEndpoints => "no_endpoints",
        }
    }
}

impl GrpcCode {
    const ALL: [Self; 17] = [
        Self::Ok,
        Self::Cancelled,
        Self::Unknown,
        Self::InvalidArgument,
        Self::DeadlineExceeded,
        Self::NotFound,
        Self::AlreadyExists,
        Self::PermissionDenied,
        Self::ResourceExhausted,
        Self::FailedPrecondition,
        Self::Aborted,
        Self::OutOfRange,
        Self::Unimplemented,
        Self::Internal,
        Self::Unavailable,
        Self::DataLoss,
        Self::Unauthenticated,
    ];

    /// The code with this number. Others are `UNKNOWN`, as gRPC libraries read them.
    #[must_use]
    pub fn from_number(number: u32) -> Self {
        usize::try_from(number)
            .ok()
            .and_then(|number| Self::ALL.get(number).copied())
            .unwrap_or(Self::Unknown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(status: u16, grpc: Option<GrpcCode>) -> Outcome {
        Outcome::Answered(Answer {
            status: StatusCode::from_u16(status).unwrap(),
            grpc,
            pushback: None,
        })
    }

    #[test]
    fn five_hundreds_fail_and_four_hundreds_do_not() {
        for (status, grpc, verdict) in [
            (200, None, Verdict::Success),
            (404, None, Verdict::Success),
            (429, None, Verdict::Success),
            (500, None, Verdict::Failure),
            (503, None, Verdict::Failure),
            (200, Some(GrpcCode::Ok), Verdict::Success),
            (200, Some(GrpcCode::NotFound), Verdict::Success),
            (200, Some(GrpcCode::ResourceExhausted), Verdict::Success),
            (200, Some(GrpcCode::Unimplemented), Verdict::Success),
            (200, Some(GrpcCode::Unavailable), Verdict::Failure),
            (200, Some(GrpcCode::Unknown), Verdict::Failure),
        ] {
            assert_eq!(answered(status, grpc).verdict(), verdict, "{status} {grpc:?}");
        }
        assert_eq!(Outcome::Refused(Refusal::BreakerOpen).verdict(), Verdict::Unknown);
    }

    #[test]
    fn who_says_when_to_come_back_is_alive() {
        let after = Some(Pushback::After(Duration::from_secs(1)));
        for (status, grpc, pushback, verdict) in [
            (503, None, after, Verdict::Unknown),
            (200, Some(GrpcCode::Unavailable), after, Verdict::Unknown),
            (503, None, Some(Pushback::Never), Verdict::Failure),
            (500, None, after, Verdict::Failure),
            (502, None, after, Verdict::Failure),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            let answer = Answer {
                status,
                grpc,
                pushback,
            };
            assert_eq!(Outcome::Answered(answer).verdict(), verdict, "{answer:?}");
        }
    }

    #[test]
    fn codes_have_their_numbers_and_others_are_unknown() {
        for (number, code) in GrpcCode::ALL.into_iter().enumerate() {
            assert_eq!(code as usize, number);
            assert_eq!(GrpcCode::from_number(number as u32), code);
        }
        assert_eq!(GrpcCode::from_number(17), GrpcCode::Unknown);
    }
}
