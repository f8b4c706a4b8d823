//! Files that hold keys or passwords: nobody else can read them, not even between two system calls, and a full disk or a
//! killed process leaves the old content.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, Result};

/// Replaces the file.
pub fn write(file: &Path, content: &[u8]) -> Result<()> {
    let mut name = file.as_os_str().to_owned();
    name.push(".new");
    replace(Path::new(&name), file, content).with_context(|| format!("failed to write {}", file.display()))
}

fn replace(new: &Path, file: &Path, content: &[u8]) -> Result<()> {
    // One that a killed process left has the mode that it was made with; the mode below is for new files only.
    match fs::remove_file(new) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(new)?
        .write_all(content)?;
    Ok(fs::rename(new, file)?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_file_that_everybody_could_read_is_replaced_by_one_that_only_its_owner_can() {
        let folder = std::env::temp_dir().join(format!("trellis-secret-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let file = folder.join("a.conf");
        for left in [&file, &folder.join("a.conf.new")] {
            fs::write(left, "old").unwrap();
            fs::set_permissions(left, fs::Permissions::from_mode(0o644)).unwrap();
        }
        write(&file, b"new").unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "new");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
        fs::remove_dir_all(folder).unwrap();
    }
}
