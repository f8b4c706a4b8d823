//! A message: the attributes of CloudEvents 1.0 that a receiver needs, and its data.

use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

/// Longest id, type and subject, in bytes: they are keys of an index.
const MAX_TEXT: usize = 256;

/// Something to tell somebody.
#[derive(Clone, Debug)]
pub struct Message {
    id: String,
    r#type: String,
    subject: String,
    data: Box<RawValue>,
}

/// Why something is no message.
#[derive(Debug, thiserror::Error)]
pub enum MessageError {
    /// An attribute is empty or too long.
    #[error("the {attribute} of a message must have 1 to {MAX_TEXT} bytes, and {text:?} has {}", text.len())]
    Length {
        /// Which.
        attribute: &'static str,
        /// What it was to be.
        text: String,
    },
    /// The data has no form in JSON.
    #[error("failed to write the data of a message")]
    Data(#[source] serde_json::Error),
}

impl Message {
    /// A message. The same `id` tells the same: whoever takes it does nothing about a second one. `kind` is its type, `subject` what
    /// it is about.
    ///
    /// # Errors
    /// A text is empty or too long, or the data has no form in JSON.
    pub fn new(id: &str, kind: &str, subject: &str, data: &impl Serialize) -> Result<Self, MessageError> {
        let data = to_raw_value(data).map_err(MessageError::Data)?;
        Self::of(id.to_owned(), kind.to_owned(), subject.to_owned(), data)
    }

    pub(crate) fn of(
        id: String,
        r#type: String,
        subject: String,
        data: Box<RawValue>,
    ) -> Result<Self, MessageError> {
        for (attribute, text) in [("id", &id), ("type", &r#type), ("subject", &subject)] {
            if !(1..=MAX_TEXT).contains(&text.len()) {
                let text = text.clone();
                return Err(MessageError::Length { attribute, text });
            }
        }
        Ok(Self {
            id,
            r#type,
            subject,
            data,
        })
    }

    /// What it is told from others by.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What sort of thing it tells.
    #[must_use]
    pub fn r#type(&self) -> &str {
        &self.r#type
    }

    /// What it is about.
    #[must_use]
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// What it tells, as JSON.
    #[must_use]
    pub fn data(&self) -> &RawValue {
        &self.data
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attribute_that_is_no_key_is_refused_with_its_name() {
        let long = "x".repeat(MAX_TEXT + 1);
        for (id, kind, subject, attribute) in [
            ("", "t", "s", "id"),
            ("i", "", "s", "type"),
            ("i", "t", &long, "subject"),
        ] {
            let refused = Message::new(id, kind, subject, &1).unwrap_err().to_string();
            assert!(refused.contains(attribute), "{refused}");
        }
        assert_eq!(Message::new("i", "t", "s", &[1]).unwrap().data().get(), "[1]");
    }
}
