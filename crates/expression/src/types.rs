//! Types of CEL, as far as they are known here.

use std::{collections::BTreeMap, fmt, sync::Arc};

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
    /// A map whose keys are known: fields, each with a type of its own.
    Object(Arc<Object>),
    /// A value or `null`.
    Nullable(Box<Self>),
    /// Any JSON: nothing is known of it. It can be passed on as it is, and not be looked into.
    Json,
    /// A value that may not be there: `m[?"a"]`.
    Optional(Box<Self>),
    /// Not known: elements of an empty list, or what a fault was found in. Goes with every type.
    Unknown,
}

/// Fields, and what else there may be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Object {
    /// By name.
    pub fields: BTreeMap<String, Field>,
    /// Type of further fields, whose names are not known; None: there are none.
    pub others: Option<Type>,
    /// Names that somebody may expect here, and why there is no such field.
    pub absent: BTreeMap<String, String>,
}

/// A field of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// Of its values.
    pub r#type: Type,
    /// Whether it is always there.
    pub is_required: bool,
    /// Why it may not be there, if there is more to say than that.
    pub why: Option<String>,
}

/// Names of fields that are shown of an object.
const SHOWN: usize = 6;

impl Object {
    /// Fields that are always there, and no others.
    pub fn of<N: Into<String>>(fields: impl IntoIterator<Item = (N, Type)>) -> Self {
        let field = |(name, r#type): (N, Type)| (name.into(), Field::required(r#type));
        Self {
            fields: fields.into_iter().map(field).collect(),
            ..Self::default()
        }
    }

    /// The one type that the values of all fields have, if there is one.
    fn values(&self) -> Option<Type> {
        let types = self
            .fields
            .values()
            .map(|field| &field.r#type)
            .chain(&self.others);
        types
            .into_iter()
            .try_fold(Type::Unknown, |all, r#type| all.join(r#type))
    }

    fn join(&self, other: &Self) -> Option<Self> {
        let mut fields = BTreeMap::new();
        for (one, other) in [(self, other), (other, self)] {
            for (name, field) in &one.fields {
                let joined = match other.fields.get(name) {
                    Some(twin) => Field {
                        r#type: field.r#type.join(&twin.r#type)?,
                        is_required: field.is_required && twin.is_required,
                        why: field.why.clone().or_else(|| twin.why.clone()),
                    },
                    // What the other has under this name is one of its further fields.
                    None => Field {
                        r#type: match &other.others {
                            Some(others) => field.r#type.join(others)?,
                            None => field.r#type.clone(),
                        },
                        is_required: false,
                        why: field.why.clone(),
                    },
                };
                fields.insert(name.clone(), joined);
            }
        }
        let others = match (&self.others, &other.others) {
            (None, None) => None,
            (Some(one), None) | (None, Some(one)) => Some(one.clone()),
            (Some(one), Some(other)) => Some(one.join(other)?),
        };
        Some(Self {
            fields,
            others,
            absent: BTreeMap::new(),
        })
    }

    /// Whether every one of these is one of those.
    fn is(&self, expected: &Self) -> bool {
        let fits = |(name, field): (&String, &Field)| match expected.fields.get(name) {
            Some(wanted) => field.r#type.is(&wanted.r#type) && (field.is_required || !wanted.is_required),
            None => expected
                .others
                .as_ref()
                .is_some_and(|others| field.r#type.is(others)),
        };
        let is_there = |(name, wanted): (&String, &Field)| {
            !wanted.is_required || self.fields.get(name).is_some_and(|field| field.is_required)
        };
        let is_narrower = |(name, wanted): (&String, &Field)| {
            let others = self.others.as_ref().filter(|_| !self.fields.contains_key(name));
            others.is_none_or(|others| others.is(&wanted.r#type))
        };
        let others = match (&self.others, &expected.others) {
            (None, _) => true,
            (Some(others), Some(wanted)) => others.is(wanted),
            (Some(_), None) => false,
        };
        others
            && self.fields.iter().all(fits)
            && expected.fields.iter().all(is_there)
            && expected.fields.iter().all(is_narrower)
    }
}

impl Field {
    /// One that is always there.
    #[must_use]
    pub const fn required(r#type: Type) -> Self {
        Self {
            r#type,
            is_required: true,
            why: None,
        }
    }

    /// One that may not be there, and why: `the step is not done if its condition does not hold`.
    #[must_use]
    pub fn optional(r#type: Type, why: impl Into<String>) -> Self {
        Self {
            r#type,
            is_required: false,
            why: Some(why.into()),
        }
    }
}

impl Type {
    /// An object.
    #[must_use]
    pub fn object(object: Object) -> Self {
        Self::Object(Arc::new(object))
    }

    /// Values of this type, or `null`.
    #[must_use]
    pub fn nullable(self) -> Self {
        match self {
            Self::Null | Self::Nullable(_) | Self::Json | Self::Unknown => self,
            other => Self::Nullable(Box::new(other)),
        }
    }

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
            (Self::Object(a), Self::Object(b)) => a.join(b).map(Self::object),
            (Self::Object(object), Self::Map(key, value)) | (Self::Map(key, value), Self::Object(object)) => {
                Some(Self::map(key.join(&Self::String)?, object.values()?.join(value)?))
            }
            (Self::Null, Self::Null) => Some(Self::Null),
            (Self::Nullable(a), Self::Nullable(b)) => a.join(b).map(Self::nullable),
            (Self::Nullable(_), Self::Null) => Some(self.clone()),
            (Self::Null, Self::Nullable(_)) => Some(other.clone()),
            (Self::Nullable(a), b) | (b, Self::Nullable(a)) => a.join(b).map(Self::nullable),
            (Self::Map(key, value), Self::Map(other_key, other_value)) => {
                Some(Self::map(key.join(other_key)?, value.join(other_value)?))
            }
            _ => (self == other).then(|| self.clone()),
        }
    }

    /// Whether values of this type can be where the other is wanted.
    #[must_use]
    pub fn is(&self, wanted: &Self) -> bool {
        match (self, wanted) {
            (Self::Unknown, _) | (_, Self::Unknown | Self::Json) => true,
            (Self::Object(object), Self::Object(wanted)) => object.is(wanted),
            (Self::Object(object), Self::Map(key, value)) => {
                let types = object.fields.values().map(|field| &field.r#type);
                Self::String.is(key) && types.chain(&object.others).all(|r#type| r#type.is(value))
            }
            // Which keys a map has is not known.
            (Self::Map(key, value), Self::Object(wanted)) => {
                let fits = |others: &Self| key.is(&Self::String) && value.is(others);
                wanted.fields.is_empty() && wanted.others.as_ref().is_some_and(fits)
            }
            (Self::List(element), Self::List(wanted)) => element.is(wanted),
            (Self::Map(key, value), Self::Map(wanted_key, wanted)) => key.is(wanted_key) && value.is(wanted),
            (Self::Optional(value), Self::Optional(wanted)) => value.is(wanted),
            (Self::Nullable(value), Self::Nullable(wanted)) => value.is(wanted),
            (Self::Null, Self::Nullable(_)) => true,
            (value, Self::Nullable(wanted)) => value.is(wanted),
            (Self::Nullable(_), _) => false,
            _ => self.join(wanted).is_some(),
        }
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
            Self::List(element) if **element == Self::Unknown => f.write_str("list"),
            Self::List(element) => write!(f, "list({element})"),
            Self::Map(key, value) => write!(f, "map({key}, {value})"),
            Self::Optional(value) if **value == Self::Unknown => f.write_str("optional"),
            Self::Optional(value) => write!(f, "optional({value})"),
            Self::Nullable(value) => write!(f, "{value} or null"),
            Self::Json => f.write_str("any JSON"),
            Self::Object(object) => {
                f.write_str("object(")?;
                for (place, (name, field)) in object.fields.iter().take(SHOWN).enumerate() {
                    let comma = if place == 0 { "" } else { ", " };
                    let mark = if field.is_required { "" } else { "?" };
                    write!(f, "{comma}{name}{mark}")?;
                }
                if object.fields.len() > SHOWN {
                    f.write_str(", ...")?;
                }
                f.write_str(")")
            }
            Self::Unknown => f.write_str("unknown"),
        }
    }
}
