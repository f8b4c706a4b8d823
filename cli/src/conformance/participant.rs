//! The way to a participant: requests as the engine sends them, answers as it reads them.
//!
//! An answer that may pass is tried again, with the next number of the try, and 202 with `Location` is asked how far it is: both until the
//! time for one call is over. A participant that is away is an error at once.

use std::{sync::Arc, time::Duration};

use http::{HeaderName, Method, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::Value;
use tokio::{
    task::JoinSet,
    time::{self, Instant},
};

use super::{
    answer::{Answer, Reading, Reply, json},
    case::{Op, Play, Played},
    state::State,
    target::{self, Request, StateTemplate, Target},
};

/// Largest answer that the engine reads.
const MAX_BODY: usize = 256 * 1024;
/// Pause before the second try; each is twice as long as the one before.
const PAUSE: Duration = Duration::from_millis(100);
/// Longest pause, also if `Retry-After` asks for more.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// What the command calls the step.
const STEP_NAME: &str = "test";

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const RUN: HeaderName = HeaderName::from_static("trellis-saga-run");
const STEP: HeaderName = HeaderName::from_static("trellis-saga-step");
const INDEX: HeaderName = HeaderName::from_static("trellis-saga-index");
const OP: HeaderName = HeaderName::from_static("trellis-saga-op");
const INCARNATION: HeaderName = HeaderName::from_static("trellis-saga-incarnation");
const ATTEMPT: HeaderName = HeaderName::from_static("trellis-saga-attempt");
const EPOCH: HeaderName = HeaderName::from_static("trellis-saga-epoch");

/// A participant. Clones share the connections.
#[derive(Clone)]
pub struct Participant {
    target: Arc<Target>,
    client: Client<HttpConnector, Full<Bytes>>,
    timeout: Duration,
}

/// Why a participant cannot be tested.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Target(#[from] target::Error),
    #[error("failed to take back what was done: no --compensation is named")]
    NoCompensation,
    #[error("failed to make a request; is every value one that a header or a URL may have?")]
    Request(#[from] http::Error),
    #[error("failed to connect to {uri}; start the participant, or name another URL")]
    Away {
        uri: Uri,
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("failed to read the answer of {uri}; name the port of an HTTP/1.1 server")]
    NoHttp {
        uri: Uri,
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("failed to get an answer from {uri}; it broke off")]
    BrokenOff {
        uri: Uri,
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("failed to look at the state: {uri} gave no answer within {timeout:?}")]
    StateTimeout { uri: Uri, timeout: Duration },
    #[error(
        "failed to look at the state: {uri} answered {status}; it must answer 2xx, or 404 if there is nothing"
    )]
    StateStatus { uri: Uri, status: StatusCode },
}

