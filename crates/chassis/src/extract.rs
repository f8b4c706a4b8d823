//! Request extractors whose rejections are problem documents with field paths.
//!
//! axum's own extractors answer in plain text and stop at "line 3 column 7"; a client needs the name of the
//! field. The order of the checks is that of the statuses: 415, 413, 400 (not JSON), 422 (JSON, but not
//! this type).

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{FromRequest, FromRequestParts, Query, Request};
use http::request::Parts;
use http::{HeaderMap, StatusCode, header};
use serde::de::DeserializeOwned;

use crate::problem::{FieldError, Kind, Problem};

/// A JSON body of type `T`.
#[derive(Clone, Copy, Debug)]
pub struct Json<T>(pub T);

/// What stands in the path for `{name}`; a path that cannot be decoded names nothing, so it is a 404.
#[derive(Clone, Copy, Debug)]
pub struct Path<T>(pub T);

/// The query parameters; each is taken once, and what is left over or faulty is one problem.
#[derive(Debug, Default)]
pub struct Params {
    values: BTreeMap<String, String>,
    errors: Vec<FieldError>,
}

/// For how long a client wants to wait for something to be done: `Prefer: wait=5`, in seconds (RFC 7240). Zero if it does not say so,
/// or not readably: a preference is no condition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PreferWait(pub Duration);

impl<S: Send + Sync> FromRequestParts<S> for PreferWait {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let preferences = parts.headers.get_all("prefer").iter();
        let wait = preferences
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split([',', ';']))
            .find_map(|preference| preference.trim().strip_prefix("wait=")?.parse().ok());
        Ok(Self(Duration::from_secs(wait.unwrap_or_default())))
    }
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        if !is_json(request.headers()) {
            return Err(
                Problem::new(Kind::UnsupportedMediaType).detail("send Content-Type: application/json")
            );
        }
        let bytes = Bytes::from_request(request, state)
            .await
            .map_err(|rejection| unreadable(&rejection))?;
        from_slice(&bytes).map(Self)
    }
}

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match axum::extract::Path::from_request_parts(parts, state).await {
            Ok(axum::extract::Path(value)) => Ok(Self(value)),
            Err(_) => Err(Problem::new(Kind::NotFound).detail("the path is not readable")),
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Params {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Query(pairs) = Query::<Vec<(String, String)>>::from_request_parts(parts, state)
            .await
            .map_err(|_| Problem::invalid(vec![FieldError::new("", "the query string is not readable")]))?;
        let mut params = Self::default();
        for (name, value) in pairs {
            match params.values.entry(name) {
                Entry::Vacant(entry) => {
                    entry.insert(value);
                }
                Entry::Occupied(entry) => {
                    params
                        .errors
                        .push(FieldError::new(entry.key(), "is given more than once"));
                }
            }
        }
        Ok(params)
    }
}

impl Params {
    /// Takes the parameter out, parsed; absent and faulty are both `None`, told apart by [`Params::finish`].
    pub fn take<T: FromStr<Err: fmt::Display>>(&mut self, name: &str) -> Option<T> {
        let value = self.values.remove(name)?;
        value
            .parse()
            .map_err(|fault| self.errors.push(FieldError::new(name, fault)))
            .ok()
    }

    /// Notes a fault of a parameter that was taken.
    pub fn fault(&mut self, name: &str, message: impl fmt::Display) {
        self.errors.push(FieldError::new(name, message));
    }

    /// Ends the reading.
    ///
    /// # Errors
    /// Every fault, unknown parameters included: a misspelt filter must not return everything.
    pub fn finish(mut self) -> Result<(), Vec<FieldError>> {
        let unknown = self
            .values
            .into_keys()
            .map(|name| FieldError::new(name, "is not a parameter of this path"));
        self.errors.extend(unknown);
        if self.errors.is_empty() {
            Ok(())
        } else {
            Err(self.errors)
        }
    }
}

/// Parses `bytes`; a fault of type `T` is a 422 with the path of the field, anything else a 400.
fn from_slice<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    let deserializer = &mut serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut *deserializer).map_err(|error| {
        let path = error.path().to_string();
        let source = error.into_inner();
        if source.is_data() {
            Problem::invalid(vec![field_error(if path == "." { "" } else { &path }, &source)])
        } else {
            Problem::new(Kind::Malformed).detail(source.to_string())
        }
    })?;
    deserializer
        .end()
        .map_err(|error| Problem::new(Kind::Malformed).detail(error.to_string()))?;
    Ok(value)
}

