//! Every fault of a Microservice, with its field path and the fix.
//!
//! The API server checks most of these rules too, by the schema and the CEL rules of the CustomResourceDefinition. They
//! are checked again here for three reasons: `trellis check` has no API server, an object may be older than a rule, and
//! rules between lists cannot be written there. A fault never depends on other objects: whether an edit is valid does
//! not change because somebody else edits. What is missing elsewhere shows as a condition.

use trellis_api::{Microservice, Problem, Severity};

mod bindings;
mod dependencies;
mod environment;
mod gateway;
mod lifecycle;
mod metadata;
mod pod_metadata;
mod ports;
mod probes;
mod resilience;
mod resources;
mod role;
mod routes;
mod scaling;
mod security;

/// The faults found so far.
#[derive(Debug, Default)]
struct Problems(Vec<Problem>);

impl Problems {
    fn error(&mut self, field: impl Into<String>, message: impl Into<String>) {
        self.0.push(Problem::error(field, message));
    }

    fn name(&self, field: &str) -> bool {
        self.0.iter().any(|problem| problem.field == field)
    }

    fn warning(&mut self, field: impl Into<String>, message: impl Into<String>) {
        self.0.push(Problem::warning(field, message));
    }
}

/// Every problem of a Microservice, in the order of its fields.
pub(super) fn problems(cr: &Microservice) -> Vec<Problem> {
    let mut problems = Problems::default();
    let spec = &cr.spec;
    metadata::check(cr, &mut problems);
    role::check(spec, &mut problems);
    ports::check(spec, &mut problems);
    scaling::check(spec, &mut problems);
    environment::check(spec, &mut problems);
    bindings::check(spec, &mut problems);
    dependencies::check(cr, &mut problems);
    resilience::check(cr, &mut problems);
    probes::check(spec, &mut problems);
    resources::check(spec, &mut problems);
    security::check(spec, &mut problems);
    lifecycle::check(spec, &mut problems);
    pod_metadata::check(spec, &mut problems);
    routes::check(spec, &mut problems);
    gateway::check(spec, &mut problems);
    problems.0
}

/// Whether any of them stops the Microservice from being acted on.
pub(super) fn has_errors(problems: &[Problem]) -> bool {
    problems.iter().any(|problem| problem.severity == Severity::Error)
}
