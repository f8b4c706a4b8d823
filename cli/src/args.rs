//! The command line.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};

/// Check, render and rehearse Trellis objects without a cluster.
#[derive(Debug, Parser)]
#[command(name = "trellis", version, arg_required_else_help = true)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Print the faults of Microservices, RateLimitPolicies and Sagas with their field paths; exit with 1 if there are any.
    ///
    /// Warnings are printed too and do not change the exit code. Objects of other kinds are passed over.
    Check(Check),
    /// Print the objects that the operator would make.
    ///
    /// Microservices in the same files are each other's dependencies, gateways and rivals for routes, and RateLimitPolicies there
    /// limit them. Of a Saga it is the revision. What the operator
    /// takes from a cluster (live replicas, owners, the age of objects) is not there.
    Render(Render),
    /// Sagas.
    #[command(subcommand)]
    Saga(SagaCommand),
}

/// What to do with sagas.
#[derive(Debug, Subcommand)]
pub enum SagaCommand {
    /// Rehearse sagas with every fault at every call, and with two; exit with 1 if something was left behind or out of order.
    ///
    /// Participants are made up by the schemas of the saga and keep to the contract. At each call of each step: a refusal for good, a
    /// lost answer, an outage of an hour, the death of the engine, a request that arrives twice. Expressions are evaluated with
    /// values of many sorts. What ends stuck, out of order or with something left behind is printed as a timeline.
    Simulate(Simulate),
}

/// Which files.
#[derive(Debug, ClapArgs)]
pub struct Input {
    /// A YAML or JSON file, a folder of them, or `-` for the standard input. May be given more than once.
    #[arg(short = 'f', long = "filename", value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    /// Namespace of the objects that name none.
    #[arg(short, long, default_value = "default")]
    pub namespace: String,
}

/// `trellis check`.
#[derive(Debug, ClapArgs)]
pub struct Check {
    /// Which files.
    #[command(flatten)]
    pub input: Input,
    /// How to print the faults.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
}

/// `trellis render`.
#[derive(Debug, ClapArgs)]
pub struct Render {
    /// Which files.
    #[command(flatten)]
    pub input: Input,
    /// Image of the proxy, as the operator's flag of that name.
    #[arg(long, default_value = "trellis-proxy", value_name = "IMAGE")]
    pub proxy_image: String,
    /// Address of the operator's stream, as the operator's flag of that name.
    #[arg(
        long,
        default_value = "http://trellis-operator.trellis-system.svc:15010",
        value_name = "URL"
    )]
    pub config_stream_address: String,
    /// Address of the quota service, as the operator's flag of that name.
    #[arg(
        long,
        default_value = "http://trellis-quota.trellis-system.svc:8080",
        value_name = "URL"
    )]
    pub quota_address: String,
    /// Namespace of the operator, as its flag `--namespace`: no rate limit policy holds there.
    #[arg(long, default_value = "trellis-system", value_name = "NAMESPACE")]
    pub operator_namespace: String,
}

/// `trellis saga simulate`.
#[derive(Debug, ClapArgs)]
pub struct Simulate {
    /// Which files.
    #[command(flatten)]
    pub input: Input,
    /// How participants behave.
    #[arg(long, value_enum, default_value_t = Participants::Barrier)]
    pub participants: Participants,
    /// Most schedules with two faults.
    #[arg(long, default_value_t = 2000, value_name = "NUMBER")]
    pub pairs: usize,
    /// How many sets of values to make up, besides one with everything and one with as little as may be.
    #[arg(long, default_value_t = 100, value_name = "NUMBER")]
    pub values: u64,
    /// Fail as well if a schedule ends stuck.
    #[arg(long)]
    pub strict: bool,
    /// How to print what came of it.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
}

/// How participants behave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Participants {
    /// They know requests that they have seen, as the contract says.
    Barrier,
    /// They do whatever they are asked, as often as they are.
    Naive,
}

/// How to print faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// A line each: `file: kind/name: field: message`.
    Text,
    /// A JSON list.
    Json,
}
