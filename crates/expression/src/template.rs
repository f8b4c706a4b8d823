//! Text with expressions in it: `/orders/${input.order_id}/confirm`.
//!
//! A text that is one `${...}` and nothing else has the type of the expression: a number stays a number, a list a list. In any
//! other, values are written into the text, so they have to be text, numbers or truth values. `$${` stands for `${`.

use crate::{
    Draft, Expression,
    draft::{Mentioned, Reader},
    environment::Environment,
    evaluate::{self, Bindings},
    position::{Fault, Position},
    types::Type,
    value::Value,
};

/// A text that was checked.
#[derive(Debug, Clone)]
pub struct Template {
    parts: Vec<Part>,
}

#[derive(Debug, Clone)]
enum Part {
    Text(String),
    Expression(Expression),
}

/// A text that was read and not checked yet.
pub struct TemplateDraft<'a> {
    source: &'a str,
    parts: Vec<DraftPart<'a>>,
}

enum DraftPart<'a> {
    Text(String),
    /// And where it begins.
    Expression(usize, Draft<'a>),
}

/// A part as it is written: text, or an expression and where it begins.
enum Piece<'a> {
    Text(String),
    Expression(usize, &'a str),
}

impl Template {
    /// Reads and checks a text. Positions of faults are those in the whole text.
    ///
    /// # Errors
    /// Every fault of every expression, and of values that cannot be written into a text.
    pub fn compile(source: &str, environment: &Environment) -> Result<Self, Vec<Fault>> {
        TemplateDraft::read(source)?.check(environment)
    }

    /// The type of its values.
    #[must_use]
    pub fn r#type(&self) -> &Type {
        match self.parts.as_slice() {
            [Part::Expression(expression)] => expression.r#type(),
            _ => &Type::String,
        }
    }

    /// Whether it has no expressions: what it is worth is what is written.
    #[must_use]
    pub fn is_literal(&self) -> bool {
        self.parts.iter().all(|part| matches!(part, Part::Text(_)))
    }

    /// What is written in it, with this in place of its expressions.
    #[must_use]
    pub fn literal(&self, filler: &str) -> String {
        let texts = self.parts.iter().map(|part| match part {
            Part::Text(text) => text.as_str(),
            Part::Expression(_) => filler,
        });
        texts.collect()
    }

    /// Whether its values can be written into a text.
    #[must_use]
    pub fn is_text(&self) -> bool {
        is_text(self.r#type())
    }

    /// Its expressions, in order.
    pub fn expressions(&self) -> impl Iterator<Item = &Expression> {
        self.parts.iter().filter_map(|part| match part {
            Part::Text(_) => None,
            Part::Expression(expression) => Some(expression),
        })
    }

    /// Its value.
    ///
    /// # Errors
    /// An expression has none.
    pub fn evaluate<'v>(&'v self, bindings: &'v dyn Bindings) -> Result<Value<'v>, evaluate::Error> {
        if let [Part::Expression(expression)] = self.parts.as_slice() {
            return expression.evaluate(bindings);
        }
        self.render(bindings, |text| text)
            .map(|text| Value::String(text.into()))
    }

    /// Its value as a text; `write` is what becomes of a value's text in it: escaping, for example. What is written in the
    /// template itself stays as it is.
    ///
    /// # Errors
    /// An expression has no value, or one that cannot be written into a text.
    pub fn render(
        &self,
        bindings: &dyn Bindings,
        write: impl Fn(String) -> String,
    ) -> Result<String, evaluate::Error> {
        let mut text = String::new();
        for part in &self.parts {
            match part {
                Part::Text(part) => text.push_str(part),
                Part::Expression(expression) => {
                    let value = match expression.evaluate(bindings)? {
                        Value::String(part) => part.into_owned(),
                        Value::Int(number) => number.to_string(),
                        Value::Uint(number) => number.to_string(),
                        Value::Double(number) => number.to_string(),
                        Value::Bool(truth) => truth.to_string(),
                        _ => return Err(expression.wrong_type()),
                    };
                    text.push_str(&write(value));
                }
            }
        }
        Ok(text)
    }
}

impl<'a> TemplateDraft<'a> {
    /// Reads a text.
    ///
    /// # Errors
    /// What of its expressions cannot be read.
    pub fn read(source: &'a str) -> Result<Self, Vec<Fault>> {
        Self::read_once(source, &Reader::default())
    }

