//! Talking to the API server by way of `kubectl`: the same words a user would type.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::command::{output, output_with_input, succeeds};

/// The field manager of everything that xtask applies.
const MANAGER: &str = "trellis.dev/xtask";

/// A `kubectl` program and the cluster it talks to.
#[derive(Clone, Debug)]
pub struct Kubectl {
    program: PathBuf,
    kubeconfig: Option<PathBuf>,
}

impl Kubectl {
    /// Talks to the cluster of this kubeconfig file.
    pub fn new(program: impl Into<PathBuf>, kubeconfig: impl Into<PathBuf>) -> Self {
        Self {
            program: program.into(),
            kubeconfig: Some(kubeconfig.into()),
        }
    }

    /// Talks to whatever cluster the user's own configuration names.
    pub fn ambient(program: impl Into<PathBuf>) -> Self {
        Self {
            program: program.into(),
            kubeconfig: None,
        }
    }

    /// The program's path.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// The file that names the cluster, if it is not the user's own.
    pub fn kubeconfig(&self) -> Option<&Path> {
        self.kubeconfig.as_deref()
    }

    /// A command that is not run yet.
    pub fn command<S: AsRef<std::ffi::OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(&self.program);
        if let Some(file) = &self.kubeconfig {
            command.env("KUBECONFIG", file);
        }
        command.args(arguments);
        command
    }

    /// Runs and returns what was printed.
    pub fn output(&self, arguments: &[&str]) -> Result<String> {
        output(&mut self.command(arguments))
    }

    /// Runs and parses what was printed as JSON.
    pub fn json(&self, arguments: &[&str]) -> Result<Value> {
        let text = self.output(arguments)?;
        serde_json::from_str(&text)
            .with_context(|| format!("failed to parse the output of kubectl {}", arguments.join(" ")))
    }

    /// Whether the command ends well.
    pub fn succeeds(&self, arguments: &[&str]) -> bool {
        succeeds(&mut self.command(arguments))
    }

    /// Applies YAML or JSON on the server's side and returns one line an object.
    pub fn apply(&self, objects: &str) -> Result<String> {
        let manager = format!("--field-manager={MANAGER}");
        let arguments = ["apply", "--server-side", "--force-conflicts", &manager, "-f", "-"];
        output_with_input(&mut self.command(arguments), objects)
    }
}
