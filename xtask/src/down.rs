//! `cargo xtask down`: the machine as it was, the data kept.

use anyhow::Result;

use crate::lock;
use crate::paths::Paths;
use crate::provider::{self, Options};

/// Stops the cluster; warns about what could not be removed.
pub fn down(paths: &Paths) -> Result<()> {
    let _lock = lock::take(&paths.state)?;
    let provider = provider::choose(paths, None, &Options::default())?;
    report(&provider.stop()?);
    Ok(())
}

/// Names what `down` leaves behind.
pub fn report(left: &[String]) {
    if !left.is_empty() {
        eprintln!("warning: the machine is not quite as it was before the first `up`; there is now:");
        for line in left {
            eprintln!("    {line}");
        }
    }
}
