//! The command line.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};

/// Check and render Trellis Microservices without a cluster.
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
    /// Print the faults of Microservices and RateLimitPolicies with their field paths; exit with 1 if there are any.
    ///
    /// Warnings are printed too and do not change the exit code. Objects of other kinds are passed over.
    Check(Check),
    /// Print the objects that the operator would make.
    ///
    /// Microservices in the same files are each other's dependencies, gateways and rivals for routes, and RateLimitPolicies there
    /// limit them. What the operator
    /// takes from a cluster (live replicas, owners, the age of objects) is not there.
    Render(Render),
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

/// How to print faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// A line each: `file: kind/name: field: message`.
    Text,
    /// A JSON list.
    Json,
}
