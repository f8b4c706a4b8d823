//! Values of CEL while an expression is evaluated. Text is borrowed from the request where it can be.

use std::{borrow::Cow, cmp::Ordering, sync::Arc};

/// A value.
#[derive(Debug, Clone)]
pub enum Value<'a> {
    /// `null`.
    Null,
    /// A truth value.
    Bool(bool),
    /// A signed number.
    Int(i64),
    /// An unsigned number.
    Uint(u64),
    /// A floating number.
    Double(f64),
    /// Text.
    String(Cow<'a, str>),
    /// Bytes.
    Bytes(Cow<'a, [u8]>),
    /// Values in order.
    List(Arc<[Self]>),
    /// Keys and values; keys differ.
    Map(Arc<[(Self, Self)]>),
    /// A value that may not be there.
    Optional(Option<Arc<Self>>),
}

impl<'a> Value<'a> {
    /// Text that is borrowed.
    #[must_use]
    pub const fn text(text: &'a str) -> Self {
        Self::String(Cow::Borrowed(text))
    }

    /// The same, with nothing borrowed.
    #[must_use]
    pub fn into_owned(self) -> Value<'static> {
        match self {
            Self::Null => Value::Null,
            Self::Bool(truth) => Value::Bool(truth),
            Self::Int(number) => Value::Int(number),
            Self::Uint(number) => Value::Uint(number),
            Self::Double(number) => Value::Double(number),
            Self::String(text) => Value::String(Cow::Owned(text.into_owned())),
            Self::Bytes(bytes) => Value::Bytes(Cow::Owned(bytes.into_owned())),
            Self::List(elements) => Value::List(elements.iter().cloned().map(Self::into_owned).collect()),
            Self::Map(entries) => Value::Map(
                entries
                    .iter()
                    .cloned()
                    .map(|(key, value)| (key.into_owned(), value.into_owned()))
                    .collect(),
            ),
            Self::Optional(value) => Value::optional(value.map(|value| (*value).clone().into_owned())),
        }
    }

    pub(crate) fn optional(value: Option<Self>) -> Self {
        Self::Optional(value.map(Arc::new))
    }

    /// Order of numbers of one type, of text, of bytes and of truth values; none for others and for "not a number".
    pub(crate) fn order(&self, other: &Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Bool(a), Self::Bool(b)) => Some(a.cmp(b)),
            (Self::Int(a), Self::Int(b)) => Some(a.cmp(b)),
            (Self::Uint(a), Self::Uint(b)) => Some(a.cmp(b)),
            (Self::Double(a), Self::Double(b)) => a.partial_cmp(b),
            (Self::String(a), Self::String(b)) => Some(a.cmp(b)),
            (Self::Bytes(a), Self::Bytes(b)) => Some(a.cmp(b)),
            _ => None,
        }
    }

    pub(crate) fn entry(&self, key: &Value<'_>) -> Option<&Self> {
        match self {
            Self::Map(entries) => entries
                .iter()
                .find(|(known, _)| known == key)
                .map(|(_, value)| value),
            _ => None,
        }
    }

    /// About how many units of work it is to look at all of it.
    pub(crate) fn weight(&self) -> usize {
        match self {
            Self::String(text) => text.len() / 32,
            Self::Bytes(bytes) => bytes.len() / 32,
            Self::List(elements) => elements.iter().map(|element| 1 + element.weight()).sum(),
            Self::Map(entries) => entries
                .iter()
                .map(|(key, value)| 1 + key.weight() + value.weight())
                .sum(),
            Self::Optional(Some(value)) => 1 + value.weight(),
            _ => 0,
        }
    }
}

impl PartialEq for Value<'_> {
    /// Maps are equal whatever the order of their entries.
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Null, Self::Null) => true,
            (Self::List(a), Self::List(b)) => a == b,
            (Self::Map(a), Self::Map(b)) => {
                a.len() == b.len() && a.iter().all(|(key, value)| other.entry(key) == Some(value))
            }
            (Self::Optional(a), Self::Optional(b)) => a == b,
            _ => self.order(other) == Some(Ordering::Equal),
        }
    }
}
