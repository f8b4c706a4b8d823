//! Faults, for people or as JSON.

use std::{
    fmt,
    io::{self, Write as _},
};

use serde::Serialize;
use serde_json::Value;
use trellis_api::{Problem, Severity};

use crate::check::Checked;

/// A fault and where it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// File, as it was named; `stdin` for the standard input.
    pub file: String,
    /// Kind of the object; none if the file could not be read as objects.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Name of the object.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// `Error` or `Warning`.
    pub severity: Severity,
    /// Path of the field.
    pub field: String,
    /// What is wrong and how to mend it.
    pub message: String,
}

impl Finding {
    /// A fault of a file as a whole.
    pub fn of_file(file: &str, message: &str) -> Self {
        Self {
            file: file.to_owned(),
            kind: None,
            name: None,
            severity: Severity::Error,
            field: String::new(),
            message: message.to_owned(),
        }
    }

    /// A fault of an object.
    pub fn of_object(file: &str, document: &Value, problem: Problem) -> Self {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        Self {
            file: file.to_owned(),
            kind: text(&document["kind"]),
            name: text(&document["metadata"]["name"]),
            severity: problem.severity,
            field: problem.field,
            message: problem.message,
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.file)?;
        if self.kind.is_some() || self.name.is_some() {
            let unknown = || "?".to_owned();
            write!(
                f,
                "{}/{}: ",
                self.kind.clone().unwrap_or_else(unknown),
                self.name.clone().unwrap_or_else(unknown)
            )?;
        }
        if self.severity == Severity::Warning {
            f.write_str("warning: ")?;
        }
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.message)
    }
}

/// A line for each, and one that says so if nothing is in the way.
pub fn text(checked: &Checked) -> String {
    let mut text: String = checked
        .findings
        .iter()
        .map(|finding| format!("{finding}\n"))
        .collect();
    if !checked.has_errors() {
        let plural = if checked.count == 1 { "" } else { "s" };
        text += &format!("{} object{plural} checked: no faults\n", checked.count);
    }
    text
}

/// A JSON list.
pub fn json(checked: &Checked) -> String {
    // Plain data with string keys always serialises.
    serde_json::to_string_pretty(&checked.findings).unwrap_or_default() + "\n"
}

/// Writes to the standard output.
///
/// # Errors
/// It cannot be written to. That nobody reads any more (`trellis render | head`) is fine.
pub fn print(text: &str) -> io::Result<()> {
    let mut output = io::stdout().lock();
    match output.write_all(text.as_bytes()).and_then(|()| output.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}
