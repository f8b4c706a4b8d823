//! The command line of `trellis saga test`.

use clap::Args as ClapArgs;

use super::Output;

/// `trellis saga test`.
#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Example:
  trellis saga test http://127.0.0.1:8080/reservations \\
    --body '{\"id\": \"${run.id}\", \"lines\": [{\"sku\": \"tea\", \"quantity\": 2}]}' \\
    --compensation 'DELETE /reservations/${run.id}' --state '/items/tea#/reserved'")]
pub struct Test {
    /// Where the action is sent. Here and below, `${run.id}` is the id of the run, another in each case.
    pub url: String,
    /// Method of the action.
    #[arg(short = 'X', long, default_value = "POST")]
    pub method: String,
    /// Body of the action, as JSON.
    #[arg(long, value_name = "JSON")]
    pub body: Option<String>,
    /// What takes the action back: `METHOD URL`, or `METHOD /PATH` of the same participant. Unset: only the action is tested.
    #[arg(long, value_name = "METHOD URL")]
    pub compensation: Option<String>,
    /// Body of the compensation, as JSON.
    #[arg(long, value_name = "JSON", requires = "compensation")]
    pub compensation_body: Option<String>,
    /// URL, or path of the same participant, whose JSON shows the effect, and nothing that others change meanwhile. Behind `#` the
    /// field that is looked at, as a JSON pointer: `/items/tea#/reserved`. Unset: only answers are judged.
    #[arg(long, value_name = "URL")]
    pub state: Option<String>,
    /// What was taken back need not look as before: the service keeps a record of it, such as `{"status": "voided"}`.
    #[arg(long, requires = "state")]
    pub keeps_record: bool,
    /// A header of every request, `NAME: VALUE`. May be given more than once. Those of the engine are sent anyway.
    #[arg(short = 'H', long = "header", value_name = "HEADER")]
    pub headers: Vec<String>,
    /// How many copies come at once where several do.
    #[arg(long, default_value_t = 8, value_name = "NUMBER", value_parser = clap::value_parser!(u16).range(2..=64))]
    pub copies: u16,
    /// How long to wait for an answer, and how long to try again after one that may pass.
    #[arg(long, default_value_t = 10, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=60))]
    pub timeout: u64,
    /// How to print what came of it.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
}
