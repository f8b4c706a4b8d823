//! Types of CEL, as far as they are known here.

use std::fmt;

/// The type of an expression.
///
/// There is no `dyn`: whatever can be checked before an expression runs is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Type {
    /// `true`, `false`.
    Bool,
    /// 64 bits, signed: `1`.
    Int,
    /// 64 bits, unsigned: `1u`.
    Uint,
    /// `1.0`.
    Double,
    /// `"a"`.
    String,
    /// `b"a"`.
    Bytes,
    /// `null`.
    Null,
    /// `[1, 2]`.
    List(Box<Self>),
    /// `{"a": 1}`.
    Map(Box<Self>, Box<Self>),
    /// A value that may not be there: `m[?"a"]`.
    Optional(Box<Self>),
    /// Not known: elements of an empty list, or what a fault was found in. Goes with every type.
    Unknown,
}

impl Type {
    /// `list(element)`.
    #[must_use]
    pub fn list(element: Self) -> Self {
        Self::List(Box::new(element))
    }

    /// `map(key, value)`.
    #[must_use]
    pub fn map(key: Self, value: Self) -> Self {
        Self::Map(Box::new(key), Box::new(value))
    }

    /// `optional(value)`.
    #[must_use]
    pub fn optional(value: Self) -> Self {
        Self::Optional(Box::new(value))
    }

    /// The one type that both are, if there is one.
    #[must_use]
    pub fn join(&self, other: &Self) -> Option<Self> {
        match (self, other) {
            (Self::Unknown, known) | (known, Self::Unknown) => Some(known.clone()),
            (Self::List(a), Self::List(b)) => a.join(b).map(Self::list),
            (Self::Optional(a), Self::Optional(b)) => a.join(b).map(Self::optional),
            (Self::Map(key, value), Self::Map(other_key, other_value)) => {
                Some(Self::map(key.join(other_key)?, value.join(other_value)?))
            }
            _ => (self == other).then(|| self.clone()),
        }
    }

    /// Whether values of this type can be those of the other.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        self.join(other).is_some()
    }

    pub(crate) const fn is_number(&self) -> bool {
        matches!(self, Self::Int | Self::Uint | Self::Double)
    }

    /// Whether values of this type can be keys of a map.
    pub(crate) const fn is_key(&self) -> bool {
        matches!(
            self,
            Self::Bool | Self::Int | Self::Uint | Self::String | Self::Unknown
        )
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool => f.write_str("bool"),
            Self::Int => f.write_str("int"),
            Self::Uint => f.write_str("uint"),
            Self::Double => f.write_str("double"),
            Self::String => f.write_str("string"),
            Self::Bytes => f.write_str("bytes"),
            Self::Null => f.write_str("null"),
            Self::List(element) => write!(f, "list({element})"),
            Self::Map(key, value) => write!(f, "map({key}, {value})"),
            Self::Optional(value) => write!(f, "optional({value})"),
            Self::Unknown => f.write_str("unknown"),
        }
    }
}
