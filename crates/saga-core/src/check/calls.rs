//! Calls: path, headers, key, body.

use http::{HeaderName, HeaderValue};
use serde_json::Value as Json;
use trellis_expression::{Template, draft::Mentioned, template::TemplateDraft, types::Type};

use super::{
    Fault,
    scope::{Moment, Scope},
};
use crate::{
    definition::Call,
    program::{CallProgram, Tree, names},
};

/// The one of the run's values that no other run has.
const RUN_ID: &str = "run.id";
/// Header by which a participant knows a request that it has seen.
pub(super) const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// Headers that the engine sets, or that are about the connection.
const OWN: [&str; 10] = [
    "connection",
    "content-length",
    "expect",
    "host",
    "keep-alive",
    "te",
    "traceparent",
    "trailer",
    "transfer-encoding",
    "upgrade",
];
/// Beginning of headers that the engine sets.
const OWN_PREFIX: &str = "trellis-";
/// Deepest body.
const MOST_NESTED: usize = 32;

/// A call's expressions; None: there is a fault, which has been said.
pub(super) fn check(
    at: &str,
    call: &Call,
    scope: &Scope<'_>,
    moment: &Moment<'_>,
    faults: &mut Vec<Fault>,
) -> Option<CallProgram> {
    let before = faults.len();
    let mut reader = Reader {
        scope,
        moment,
        faults,
    };
    let path = reader.path(&format!("{at}.call.path"), &call.call.path);
    let mut headers: Vec<(HeaderName, Template)> = Vec::new();
    for (name, text) in &call.headers {
        if headers
            .iter()
            .any(|(known, _)| known.as_str().eq_ignore_ascii_case(name))
        {
            let message = "is there twice, since names of headers have no case: remove one";
            reader.fault(&format!("{at}.headers[{name}]"), message);
            continue;
        }
        headers.extend(reader.header(&format!("{at}.headers[{name}]"), name, text));
    }
    let body = call
        .body
        .as_ref()
        .and_then(|body| reader.tree(&format!("{at}.body"), body, 0));
    if call.body.is_some() && matches!(&*call.call.method, "GET" | "HEAD" | "TRACE") {
        let message = format!(
            "{} has no body: put it into the path, or use another method",
            call.call.method
        );
        reader.faults.push(Fault::new(format!("{at}.body"), message));
    }
    if faults.len() > before {
        return None;
    }
    Some(CallProgram {
        path: path?,
        headers,
        body,
    })
}

struct Reader<'a, 'b> {
    scope: &'a Scope<'b>,
    moment: &'a Moment<'a>,
    faults: &'a mut Vec<Fault>,
}

impl Reader<'_, '_> {
    fn fault(&mut self, field: &str, message: impl Into<String>) {
        self.faults.push(Fault::new(field, message));
    }

    fn path(&mut self, field: &str, text: &str) -> Option<Template> {
        if !text.starts_with('/') {
            self.fault(
                field,
                "does not begin with /: write the path on the service, /orders for example",
            );
            return None;
        }
        let (template, mentioned) = self.template(field, text)?;
        self.check_stable(field, &mentioned);
        let literal = template.literal("0");
        let forbidden = |character: char| !character.is_ascii_graphic() || "#\\\"<>^`{|}".contains(character);
        if let Some(character) = literal.chars().find(|character| forbidden(*character)) {
            self.fault(
                field,
                format!("{character:?} cannot be in a path: write it as %.., or leave it out"),
            );
        }
        let way = literal.split('?').next().unwrap_or_default();
        if way.split('/').any(|element| element == "." || element == "..") {
            self.fault(field, "has . or .. as an element: write the path that is meant");
        }
        Some(template)
    }

