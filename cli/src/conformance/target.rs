//! What is tested: the requests that the user named, and how they are filled for a run.

use http::{HeaderName, HeaderValue, Method, Uri};

use crate::args;

/// Stands for the id of the run, as in definitions.
const RUN_ID: &str = "${run.id}";
/// What every expression of a definition begins with.
const EXPRESSION: &str = "${";
/// Looks like the id of a run; requests are tried with it before any is sent.
const SAMPLE: &str = "01JD2X3Y4Z5A6B7C8D9E0F1G2H";
/// Headers that the command sends.
const OF_SAGAS: &str = "trellis-saga-";

/// The requests.
#[derive(Debug, Clone)]
pub struct Target {
    /// What a step does.
    pub action: Template,
    /// What takes it back.
    pub compensation: Option<Template>,
    /// Where the effect is seen.
    pub state: Option<StateTemplate>,
    /// Headers of each, by the user.
    headers: Vec<(HeaderName, String)>,
}

/// A request with places for the id of the run.
#[derive(Debug, Clone)]
pub struct Template {
    method: Method,
    url: String,
    body: Option<String>,
}

/// Where the effect is seen, with places for the id of the run.
#[derive(Debug, Clone)]
pub struct StateTemplate {
    url: String,
    /// JSON pointer of what is looked at, RFC 6901; empty: all of it.
    pub pointer: String,
}

/// A request of one run.
#[derive(Debug, Clone)]
pub struct Request {
    /// Method.
    pub method: Method,
    /// Where.
    pub uri: Uri,
    /// JSON.
    pub body: Option<String>,
}

/// An argument that is none.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{what}: {method:?} is no method: write METHOD URL, such as 'DELETE /reservations/${{run.id}}'")]
    Method { what: &'static str, method: String },
    #[error("{what}: {url:?} is no URL: write http://HOST:PORT/PATH")]
    Url { what: &'static str, url: String },
    #[error(
        "{what}: {url:?}: participants are called by plain HTTP, in the mesh by the sidecar: write http://HOST:PORT/PATH, of a port-forward if need be"
    )]
    Scheme { what: &'static str, url: String },
    #[error("{what}: ${{run.id}} is the only expression here: fill in the others")]
    Expression { what: &'static str },
    #[error("{what}: failed to read it as JSON")]
    Json {
        what: &'static str,
        source: serde_json::Error,
    },
    #[error("--state: {0:?} is no JSON pointer: write #/FIELD behind the URL, or #/FIELD/0/FIELD")]
    Pointer(String),
    #[error("--header: {0:?} is no header: write 'NAME: VALUE'")]
    Header(String),
    #[error("--header: {0:?} is set by the command, as by the engine: leave it out")]
    OwnHeader(String),
}

impl Target {
    /// Reads the arguments.
    ///
    /// # Errors
    /// One is none.
    pub fn read(args: &args::Test) -> Result<Self, Error> {
        let action = Template {
            method: method("--method", &args.method)?,
            url: args.url.clone(),
            body: args.body.clone(),
        };
        action.check("URL", "--body")?;
        let origin = origin(&args.url);
        let compensation = args.compensation.as_deref().map(|text| {
            let (name, url) = text.trim().split_once(char::is_whitespace).unwrap_or(("", text));
            let template = Template {
                method: method("--compensation", name)?,
                url: absolute(origin, url.trim()),
                body: args.compensation_body.clone(),
            };
            template.check("--compensation", "--compensation-body")?;
            Ok(template)
        });
        let state = args.state.as_deref().map(|text| {
            let (url, pointer) = text.split_once('#').unwrap_or((text, ""));
            let template = StateTemplate {
                url: absolute(origin, url),
                pointer: pointer.to_owned(),
            };
            uri("--state", &fill("--state", &template.url, SAMPLE)?)?;
            if !pointer.is_empty() && !pointer.starts_with('/') {
                return Err(Error::Pointer(pointer.to_owned()));
            }
            Ok(template)
        });
        let headers = args.headers.iter().map(|text| header(text));
        Ok(Self {
            action,
            compensation: compensation.transpose()?,
            state: state.transpose()?,
            headers: headers.collect::<Result<_, _>>()?,
        })
    }

    /// The user's headers for a run.
    pub fn headers(&self, run: &str) -> impl Iterator<Item = (&HeaderName, String)> {
        self.headers
            .iter()
            .map(move |(name, value)| (name, value.replace(RUN_ID, run)))
    }
}

impl Template {
    /// The request of a run.
    ///
    /// # Errors
    /// Never for one that was read, and a run whose id is one.
    pub fn of(&self, run: &str) -> Result<Request, Error> {
        Ok(Request {
            method: self.method.clone(),
            uri: uri("URL", &fill("URL", &self.url, run)?)?,
            body: self.body.as_ref().map(|body| body.replace(RUN_ID, run)),
        })
    }

    /// For people.
    pub fn shown(&self) -> String {
        format!("{} {}", self.method, self.url)
    }

    fn check(&self, url: &'static str, body: &'static str) -> Result<(), Error> {
        uri(url, &fill(url, &self.url, SAMPLE)?)?;
        let Some(text) = &self.body else { return Ok(()) };
        let text = fill(body, text, SAMPLE)?;
        serde_json::from_str::<serde_json::Value>(&text)
            .map_err(|source| Error::Json { what: body, source })?;
        Ok(())
    }
}

impl StateTemplate {
    /// Where to look for a run.
    ///
    /// # Errors
    /// As those of [`Template::of`].
    pub fn of(&self, run: &str) -> Result<Uri, Error> {
        uri("--state", &fill("--state", &self.url, run)?)
    }

    /// For people.
    pub fn shown(&self) -> String {
        match self.pointer.as_str() {
            "" => format!("GET {}", self.url),
            pointer => format!("{pointer} of GET {}", self.url),
        }
    }
}

fn method(what: &'static str, name: &str) -> Result<Method, Error> {
    let refuse = || Error::Method {
        what,
        method: name.to_owned(),
    };
    // Methods are case-sensitive, and a path that stands alone would be an unusual one.
    let is_usual = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_uppercase());
    is_usual
        .then(|| Method::from_bytes(name.as_bytes()).ok())
        .flatten()
        .ok_or_else(refuse)
}