impl Participant {
    /// By plain HTTP/1.1, as the engine.
    pub fn new(target: Target, timeout: Duration) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(timeout));
        Self {
            target: target.into(),
            client: Client::builder(TokioExecutor::new()).build(connector),
            timeout,
        }
    }

    /// Sends a call, or `copies` of it at once, and looks at the state after it.
    ///
    /// # Errors
    /// The participant is away, or no HTTP server.
    pub async fn play(&self, run: &str, play: Play, copies: u16) -> Result<Played, Error> {
        let mut calls = JoinSet::new();
        for _ in 0..if play.many { copies } else { 1 } {
            let (participant, run) = (self.clone(), run.to_owned());
            calls.spawn(async move { participant.call(&run, play).await });
        }
        let answers = calls.join_all().await.into_iter().collect::<Result<_, _>>()?;
        Ok(Played {
            answers,
            state: self.state(run).await?,
        })
    }

    /// The state; none if none is to be looked at.
    ///
    /// # Errors
    /// It cannot be seen.
    pub async fn state(&self, run: &str) -> Result<Option<State>, Error> {
        let Some(template) = &self.target.state else {
            return Ok(None);
        };
        let uri = template.of(run)?;
        let mut request = http::Request::get(uri.clone());
        for (name, value) in self.target.headers(run) {
            request = request.header(name, value);
        }
        let request = request.body(Full::default())?;
        let Ok(answer) = time::timeout(self.timeout, self.send(request)).await else {
            return Err(Error::StateTimeout {
                uri,
                timeout: self.timeout,
            });
        };
        let (head, body) = answer?;
        match head.status {
            StatusCode::NOT_FOUND | StatusCode::GONE => Ok(Some(State::Absent)),
            status if status.is_success() => Ok(Some(State::Value(looked_at(template, &body)))),
            status => Err(Error::StateStatus { uri, status }),
        }
    }

    /// One call, until there is an answer for good or the time is over.
    async fn call(&self, run: &str, play: Play) -> Result<Answer, Error> {
        let deadline = Instant::now() + self.timeout;
        let (mut play, mut tries, mut pause, mut location) = (play, 0, PAUSE, None);
        loop {
            tries += 1;
            let request = self.request(run, play, location.as_deref())?;
            let reply = match time::timeout(self.timeout, self.send(request)).await {
                Ok(Ok((head, body))) => Reply::read(&head, &body),
                // Whether it was done is not known: asked again, it gives the same answer.
                Ok(Err(Error::BrokenOff { source, .. })) => Reply::none(&source.to_string()),
                Ok(Err(error)) => return Err(error),
                Err(_) => Reply::none("no answer in time"),
            };
            let answer = Answer {
                tries,
                was_pending: location.is_some(),
                ..reply.answer
            };
            let is_last = matches!(answer.reading, Reading::Done | Reading::Refused);
            if is_last || Instant::now() >= deadline {
                return Ok(answer);
            }
            location = reply.location.or(location);
            // To ask how far it is is no other try.
            play.attempt += u32::from(location.is_none());
            time::sleep(reply.after.unwrap_or(pause).min(LONGEST_PAUSE)).await;
            pause *= 2;
        }
    }

    /// As the engine sends it; with a location, the question how far it is.
    fn request(
        &self,
        run: &str,
        play: Play,
        location: Option<&str>,
    ) -> Result<http::Request<Full<Bytes>>, Error> {
        let template = match play.op {
            Op::Action => Some(&self.target.action),
            Op::Compensation => self.target.compensation.as_ref(),
        };
        let mut asked = template.ok_or(Error::NoCompensation)?.of(run)?;
        if let Some(location) = location {
            asked = Request {
                method: Method::GET,
                uri: beside(&asked.uri, location)?,
                body: None,
            };
        }
        let mut request = http::Request::builder()
            .method(asked.method)
            .uri(asked.uri)
            .header(RUN, run)
            .header(STEP, STEP_NAME);
        if !play.partial {
            request = request
                .header(INDEX, 0)
                .header(OP, play.op.name())
                .header(INCARNATION, play.incarnation)
                .header(ATTEMPT, play.attempt)
                .header(EPOCH, play.epoch);
        }
        let (mut own_key, mut own_type) = (false, false);
        for (name, value) in self.target.headers(run) {
            own_key |= *name == IDEMPOTENCY_KEY;
            own_type |= *name == header::CONTENT_TYPE;
            request = request.header(name, value);
        }
        if asked.body.is_some() && !own_type {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        if !own_key && !play.partial {
            let key = format!("{run}/{STEP_NAME}/0/{}/{}", play.op.name(), play.incarnation);
            request = request.header(IDEMPOTENCY_KEY, key);
        }
        Ok(request.body(Full::from(asked.body.unwrap_or_default()))?)
    }

    async fn send(
        &self,
        request: http::Request<Full<Bytes>>,
    ) -> Result<(http::response::Parts, Result<Bytes, String>), Error> {
        let uri = request.uri().clone();
        let response = match self.client.request(request).await {
            Ok(response) => response,
            Err(error) if error.is_connect() => {
                return Err(Error::Away {
                    uri,
                    source: error.into(),
                });
            }
            Err(error) if is_no_http(&error) => {
                return Err(Error::NoHttp {
                    uri,
                    source: error.into(),
                });
            }
            Err(error) => {
                return Err(Error::BrokenOff {
                    uri,
                    source: error.into(),
                });
            }
        };
        let (head, body) = response.into_parts();
        let body = Limited::new(body, MAX_BODY).collect().await;
        // As the engine: an answer that cannot be read to its end is none.
        Ok((
            head,
            body.map(|body| body.to_bytes())
                .map_err(|error| error.to_string()),
        ))
    }
}

/// Whether what came is no HTTP.
fn is_no_http(error: &hyper_util::client::legacy::Error) -> bool {
    std::iter::successors(std::error::Error::source(error), |error| error.source())
        .filter_map(|error| error.downcast_ref::<hyper::Error>())
        .any(hyper::Error::is_parse)
}

/// What of the state is looked at; null if it is not there.
fn looked_at(template: &StateTemplate, body: &Result<Bytes, String>) -> Value {
    let value = body
        .as_ref()
        .map_or_else(|error| error.clone().into(), |body| json(body));
    value.pointer(&template.pointer).cloned().unwrap_or_default()
}

/// Path and query of a location, of the participant itself, whatever host it names.
fn beside(uri: &Uri, location: &str) -> Result<Uri, Error> {
    let mut parts = uri.clone().into_parts();
    let location: Uri = location.parse().map_err(http::Error::from)?;
    parts.path_and_query = location.into_parts().path_and_query;
    Ok(Uri::from_parts(parts).map_err(http::Error::from)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_far_it_is_is_asked_of_the_participant_itself() {
        let uri: Uri = "http://a:1/things".parse().unwrap();
        for location in ["/jobs/1?x=y", "http://elsewhere/jobs/1?x=y"] {
            assert_eq!(beside(&uri, location).unwrap(), "http://a:1/jobs/1?x=y");
        }
    }
}
