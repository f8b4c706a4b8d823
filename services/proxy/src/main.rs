//! The binary; see the library.

use std::process::ExitCode;

use clap::Parser;
use mimalloc::MiMalloc;
use trellis_proxy::args::Args;

/// A request allocates dozens of times; glibc's allocator costs a gateway a twentieth more CPU for 1 MiB less.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> anyhow::Result<ExitCode> {
    trellis_proxy::execute(Args::parse())
}