fn fill(what: &'static str, text: &str, run: &str) -> Result<String, Error> {
    let text = text.replace(RUN_ID, run);
    if text.contains(EXPRESSION) {
        return Err(Error::Expression { what });
    }
    Ok(text)
}

fn uri(what: &'static str, url: &str) -> Result<Uri, Error> {
    let refuse = || Error::Url {
        what,
        url: url.to_owned(),
    };
    let uri: Uri = url.parse().map_err(|_| refuse())?;
    match uri.scheme_str() {
        Some("http") if uri.host().is_some_and(|host| !host.is_empty()) => Ok(uri),
        Some("https") => Err(Error::Scheme {
            what,
            url: url.to_owned(),
        }),
        _ => Err(refuse()),
    }
}

/// `http://host:port` of a URL; empty if it has none.
fn origin(url: &str) -> &str {
    let Some((scheme, rest)) = url.split_once("://") else {
        return "";
    };
    let host = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    &url[..scheme.len() + "://".len() + host]
}

fn absolute(origin: &str, url: &str) -> String {
    if url.starts_with('/') {
        format!("{origin}{url}")
    } else {
        url.to_owned()
    }
}

fn header(text: &str) -> Result<(HeaderName, String), Error> {
    let refuse = || Error::Header(text.to_owned());
    let (name, value) = text.split_once(':').ok_or_else(refuse)?;
    let name: HeaderName = name.trim().parse().map_err(|_| refuse())?;
    let value = value.trim();
    HeaderValue::from_str(&fill("--header", value, SAMPLE)?).map_err(|_| refuse())?;
    if name.as_str().starts_with(OF_SAGAS) {
        return Err(Error::OwnHeader(name.to_string()));
    }
    Ok((name, value.to_owned()))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        test: args::Test,
    }

    fn read(arguments: &[&str]) -> Result<Target, Error> {
        let line = ["test"].iter().chain(arguments);
        Target::read(&Line::try_parse_from(line).unwrap().test)
    }

    #[test]
    fn each_run_has_requests_of_its_own() {
        let target = read(&[
            "http://a:1/things?of=${run.id}",
            "--body",
            r#"{"id": "${run.id}"}"#,
            "--compensation",
            "DELETE /things/${run.id}",
            "--state",
            "/stock#/on_hand",
            "-H",
            "x-tenant: ${run.id}",
        ])
        .unwrap();
        let action = target.action.of("r7").unwrap();
        assert_eq!(
            (action.method.as_str(), action.uri.to_string()),
            ("POST", "http://a:1/things?of=r7".to_owned())
        );
        assert_eq!(action.body.as_deref(), Some(r#"{"id": "r7"}"#));
        let compensation = target.compensation.as_ref().unwrap().of("r7").unwrap();
        assert_eq!(
            (compensation.method.as_str(), compensation.uri.to_string()),
            ("DELETE", "http://a:1/things/r7".to_owned())
        );
        let state = target.state.as_ref().unwrap();
        assert_eq!(
            (state.of("r7").unwrap().to_string(), state.pointer.as_str()),
            ("http://a:1/stock".to_owned(), "/on_hand")
        );
        let headers: Vec<_> = target.headers("r7").collect();
        assert_eq!(headers, [(&HeaderName::from_static("x-tenant"), "r7".to_owned())]);
    }

    #[test]
    fn an_argument_that_is_none_is_named_with_the_fix() {
        for (arguments, expected) in [
            (
                &["a:1/things"][..],
                "URL: \"a:1/things\" is no URL: write http://",
            ),
            (&["https://a/things"], "participants are called by plain HTTP"),
            (&["http:///things"], "is no URL"),
            (&["http://a", "-X", "post"], "--method: \"post\" is no method"),
            (
                &["http://a/${run.ID}"],
                "URL: ${run.id} is the only expression here",
            ),
            (
                &["http://a", "--body", "{id: 1}"],
                "--body: failed to read it as JSON",
            ),
            (
                &["http://a", "--body", r#"{"n": "${input.n}"}"#],
                "--body: ${run.id} is the only",
            ),
            (
                &["http://a", "--compensation", "/things"],
                "--compensation: \"\" is no method: write METHOD URL",
            ),
            (
                &["http://a", "--state", "/items#left"],
                "--state: \"left\" is no JSON pointer",
            ),
            (
                &["http://a", "-H", "x-tenant"],
                "--header: \"x-tenant\" is no header",
            ),
            (
                &["http://a", "-H", "Trellis-Saga-Op: x"],
                "\"trellis-saga-op\" is set by the command",
            ),
        ] {
            let said = read(arguments).unwrap_err().to_string();
            assert!(said.contains(expected), "expected {expected:?} in {said:?}");
        }
    }
}
