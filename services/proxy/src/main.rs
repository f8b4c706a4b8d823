//! The binary; see the library.

use std::process::ExitCode;

use clap::Parser;
use trellis_proxy::args::Args;

fn main() -> anyhow::Result<ExitCode> {
    trellis_proxy::execute(Args::parse())
}
