//! One layer of an image: an uncompressed tar file whose bytes depend on the contents only.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

use crate::digest;

/// A finished layer.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Layer {
    /// The tar file.
    pub file: PathBuf,
    /// SHA-256 of the file: its `diff_id`.
    pub digest: String,
}

/// Writes a layer; call [`Writer::finish`].
pub struct Writer {
    file: PathBuf,
    tar: Builder<Digesting<BufWriter<File>>>,
}

impl Writer {
    /// Begins a layer that will be at `file`.
    pub fn create(file: &Path) -> Result<Self> {
        if let Some(parent) = file.parent() {
            fs::create_dir_all(parent).with_context(|| format!("failed to create {}", parent.display()))?;
        }
        let output =
            File::create(partial(file)).with_context(|| format!("failed to create {}", file.display()))?;
        let mut tar = Builder::new(Digesting {
            inner: BufWriter::new(output),
            digest: Sha256::new(),
        });
        tar.mode(tar::HeaderMode::Deterministic);
        Ok(Self {
            file: file.to_owned(),
            tar,
        })
    }

    /// Adds a file with these bytes, owned by root unless `owner` says otherwise.
    pub fn file(&mut self, path: &str, mode: u32, owner: u64, size: u64, content: impl Read) -> Result<()> {
        let mut header = header(EntryType::Regular, mode, owner);
        header.set_size(size);
        self.tar
            .append_data(&mut header, path, content)
            .with_context(|| format!("failed to add {path}"))
    }

    /// Adds a file with this text.
    pub fn text(&mut self, path: &str, mode: u32, content: &str) -> Result<()> {
        self.file(path, mode, 0, content.len() as u64, content.as_bytes())
    }

    /// Adds an empty folder.
    pub fn folder(&mut self, path: &str, mode: u32, owner: u64) -> Result<()> {
        self.tar
            .append_data(&mut header(EntryType::Directory, mode, owner), path, io::empty())
            .with_context(|| format!("failed to add {path}"))
    }

    /// Adds a file or link of another tar: its own mode and owner, our time.
    pub fn entry(&mut self, path: &Path, entry: &mut tar::Entry<'_, impl Read>) -> Result<()> {
        let old = entry.header();
        let mut new = header(old.entry_type(), old.mode()?, old.uid()?);
        new.set_gid(old.gid()?);
        new.set_size(old.size()?);
        if matches!(old.entry_type(), EntryType::Symlink | EntryType::Link) {
            let target = entry
                .link_name()?
                .context("a link without a target")?
                .into_owned();
            self.tar.append_link(&mut new, path, target)?;
        } else {
            self.tar.append_data(&mut new, path, entry)?;
        }
        Ok(())
    }

    /// Adds everything under a folder of this machine, in the order of names, owned by root.
    pub fn tree(&mut self, from: &Path, to: &Path) -> Result<()> {
        let data =
            fs::symlink_metadata(from).with_context(|| format!("failed to read {}", from.display()))?;
        let mode = data.permissions().mode() & 0o7777;
        if data.is_dir() {
            if to.as_os_str() != "" {
                self.tar
                    .append_data(&mut header(EntryType::Directory, mode, 0), to, io::empty())?;
            }
            let mut names = fs::read_dir(from)?
                .map(|entry| Ok(entry?.file_name()))
                .collect::<io::Result<Vec<_>>>()?;
            names.sort();
            for name in names {
                self.tree(&from.join(&name), &to.join(&name))?;
            }
        } else if data.is_symlink() {
            self.tar.append_link(
                &mut header(EntryType::Symlink, 0o777, 0),
                to,
                fs::read_link(from)?,
            )?;
        } else {
            let content = File::open(from).with_context(|| format!("failed to read {}", from.display()))?;
            self.file(&to.display().to_string(), mode, 0, data.len(), content)?;
        }
        Ok(())
    }

    /// Ends the layer.
    pub fn finish(self) -> Result<Layer> {
        let mut output = self.tar.into_inner().context("failed to end a layer")?;
        output.inner.flush().context("failed to write a layer")?;
        fs::rename(partial(&self.file), &self.file).context("failed to rename a layer")?;
        Ok(Layer {
            file: self.file,
            digest: digest::hex(&output.digest.finalize()),
        })
    }
}

fn partial(file: &Path) -> PathBuf {
    // Two processes may make the same layer at the same time.
    file.with_extension(format!("{}.partial", std::process::id()))
}

fn header(kind: EntryType, mode: u32, owner: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(owner);
    header.set_gid(owner);
    header.set_mtime(0);
    header.set_size(0);
    header
}

/// Makes a layer unless the one on disk was made from the same `source`, which is any text that changes with the inputs.
pub fn cached(
    folder: &Path,
    name: &str,
    source: &str,
    make: impl FnOnce(Writer) -> Result<Layer>,
) -> Result<Layer> {
    #[derive(Deserialize, Serialize)]
    struct Made {
        source: String,
        layer: Layer,
    }
    let note = folder.join(format!("{name}.json"));
    let known: Option<Made> = fs::read(&note)
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok());
    if let Some(made) = known.filter(|made| made.source == source && made.layer.file.exists()) {
        return Ok(made.layer);
    }
    let layer = make(Writer::create(&folder.join(format!("{name}.tar")))?)?;
    fs::write(
        &note,
        serde_json::to_vec(&Made {
            source: source.to_owned(),
            layer: layer.clone(),
        })?,
    )
    .context("failed to note a layer")?;
    Ok(layer)
}

/// A text that changes whenever the file is written again.
pub fn stamp(file: &Path) -> Result<String> {
    let data = fs::metadata(file).with_context(|| format!("failed to read {}", file.display()))?;
    Ok(format!(
        "{} {} {}.{:09}",
        file.display(),
        data.len(),
        data.mtime(),
        data.mtime_nsec()
    ))
}

/// Passes bytes on and digests them.
struct Digesting<W> {
    inner: W,
    digest: Sha256,
}

impl<W: Write> Write for Digesting<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.digest.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("trellis-layer-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    #[test]
    fn the_same_contents_with_other_times_make_the_same_layer() {
        let folder = scratch("times");
        let tree = folder.join("tree");
        fs::create_dir_all(tree.join("sub")).unwrap();
        fs::write(tree.join("sub/a"), "one").unwrap();
        fs::write(tree.join("b"), "two").unwrap();
        let make = |name: &str| {
            let mut writer = Writer::create(&folder.join(name)).unwrap();
            writer.tree(&tree, Path::new("")).unwrap();
            writer.finish().unwrap()
        };
        let first = make("1.tar");
        File::options()
            .write(true)
            .open(tree.join("b"))
            .unwrap()
            .set_modified(SystemTime::now() - Duration::from_secs(99))
            .unwrap();
        let second = make("2.tar");
        assert_eq!(first.digest, second.digest);
        assert_eq!(fs::read(first.file).unwrap(), fs::read(second.file).unwrap());
        fs::write(tree.join("b"), "six").unwrap();
        assert_ne!(make("3.tar").digest, first.digest);
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_layer_is_made_again_only_when_its_source_changes() {
        let folder = scratch("cached");
        let mut made = 0;
        for source in ["a", "a", "b"] {
            cached(&folder, "x", source, |mut writer| {
                made += 1;
                writer.text("f", 0o644, source)?;
                writer.finish()
            })
            .unwrap();
        }
        assert_eq!(made, 2);
        fs::remove_dir_all(folder).unwrap();
    }
}
