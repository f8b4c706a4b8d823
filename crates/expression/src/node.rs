//! A checked expression: every name is resolved and every type fits.

use crate::{environment::VariableId, value::Value};

/// A node of the tree, and where it is in the source.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    /// Bytes before it.
    pub(crate) at: usize,
    pub(crate) kind: Kind,
}

#[derive(Debug, Clone)]
pub(crate) enum Kind {
    Literal(Value<'static>),
    Variable(VariableId),
    /// A value of a declared map by a key that is known: no map is made for it.
    Entry(VariableId, String),
    HasEntry(VariableId, String),
    OptionalEntry(VariableId, String),
    /// A variable of a comprehension, by its depth.
    Local(usize),
    Not(Box<Node>),
    Negate(Box<Node>),
    And(Box<Node>, Box<Node>),
    Or(Box<Node>, Box<Node>),
    Conditional(Box<Node>, Box<Node>, Box<Node>),
    Binary(Operator, Box<Node>, Box<Node>),
    In(Box<Node>, Box<Node>),
    Index(Box<Node>, Box<Node>),
    OptionalIndex(Box<Node>, Box<Node>),
    HasKey(Box<Node>, Box<Node>),
    List(Vec<Node>),
    Map(Vec<(Node, Node)>),
    Call(Function, Vec<Node>),
    Comprehension(Box<Comprehension>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operator {
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Function {
    Size,
    Contains,
    StartsWith,
    EndsWith,
    LowerAscii,
    UpperAscii,
    Trim,
    Replace,
    Split,
    Join,
    ToInt,
    ToUint,
    ToDouble,
    ToString,
    OptionalOf,
    OptionalNone,
    HasValue,
    GetValue,
    OrValue,
    Or,
}

/// `range.all(local, body)` and its kin.
#[derive(Debug, Clone)]
pub(crate) struct Comprehension {
    pub(crate) form: Form,
    pub(crate) range: Node,
    /// What is asked of every element; for `map` without a filter, what becomes of it.
    pub(crate) body: Node,
    /// What becomes of an element in a `map` with a filter, which is then the body.
    pub(crate) transform: Option<Node>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    All,
    Exists,
    ExistsOne,
    Filter,
    Map,
}
