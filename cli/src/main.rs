//! `trellis`: what the operator would say and make, without a cluster; and runs of sagas.
//!
//! The same pure code as the operator's ([`trellis_operator_desired`]), and the schema that the API server has: so an
//! answer here is the answer there.
//!
//! ```text
//! args        the command line
//! manifest    files -> documents, with kubectl's reading of YAML
//! duplicates  documents with the paths of keys that are there twice
//! schema      a document against the schema of its CustomResourceDefinition
//! check       documents -> faults
//! render      documents -> objects
//! simulate    sagas -> what they do when their steps fail
//! conformance a participant -> whether it keeps to the contract
//! runs        runs of sagas, by the engine in a cluster: the only part that needs one
//! report      faults, for people or as JSON
//! ```

use std::{error::Error, process::ExitCode};

use clap::Parser as _;

mod args;
mod check;
mod conformance;
mod duplicates;
mod manifest;
mod render;
mod report;
mod runs;
mod schema;
mod simulate;

fn main() -> ExitCode {
    let args = args::Args::parse();
    let no_faults = match &args.command {
        args::Command::Check(check) => check::run(check).map_err(render::Error::from),
        args::Command::Render(render) => render::run(render),
        args::Command::Saga(args::SagaCommand::Simulate(simulate)) => {
            simulate::run(simulate).map_err(render::Error::from)
        }
        args::Command::Saga(args::SagaCommand::Test(test)) => return leave(conformance::run(test)),
        args::Command::Saga(command) => return leave(runs::run(command)),
    };
    leave(no_faults)
}

/// 0: all is well; 1: it is not, or it could not be found out.
fn leave<E: Error>(result: Result<bool, E>) -> ExitCode {
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {}", chain(&error));
            ExitCode::FAILURE
        }
    }
}

/// An error and what caused it, on one line.
fn chain(error: &dyn Error) -> String {
    std::iter::successors(Some(error), |&error| error.source())
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}