    /// The same, with expressions that were read before.
    ///
    /// # Errors
    /// What of its expressions cannot be read.
    pub fn read_once(source: &'a str, reader: &Reader) -> Result<Self, Vec<Fault>> {
        let pieces = split(source).map_err(|fault| vec![fault])?;
        let mut faults = Vec::new();
        let mut parts = Vec::new();
        for piece in pieces {
            match piece {
                Piece::Text(text) => parts.push(DraftPart::Text(text)),
                Piece::Expression(start, text) => match Draft::read_once(text, reader) {
                    Ok(draft) => parts.push(DraftPart::Expression(start, draft)),
                    Err(fault) => faults.push(moved(source, start, fault)),
                },
            }
        }
        if faults.is_empty() {
            Ok(Self { source, parts })
        } else {
            Err(faults)
        }
    }

    /// What its expressions mention.
    #[must_use]
    pub fn mentioned(&self) -> Mentioned {
        let mut all = Mentioned::default();
        for part in &self.parts {
            if let DraftPart::Expression(_, draft) = part {
                all.extend(draft.mentioned());
            }
        }
        all
    }

    /// Checks it, as [`Template::compile`].
    ///
    /// # Errors
    /// Every fault of every expression, and of values that cannot be written into a text.
    pub fn check(self, environment: &Environment) -> Result<Template, Vec<Fault>> {
        let source = self.source;
        let is_whole = matches!(self.parts.as_slice(), [DraftPart::Expression(..)]);
        let mut faults = Vec::new();
        let mut parts = Vec::new();
        for part in self.parts {
            let (start, draft) = match part {
                DraftPart::Text(text) => {
                    parts.push(Part::Text(text));
                    continue;
                }
                DraftPart::Expression(start, draft) => (start, draft),
            };
            match draft.check(environment, &[Type::Unknown]) {
                Ok(expression) if is_whole || is_text(expression.r#type()) => {
                    parts.push(Part::Expression(expression));
                }
                Ok(expression) => {
                    let message = format!(
                        "the value is {}, which cannot be written into a text{}",
                        expression.r#type(),
                        hint(expression.r#type())
                    );
                    faults.push(Fault {
                        position: Position::of(source, start),
                        message,
                    });
                }
                Err(found) => {
                    faults.extend(found.into_iter().map(|fault| moved(source, start, fault)));
                }
            }
        }
        if faults.is_empty() {
            Ok(Template { parts })
        } else {
            Err(faults)
        }
    }
}

/// A fault of an expression, in the text around it.
fn moved(source: &str, start: usize, fault: Fault) -> Fault {
    Fault {
        position: Position::of(source, start + fault.position.byte),
        message: fault.message,
    }
}

fn is_text(r#type: &Type) -> bool {
    matches!(
        r#type,
        Type::String | Type::Int | Type::Uint | Type::Double | Type::Bool | Type::Unknown
    )
}

fn hint(r#type: &Type) -> &'static str {
    match r#type {
        Type::Optional(_) => "; say what holds if there is none, with .orValue(...)",
        Type::Nullable(_) => "; it may be null: ask first, x != null ? x : ...",
        Type::Json => "; give it a type in the schema",
        _ => "; write one of its fields or elements, or make it the whole value",
    }
}

/// The text without marks, and the expressions.
fn split(source: &str) -> Result<Vec<Piece<'_>>, Fault> {
    let mut pieces = Vec::new();
    let mut text = String::new();
    let mut at = 0;
    while let Some(found) = source[at..].find("${") {
        let mark = at + found;
        if source[at..mark].ends_with('$') {
            // `$${`
            text.push_str(&source[at..mark - 1]);
            text.push_str("${");
            at = mark + 2;
            continue;
        }
        text.push_str(&source[at..mark]);
        let start = mark + 2;
        let Some(length) = end(&source[start..]) else {
            return Err(Fault {
                position: Position::of(source, mark),
                message: "${ has no end; write ${...}, or $${ for these two signs themselves".to_owned(),
            });
        };
        if !text.is_empty() {
            pieces.push(Piece::Text(std::mem::take(&mut text)));
        }
        pieces.push(Piece::Expression(start, &source[start..start + length]));
        at = start + length + 1;
    }
    text.push_str(&source[at..]);
    if !text.is_empty() || pieces.is_empty() {
        pieces.push(Piece::Text(text));
    }
    Ok(pieces)
}

/// Where the bracket that ends an expression is: not one of its maps, and not one in its texts.
fn end(expression: &str) -> Option<usize> {
    let mut depth = 0_usize;
    let mut quote: Option<char> = None;
    let mut characters = expression.char_indices();
    while let Some((at, character)) = characters.next() {
        match (quote, character) {
            (Some(_), '\\') => {
                characters.next();
            }
            (Some(open), _) if character == open => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(character),
            (None, '{') => depth += 1,
            (None, '}') if depth == 0 => return Some(at),
            (None, '}') => depth -= 1,
            (None, _) => {}
        }
    }
    None
}
