//! Two verbs that change the cluster must not run at once.

use std::fs::{self, File, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::Path;

use anyhow::{Context, Result, bail};

/// Holds the lock of a state folder until it is dropped, or until the process ends in any way. What changes the cluster asks
/// for one.
pub struct Lock {
    _file: File,
}

/// Takes the lock, or names the process that has it.
pub fn take(state: &Path) -> Result<Lock> {
    fs::create_dir_all(state).with_context(|| format!("failed to create {}", state.display()))?;
    let path = state.join("lock");
    let mut file = File::options()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(&path)
        .with_context(|| format!("failed to open {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            let _ = file.read_to_string(&mut holder);
            bail!(
                "another `cargo xtask` is changing the cluster (process {})\n  fix: wait for it to end, or end it",
                holder.trim()
            );
        }
        Err(TryLockError::Error(error)) => return Err(error).context("failed to take the lock"),
    }
    // Who has it is for the message above; on a full disk the lock holds without, and `down` still works.
    let _ = file
        .set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| write!(file, "{}", std::process::id()));
    Ok(Lock { _file: file })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_taker_is_told_who_has_the_lock() {
        let folder = std::env::temp_dir().join(format!("trellis-lock-{}", std::process::id()));
        let held = take(&folder).unwrap();
        let error = take(&folder).err().unwrap().to_string();
        assert!(error.contains(&std::process::id().to_string()), "{error}");
        drop(held);
        take(&folder).unwrap();
        fs::remove_dir_all(folder).unwrap();
    }
}
