//! The names that an expression may use.

use crate::types::Type;

/// Declared names and their types.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    variables: Vec<Variable>,
    reserved: Vec<(&'static str, &'static str)>,
}

/// A declared name, by the order of its declaration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct VariableId(pub u16);

#[derive(Debug, Clone)]
struct Variable {
    /// With its dots: `request.method`.
    name: &'static str,
    r#type: Type,
    /// Keys are compared in lower case, as names of headers are.
    lower_case_keys: bool,
}

/// What a name is.
pub(crate) enum Resolved<'a> {
    Variable {
        id: VariableId,
        r#type: &'a Type,
    },
    /// The beginning of names.
    Group,
    /// It will be something one day; why it is not yet.
    Reserved(&'static str),
    Nothing,
}

impl Environment {
    /// Declares a name; its id is the number of names before it.
    #[must_use]
    pub fn with(mut self, name: &'static str, r#type: Type) -> Self {
        self.variables.push(Variable {
            name,
            r#type,
            lower_case_keys: false,
        });
        self
    }

    /// Declares a map whose keys are in lower case.
    #[must_use]
    pub fn with_lower_case_keys(mut self, name: &'static str, r#type: Type) -> Self {
        self.variables.push(Variable {
            name,
            r#type,
            lower_case_keys: true,
        });
        self
    }

    /// Refuses a name, and all below it, with this message.
    #[must_use]
    pub fn reserve(mut self, name: &'static str, message: &'static str) -> Self {
        self.reserved.push((name, message));
        self
    }

    pub(crate) fn resolve(&self, name: &str) -> Resolved<'_> {
        let below = |longer: &str| {
            longer
                .strip_prefix(name)
                .is_some_and(|rest| rest.starts_with('.'))
        };
        if let Some((_, message)) = self.reserved.iter().find(|(reserved, _)| *reserved == name) {
            return Resolved::Reserved(message);
        }
        let found = self
            .variables
            .iter()
            .zip(0_u16..)
            .find(|(variable, _)| variable.name == name);
        match found {
            Some((variable, number)) => Resolved::Variable {
                id: VariableId(number),
                r#type: &variable.r#type,
            },
            None if self.variables.iter().any(|variable| below(variable.name)) => Resolved::Group,
            None => Resolved::Nothing,
        }
    }

    /// Whether values of a name are texts, always.
    pub(crate) fn is_text(&self, id: VariableId) -> bool {
        self.r#type(id) == Some(&Type::String)
    }

    /// Whether a name is a map of texts.
    pub(crate) fn has_texts(&self, id: VariableId) -> bool {
        matches!(self.r#type(id), Some(Type::Map(_, values)) if **values == Type::String)
    }

    fn r#type(&self, id: VariableId) -> Option<&Type> {
        let variable = self.variables.get(usize::from(id.0))?;
        Some(&variable.r#type)
    }

    pub(crate) fn has_lower_case_keys(&self, id: VariableId) -> bool {
        self.variables
            .get(usize::from(id.0))
            .is_some_and(|variable| variable.lower_case_keys)
    }

    /// What there is below a group, or at the top: `headers, method, path`.
    pub(crate) fn known(&self, group: Option<&str>) -> String {
        let mut names: Vec<&str> = self
            .variables
            .iter()
            .filter_map(|variable| match group {
                None => Some(variable.name),
                Some(group) => variable.name.strip_prefix(group)?.strip_prefix('.'),
            })
            .filter_map(|name| name.split('.').next())
            .collect();
        names.sort_unstable();
        names.dedup();
        names.join(", ")
    }
}
