//! `cargo xtask soak`: long runs, and what they found.
//!
//! What speaks to the gateway of the development cluster for long is a program of its own, in `tests/soak`: xtask builds without
//! any of that. The others are tests, of which an ordinary run has a short form or none.

use std::convert::Infallible;
use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result};
use clap::Parser;

use crate::command::cargo;
use crate::node::binary;
use crate::paths::Paths;

/// The tests of the operator that start a control plane of their own, and what they are compiled with.
pub const CONVERGENCE: &str = "e2e_convergence";
/// The operator can be told to fail.
pub const FAULTS: &str = "trellis-operator/faults";
/// The test of limits over all pods.
const QUOTA: [&str; 2] = ["e2e_cluster", "quota::"];
/// Environment variable with the folder of the components of Kubernetes.
pub const PROGRAMS: &str = "TRELLIS_NODE_PROGRAMS";

/// Long forms of tests.
#[derive(Debug, Parser)]
#[command(bin_name = "cargo xtask soak")]
enum Long {
    /// The operator dies, or loses an answer, at each of its writes: the end must be the same. No cluster is needed
    Crashes,
    /// Nothing changes, then everything is looked at again: no write but Leases. No cluster is needed
    Rest {
        /// How long nothing changes
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=600))]
        minutes: u32,
        /// How many there are
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=5000))]
        microservices: u32,
    },
    /// One limit over three pods, while the quota authority is killed and the limit is raised. On the development cluster
    Quota {
        /// The limit's window, in seconds; it takes twelve of them
        #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(6..=3600))]
        window: u32,
    },
    /// Histories of sagas in which everything goes wrong. No cluster is needed
    Sagas {
        /// How many
        #[arg(long, default_value_t = 1_000_000)]
        histories: u64,
        /// This one alone, again
        #[arg(long, value_name = "SEED", conflicts_with = "histories")]
        seed: Option<u64>,
    },
}

/// Becomes the program that does it, so that an order to end reaches it: it puts back what it has changed.
pub fn run(paths: &Paths, arguments: &[String]) -> Result<Infallible> {
    let mut command = cargo(&paths.repository);
    match arguments.first().map(String::as_str) {
        Some("crashes" | "rest" | "quota" | "sagas") => {
            let name = "cargo xtask soak".to_owned();
            let verb = Long::parse_from([&name].into_iter().chain(arguments));
            if matches!(verb, Long::Crashes | Long::Rest { .. }) {
                let programs = binary::ensure(&paths.cluster_sources(), &paths.cache)?;
                command.env(PROGRAMS, programs);
            }
            test(&mut command, &verb);
        }
        _ => {
            command
                .args(["run", "--quiet", "--package", "soak", "--"])
                .args(arguments);
        }
    }
    Err(command.exec()).context("failed to start cargo")
}

fn test<'a>(command: &'a mut Command, verb: &Long) -> &'a mut Command {
    if let Long::Sagas { histories, seed } = verb {
        return sagas(command, *histories, *seed);
    }
    // Of the whole workspace: a package alone has other features of its dependencies, and cargo would compile those anew.
    command.args(["test", "--quiet", "--workspace", "--features", FAULTS]);
    let mut convergence = |filter: &str| {
        command.args(["--test", CONVERGENCE, "--", "--ignored", "--nocapture", filter]);
    };
    match verb {
        Long::Crashes => convergence("crashes::"),
        Long::Rest {
            minutes,
            microservices,
        } => {
            convergence("rest::");
            command
                .env("TRELLIS_REST_MINUTES", minutes.to_string())
                .env("TRELLIS_REST_MICROSERVICES", microservices.to_string());
        }
        Long::Quota { window } => {
            let [target, filter] = QUOTA;
            command
                .args(["--test", target, "--", "--nocapture", filter])
                .env("TRELLIS_QUOTA_WINDOW", window.to_string());
        }
        Long::Sagas { .. } => {}
    }
    command
}

/// Without the rest of the workspace, so that it is soon compiled for speed.
fn sagas(command: &mut Command, histories: u64, seed: Option<u64>) -> &mut Command {
    command.args(["test", "--quiet", "--release", "--package", "trellis-saga-core"]);
    command.args(["--test", "simulation", "--", "--nocapture"]);
    match seed {
        Some(seed) => command.arg("one_seed").env("TRELLIS_SEED", seed.to_string()),
        None => command
            .arg("whatever_goes_wrong")
            .env("TRELLIS_SEEDS", histories.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_reaches_the_test() {
        let verb = Long::parse_from(["soak", "rest", "--minutes", "2"]);
        let mut command = Command::new("cargo");
        test(&mut command, &verb);
        let set: Vec<_> = command
            .get_envs()
            .filter_map(|(name, value)| Some((name, value?)))
            .collect();
        assert_eq!(
            set,
            [
                ("TRELLIS_REST_MICROSERVICES".as_ref(), "50".as_ref()),
                ("TRELLIS_REST_MINUTES".as_ref(), "2".as_ref()),
            ]
        );
        assert!(command.get_args().any(|argument| argument == "rest::"));
        assert!(Long::try_parse_from(["soak", "rest", "--minutes", "0"]).is_err());
    }
}