/// serde names the place of a missing field only in its text, and serde_json appends " at line 1 column 9",
/// which says less than the path.
fn field_error(path: &str, error: &serde_json::Error) -> FieldError {
    let text = error.to_string();
    let text = text.rfind(" at line ").map_or(&*text, |end| &text[..end]);
    match text
        .strip_prefix("missing field `")
        .and_then(|rest| rest.strip_suffix('`'))
    {
        Some(field) if path.is_empty() => FieldError::new(field, "is missing"),
        Some(field) => FieldError::new(format!("{path}.{field}"), "is missing"),
        None => FieldError::new(path, text),
    }
}

fn unreadable(rejection: &BytesRejection) -> Problem {
    if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
        Problem::new(Kind::TooLarge)
    } else {
        Problem::new(Kind::Malformed).detail("the body ended early")
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let Some(value) = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
    else {
        return false;
    };
    let essence = value.split(';').next().unwrap_or_default().trim();
    let Some((type_, subtype)) = essence.split_once('/') else {
        return false;
    };
    type_.eq_ignore_ascii_case("application")
        && (subtype.eq_ignore_ascii_case("json") || subtype.to_ascii_lowercase().ends_with("+json"))
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Order {
        lines: Vec<Line>,
    }

    #[derive(Debug, Deserialize)]
    struct Line {
        #[allow(dead_code)]
        quantity: u32,
    }

    async fn extract(content_type: Option<&str>, body: &'static str) -> Result<Json<Order>, Problem> {
        let mut request = Request::post("/orders");
        if let Some(content_type) = content_type {
            request = request.header("content-type", content_type);
        }
        Json::from_request(request.body(Body::from(body)).unwrap(), &()).await
    }

    #[tokio::test]
    async fn a_wrong_type_is_a_422_at_the_path_of_the_field() {
        let problem = extract(Some("application/json"), r#"{"lines":[{"quantity":-1}]}"#)
            .await
            .unwrap_err();
        assert_eq!(problem.status(), StatusCode::UNPROCESSABLE_ENTITY);
        assert_eq!(problem.errors()[0].field, "lines[0].quantity");
        assert!(
            !problem.errors()[0].message.contains("column"),
            "{:?}",
            problem.errors()
        );
    }

    #[tokio::test]
    async fn a_missing_field_is_named_where_it_belongs() {
        for (body, field) in [
            ("{}", "lines"),
            (r#"{"lines":[{"quantity":1},{}]}"#, "lines[1].quantity"),
        ] {
            let problem = extract(Some("application/json"), body).await.unwrap_err();
            assert_eq!(problem.errors(), [FieldError::new(field, "is missing")]);
        }
    }

    #[tokio::test]
    async fn statuses_tell_media_type_syntax_and_type_apart() {
        for (content_type, body, status) in [
            (None, r#"{"lines":[]}"#, 415),
            (Some("text/plain"), r#"{"lines":[]}"#, 415),
            (Some("application/json"), "{", 400),
            (Some("application/json"), r#"{"lines":[]} x"#, 400),
            (Some("application/json"), r#"{"lines":[],"colour":1}"#, 422),
            (Some("application/json"), "[]", 422),
        ] {
            let problem = extract(content_type, body).await.unwrap_err();
            assert_eq!(problem.status(), status, "{content_type:?} {body}");
        }
        assert_eq!(
            extract(Some("Application/JSON; charset=utf-8"), r#"{"lines":[]}"#)
                .await
                .unwrap()
                .0
                .lines
                .len(),
            0
        );
    }

    async fn params(query: &str) -> Params {
        let request = Request::get(format!("/orders?{query}")).body(()).unwrap();
        Params::from_request_parts(&mut request.into_parts().0, &())
            .await
            .unwrap()
    }

    #[tokio::test]
    async fn unknown_repeated_and_unparsable_parameters_are_all_reported() {
        let mut params = params("limit=x&user=a&cursor=1&cursor=2").await;
        assert_eq!(params.take::<u16>("limit"), None);
        assert_eq!(params.take::<u64>("cursor"), Some(1));
        let faults = params.finish().unwrap_err();
        let fields: Vec<_> = faults.iter().map(|error| error.field.as_str()).collect();
        assert_eq!(fields, ["cursor", "limit", "user"]);
    }
}
