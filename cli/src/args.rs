//! The command line.

mod conformance;

use std::path::PathBuf;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};

pub use self::conformance::Test;

/// Check, render and rehearse Trellis objects without a cluster; look at runs of sagas and mend them.
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
    /// Play duplicates, null compensations, hanging and late actions against a participant; exit with 1 if it breaks the contract.
    ///
    /// Requests have the headers that the engine sends, and each case has a run of its own. What was done is taken back at the end of
    /// each, as far as the participant can: name resources that nobody else uses. Which faults there are, and what they mean:
    /// docs/guide/saga.md, "Testing a participant".
    Test(Test),
    /// Start a run. The same key again is the same run.
    Start(Start),
    /// List runs, the newest first.
    List(List),
    /// Draw a run: what each step came to, and why it turned round or got stuck.
    Show(Show),
    /// Draw a run whenever it has changed, until it has ended; exit with 1 if it is not completed.
    Watch(Show),
    /// Try at once what is stuck or pauses.
    Retry(Retry),
    /// Take a call that is stuck or pauses for done.
    Skip(Skip),
    /// End runs as they are. What was done stays done.
    Complete(Which),
    /// Take back what was done. Refused once the pivot was tried, unless it is stuck.
    Cancel(Which),
}

/// Most runs that are listed at once.
pub const MOST_OF_A_PAGE: u32 = 500;

/// Where the engine is, and as whom it is asked.
#[derive(Debug, ClapArgs)]
pub struct EngineArgs {
    /// Namespace of the engine, and of the ServiceAccount.
    #[arg(long, default_value = "trellis-system", value_name = "NAMESPACE")]
    pub engine_namespace: String,
    /// Microservice of the engine.
    #[arg(long, default_value = "trellis-saga", value_name = "NAME")]
    pub engine: String,
    /// ServiceAccount that the command speaks as. Who runs it needs `create` on its `serviceaccounts/token`.
    #[arg(long, default_value = "trellis-cli", value_name = "NAME")]
    pub account: String,
}

/// Which runs.
#[derive(Debug, ClapArgs)]
pub struct Selection {
    /// Namespace of the saga.
    #[arg(short, long, default_value = "default")]
    pub namespace: String,
    /// Runs of this saga.
    #[arg(long)]
    pub saga: Option<String>,
    /// Runs with this status.
    #[arg(long, value_enum)]
    pub status: Option<Standing>,
}

/// Where a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Standing {
    /// On its way forward.
    Running,
    /// On its way back.
    Compensating,
    /// It cannot go on by itself.
    Stuck,
    /// All steps are done.
    Completed,
    /// What was done is taken back.
    Compensated,
}

/// `trellis saga start`.
#[derive(Debug, ClapArgs)]
pub struct Start {
    /// The saga.
    pub saga: String,
    /// Its namespace.
    #[arg(short, long, default_value = "default")]
    pub namespace: String,
    /// What it is started with, as JSON.
    #[arg(long, value_name = "JSON")]
    pub input: Option<String>,
    /// Idempotency key.
    #[arg(long)]
    pub key: Option<String>,
    /// Wait for its end, so many seconds at most; exit with 1 if it is not completed by then.
    #[arg(long, value_name = "SECONDS")]
    pub wait: Option<u32>,
    /// How to print the run.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
    /// Where the engine is.
    #[command(flatten)]
    pub engine: EngineArgs,
}

/// `trellis saga list`.
#[derive(Debug, ClapArgs)]
pub struct List {
    /// Which runs.
    #[command(flatten)]
    pub selection: Selection,
    /// At most so many.
    #[arg(long, default_value_t = 50, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..=i64::from(MOST_OF_A_PAGE)))]
    pub limit: u32,
    /// How to print them.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
    /// Where the engine is.
    #[command(flatten)]
    pub engine: EngineArgs,
}

/// `trellis saga show` and `watch`.
#[derive(Debug, ClapArgs)]
pub struct Show {
    /// Id of the run.
    pub run: String,
    /// How to print it.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
    /// Where the engine is.
    #[command(flatten)]
    pub engine: EngineArgs,
}

/// In which runs to intervene: one, or all that are meant.
#[derive(Debug, ClapArgs)]
pub struct Which {
    /// Id of the run. Unset: all that have not ended of `--saga`, with `--status`, or with `--all` of the namespace.
    pub run: Option<String>,
    /// Which runs, if it is not one.
    #[command(flatten)]
    pub selection: Selection,
    /// All runs of the namespace.
    #[arg(long, conflicts_with = "run")]
    pub all: bool,
    /// Why, for the audit.
    #[arg(long, default_value = "")]
    pub reason: String,
    /// How to print what became of it.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
    /// Where the engine is.
    #[command(flatten)]
    pub engine: EngineArgs,
}

/// `trellis saga retry`.
#[derive(Debug, ClapArgs)]
pub struct Retry {
    /// In which runs.
    #[command(flatten)]
    pub which: Which,
    /// Do this step, which is after the pivot, and those behind it anew, as if they had never been done.
    #[arg(long, value_name = "STEP")]
    pub from: Option<String>,
}

/// `trellis saga skip`.
#[derive(Debug, ClapArgs)]
pub struct Skip {
    /// In which runs.
    #[command(flatten)]
    pub which: Which,
    /// Step of the call.
    #[arg(long)]
    pub step: String,
    /// Place in the list of a `forEach`.
    #[arg(long, default_value_t = 0)]
    pub index: u32,
    /// The compensation, and not the action.
    #[arg(long)]
    pub compensation: bool,
    /// What the action would have answered, as JSON.
    #[arg(long, value_name = "JSON")]
    pub step_output: Option<String>,
}

impl Selection {
    /// The engine's path of a page of these runs.
    pub fn path(&self, limit: u32) -> String {
        let mut path = format!("/v1/runs?namespace={}&limit={limit}", self.namespace);
        if let Some(saga) = &self.saga {
            path += &format!("&saga={saga}");
        }
        if let Some(status) = &self.status {
            path += &format!("&status={status:?}");
        }
        path
    }
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
