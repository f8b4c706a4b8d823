//! Whether there is room on the disk.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use nix::sys::statvfs::statvfs;

/// With less, builds, etcd and imports of images fail in ways that are hard to read.
const NEEDED: u64 = 2 << 30;

/// Fails if the disk of a folder, which is made if it is missing, is nearly full.
pub fn ensure(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("failed to create {}", folder.display()))?;
    let disk =
        statvfs(folder).with_context(|| format!("failed to look at the disk of {}", folder.display()))?;
    enough(folder, disk.blocks_available() * disk.fragment_size())
}

fn enough(folder: &Path, free: u64) -> Result<()> {
    if free < NEEDED {
        bail!(
            "the disk is nearly full: {} MB are free at {}, {} MB are needed\n  fix: free some space, or set XDG_STATE_HOME and \
             XDG_CACHE_HOME to a larger disk",
            free >> 20,
            folder.display(),
            NEEDED >> 20
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nearly_full_disk_is_an_error_that_says_where_and_how_much() {
        enough(Path::new("/a"), NEEDED).unwrap();
        let error = enough(Path::new("/a"), 5 << 20).unwrap_err().to_string();
        assert!(
            error.contains("5 MB are free at /a") && error.contains("fix:"),
            "{error}"
        );
    }
}
