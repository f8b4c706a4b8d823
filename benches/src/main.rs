//! Side-by-side benchmarks: a subject and its peers, in turns, in one run, on one machine.
//!
//! `cargo xtask bench` builds what is measured, gets the peers, and runs this with their paths. What is measured and what
//! the figures mean is in `docs/reference/benchmarks.md`. Machines are shared and noisy: read ratios and medians.

mod arguments;
mod http;
mod limiter;
mod machine;
mod operator;
mod process;
mod proxy;
mod report;
mod saga;
mod saga_core;
mod statistics;
mod wait;

use clap::Parser;

fn main() -> anyhow::Result<()> {
    arguments::Arguments::parse().run()
}
