//! Changes of files of which all are made, or none.
//!
//! What was made is taken back when a later change fails. A process that is killed in between leaves files that nobody names,
//! if those that name them come last.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context, Result};

/// A file that is made, or that gets another text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// From the root of the checkout.
    place: String,
    old: Option<String>,
    new: String,
}

impl Change {
    /// A file that must not be there yet.
    pub fn create(place: &str, new: String) -> Self {
        Self {
            place: place.to_owned(),
            old: None,
            new,
        }
    }

    /// Another text for a file that is there.
    pub fn edit(place: &str, old: String, new: String) -> Self {
        Self {
            place: place.to_owned(),
            old: Some(old),
            new,
        }
    }

    fn make(&self, root: &Path) -> Result<()> {
        let file = root.join(&self.place);
        let made = match &self.old {
            None => create(&file, &self.new),
            Some(_) => replace(&file, &self.new),
        };
        made.with_context(|| format!("failed to write {}", self.place))
    }

    fn take_back(&self, root: &Path) -> Result<()> {
        let file = root.join(&self.place);
        let taken = match &self.old {
            None => remove(&file),
            Some(old) => replace(&file, old),
        };
        taken.with_context(|| format!("failed to take back {}", self.place))
    }
}

/// Makes all, or none and says why.
pub fn make(root: &Path, changes: &[Change]) -> Result<()> {
    for (at, change) in changes.iter().enumerate() {
        let Err(error) = change.make(root) else { continue };
        let mut left = Vec::new();
        for made in changes[..at].iter().rev() {
            if let Err(fault) = made.take_back(root) {
                left.push(format!("{fault:#}"));
            }
        }
        return Err(if left.is_empty() {
            error.context("nothing was changed")
        } else {
            error.context(format!(
                "{}\n  fix: git status shows what is left",
                left.join(", ")
            ))
        });
    }
    Ok(())
}

/// Half a file is none.
fn create(file: &Path, text: &str) -> Result<()> {
    let folder = file.parent().context("a file without a folder")?;
    let made = fs::create_dir_all(folder).and_then(|()| File::create_new(file));
    let mut new = made.inspect_err(|_| remove_empty(folder))?;
    let written = new.write_all(text.as_bytes());
    if written.is_err() {
        remove(file)?;
    }
    Ok(written?)
}

/// A full disk leaves the old text.
fn replace(file: &Path, text: &str) -> Result<()> {
    let mut new = file.as_os_str().to_owned();
    new.push(".new");
    let new = Path::new(&new);
    let written = fs::write(new, text).and_then(|()| fs::rename(new, file));
    if written.is_err() {
        let _ = fs::remove_file(new);
    }
    Ok(written?)
}

/// With the folders that nothing else is in.
fn remove(file: &Path) -> Result<()> {
    fs::remove_file(file)?;
    file.parent().into_iter().for_each(remove_empty);
    Ok(())
}

fn remove_empty(folder: &Path) {
    for folder in folder.ancestors() {
        // One that does not exist may have been on the way to one that does.
        if folder.exists() && fs::remove_dir(folder).is_err() {
            break;
        }
    }
}
