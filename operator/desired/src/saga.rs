//! Sagas: the definition behind the spec, its faults, the revision that is made of it, and the status.
//!
//! ```text
//! spec --defaults--> Definition --check--> problems, or a revision: ConfigMap SAGA-REVISION, immutable
//! ```
//!
//! A revision is named by a hash of its content, so definitions that mean the same are the same revision, and nothing that runs
//! by one is ever changed under it. A spec with faults makes none: what runs are made of stays the last good one.

mod definition;
mod engine;
mod participants;
mod revision;
mod status;
mod validate;

use trellis_api::{Problem, Saga};
use trellis_saga_core::{Program, canonical};

pub use self::{
    definition::definition,
    engine::{Engine, Replica, Runs, waits_for},
    participants::participants_of,
    revision::{KEPT, config_map, excess, labels, of_config_map},
    status::{Made, Seen, deleting, status},
};

/// Most problems that a status shows.
const MOST_PROBLEMS: usize = 64;

/// A definition without faults.
#[derive(Debug, Clone)]
pub struct Compiled {
    /// Its expressions, compiled.
    pub program: Program,
    /// Its canonical form.
    pub text: String,
    /// What its revision is called.
    pub revision: String,
}

/// The definition with its expressions compiled.
///
/// # Errors
/// Every problem with its field, at most as many as a status shows.
pub fn compile(saga: &Saga) -> Result<Compiled, Vec<Problem>> {
    let problems = validate::problems(saga);
    if !problems.is_empty() {
        return Err(bounded(problems));
    }
    let definition = definition(saga);
    let program = trellis_saga_core::compile(&definition).map_err(|faults| {
        let problems = faults
            .into_iter()
            .map(|fault| Problem::error(format!("spec.{}", fault.field), fault.message));
        bounded(problems.collect())
    })?;
    let text = canonical::text(&definition);
    Ok(Compiled {
        program,
        revision: canonical::name(&text),
        text,
    })
}

/// As many as a status shows.
fn bounded(mut problems: Vec<Problem>) -> Vec<Problem> {
    let more = problems.len().saturating_sub(MOST_PROBLEMS);
    if more > 0 {
        problems.truncate(MOST_PROBLEMS);
        let message = format!("there are {more} problems more: mend these first");
        problems.push(Problem::error("spec", message));
    }
    problems
}