    fn header(&mut self, field: &str, name: &str, text: &str) -> Option<(HeaderName, Template)> {
        let Ok(header) = HeaderName::from_bytes(name.as_bytes()) else {
            self.fault(field, format!("{name:?} cannot name a header"));
            return None;
        };
        if OWN.contains(&header.as_str()) || header.as_str().starts_with(OWN_PREFIX) {
            self.fault(field, format!("{name} is set by the engine: leave it out"));
            return None;
        }
        let (template, mentioned) = self.template(field, text)?;
        if header == IDEMPOTENCY_KEY {
            self.check_key(field, &mentioned);
        }
        if HeaderValue::from_str(&template.literal("")).is_err() {
            self.fault(field, "has characters that cannot be in a header: leave them out");
        }
        if !template.is_text() {
            let message = format!(
                "the value is {}, which cannot be in a header: write one of its parts",
                template.r#type()
            );
            self.fault(field, message);
        }
        Some((header, template))
    }

    fn tree(&mut self, field: &str, body: &Json, depth: usize) -> Option<Tree> {
        if depth > MOST_NESTED {
            self.fault(
                field,
                format!("is nested more than {MOST_NESTED} deep: flatten it"),
            );
            return None;
        }
        Some(match body {
            Json::String(text) => {
                let (template, mentioned) = self.template(field, text)?;
                self.check_stable(field, &mentioned);
                if !is_json(template.r#type()) {
                    let message = format!(
                        "the value is {}, which JSON has no form for: convert it to text",
                        template.r#type()
                    );
                    self.fault(field, message);
                }
                if template.is_literal() {
                    Tree::Literal(template.literal("").into())
                } else {
                    Tree::Leaf(template)
                }
            }
            Json::Array(parts) => {
                let mut tree = Vec::new();
                for (i, part) in parts.iter().enumerate() {
                    tree.extend(self.tree(&format!("{field}[{i}]"), part, depth + 1));
                }
                Tree::List(tree)
            }
            Json::Object(parts) => {
                let mut tree = Vec::new();
                for (key, part) in parts {
                    let part = self.tree(&format!("{field}.{key}"), part, depth + 1);
                    tree.extend(part.map(|part| (key.clone(), part)));
                }
                Tree::Object(tree)
            }
            other => Tree::Literal(other.clone()),
        })
    }

    fn template(&mut self, field: &str, text: &str) -> Option<(Template, Mentioned)> {
        let read = TemplateDraft::read_once(text, &self.scope.reader).and_then(|draft| {
            let mentioned = draft.mentioned();
            Ok((self.scope.template(draft, self.moment)?, mentioned))
        });
        read.map_err(|found| {
            let found = found.into_iter();
            self.faults
                .extend(found.map(|fault| Fault::new(field, fault.to_string())));
        })
        .ok()
    }

    /// What is sent again has to be the same, or the participant takes it for a misuse of the key.
    fn check_stable(&mut self, field: &str, mentioned: &Mentioned) {
        if mentioned.has(names::ATTEMPT) {
            let message = "changes from try to try while the idempotency key stays the same: leave `attempt` out, or put it into a \
                           header";
            self.fault(field, message);
        }
    }

    /// The key has to be the same for each try, and another for each run and element.
    fn check_key(&mut self, field: &str, mentioned: &Mentioned) {
        if mentioned.has(names::ATTEMPT) {
            let message = "is another for each try, so a participant does not know a request that it has seen: leave `attempt` out";
            self.fault(field, message);
        } else if !mentioned.has(RUN_ID) {
            let message = "may be the same for two runs, so that the second does nothing: add ${run.id}, or leave the header out, the \
                           engine sets one";
            self.fault(field, message);
        } else if self.moment.is_for_each() && !mentioned.has(names::ITEM) && !mentioned.has(names::INDEX) {
            let message = "is the same for every element, so that only the first is done: add ${index}, or leave the header out, \
                           the engine sets one";
            self.fault(field, message);
        }
    }
}

/// Whether values of a type have a form in JSON.
fn is_json(r#type: &Type) -> bool {
    match r#type {
        Type::Bytes => false,
        Type::List(inner) | Type::Optional(inner) | Type::Nullable(inner) => is_json(inner),
        Type::Map(key, value) => matches!(**key, Type::String | Type::Unknown) && is_json(value),
        Type::Object(object) => {
            let fields = object.fields.values().map(|field| &field.r#type);
            fields.chain(&object.others).all(is_json)
        }
        _ => true,
    }
}
