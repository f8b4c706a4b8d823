//! `cargo xtask bench limiter` runs this; see [`trellis_proxy::timing`].

use mimalloc::MiMalloc;

/// The proxy's.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> anyhow::Result<()> {
    trellis_proxy::timing::run()
}
