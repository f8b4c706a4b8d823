//! `cargo xtask image build`: an image of any files, for tests and for trying things out.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;

use super::base::{self, Base};
use super::layer::Writer;
use super::{Image, Run};
use crate::paths::Paths;

/// What an image is made of.
#[derive(Args, Clone, Debug)]
pub struct Recipe {
    /// Name of the image, without registry and tag.
    #[arg(long)]
    pub name: String,
    /// Program and first arguments, separated by blanks.
    #[arg(long)]
    pub entrypoint: String,
    /// A file or folder of this machine and where it is in the image: HOST=IMAGE. May be given more than once.
    #[arg(long = "file", value_name = "HOST=IMAGE")]
    pub files: Vec<String>,
    /// Debian packages for a layer below the files: `libc6,ca-certificates`.
    #[arg(long, value_delimiter = ',', value_name = "PACKAGES")]
    pub base: Vec<String>,
    /// Numeric user and group.
    #[arg(long, default_value = "65532:65532")]
    pub user: String,
    /// NAME=VALUE. May be given more than once.
    #[arg(long = "env", value_name = "NAME=VALUE")]
    pub environment: Vec<String>,
}

impl Recipe {
    /// Makes the image; its layer of files is written into `folder`.
    pub fn build(&self, paths: &Paths, folder: &Path) -> Result<Image> {
        let mut layers = Vec::new();
        if !self.base.is_empty() {
            let mut packages: Vec<&str> = self.base.iter().map(String::as_str).collect();
            packages.sort_unstable();
            let name = format!("base-{}", packages.join("-"));
            let base = Base {
                name: &name,
                packages: &packages,
                excluded: &[],
                files: &[],
                folders: &[("tmp", 0o1777, 0)],
            };
            layers.push(base::build(&paths.layers(), &base)?);
        }
        let mut writer = Writer::create(&folder.join("files.tar"))?;
        let mut files = self
            .files
            .iter()
            .map(|file| parse(file))
            .collect::<Result<Vec<_>>>()?;
        files.sort();
        for (to, from) in files {
            if from.is_dir() {
                writer.tree(&from, Path::new(&to))?;
            } else {
                let content =
                    File::open(&from).with_context(|| format!("failed to read {}", from.display()))?;
                let data = content.metadata()?;
                // As it would be after a checkout by anybody: only whether it can be run matters.
                let mode = if fs::metadata(&from)?.permissions().mode() & 0o111 != 0 {
                    0o755
                } else {
                    0o644
                };
                writer.file(&to, mode, 0, data.len(), content)?;
            }
        }
        layers.push(writer.finish()?);
        let run = Run {
            entrypoint: self.entrypoint.split_whitespace().map(str::to_owned).collect(),
            user: self.user.clone(),
            environment: self.environment.clone(),
        };
        Ok(Image {
            name: self.name.clone(),
            layers,
            run,
        })
    }
}

/// `HOST=IMAGE` as the path in the image, without its first slash, and the path here.
fn parse(file: &str) -> Result<(String, PathBuf)> {
    match file.split_once('=') {
        Some((host, image)) if !host.is_empty() && image.starts_with('/') => {
            Ok((image.trim_start_matches('/').to_owned(), host.into()))
        }
        _ => bail!("--file {file}: expected HOST=IMAGE with an absolute path in the image"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_needs_an_absolute_path_in_the_image() {
        assert_eq!(
            parse("a/b=/c/d").unwrap(),
            ("c/d".to_owned(), PathBuf::from("a/b"))
        );
        assert!(parse("a").is_err() && parse("a=b").is_err() && parse("=/b").is_err());
    }
}
