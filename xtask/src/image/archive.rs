//! An image as `docker save` writes it: `manifest.json`, a configuration, and the layers.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tar::{Builder, EntryType, Header};

use super::Layer;
use crate::digest;

/// How the container of an image is run.
#[derive(Clone, Debug, Default)]
pub struct Run {
    /// Program and first arguments.
    pub entrypoint: Vec<String>,
    /// Numeric `uid:gid`: `runAsNonRoot` cannot check a name.
    pub user: String,
    /// `NAME=value`.
    pub environment: Vec<String>,
}

/// An image whose layers are on disk.
#[derive(Clone, Debug)]
pub struct Image {
    /// Name in manifests.
    pub name: String,
    /// From the lowest to the highest.
    pub layers: Vec<Layer>,
    /// How it is run.
    pub run: Run,
}

impl Image {
    /// Name and tag inside the cluster; the tag is the first 12 digits of the image's id.
    pub fn reference(&self) -> Result<String> {
        self.reference_at("trellis.local")
    }

    /// The same under another registry or prefix.
    pub fn reference_at(&self, prefix: &str) -> Result<String> {
        let id = digest::sha256(&self.configuration()?);
        Ok(format!(
            "{}/{}:{}",
            prefix.trim_end_matches('/'),
            self.name,
            &id[..12]
        ))
    }

    /// Writes the archive.
    pub fn write(&self, file: &Path, reference: &str) -> Result<()> {
        let configuration = self.configuration()?;
        let id = digest::sha256(&configuration);
        let paths: Vec<String> = self
            .layers
            .iter()
            .map(|layer| format!("{}/layer.tar", layer.digest))
            .collect();
        let manifest = json!([{"Config": format!("{id}.json"), "RepoTags": [reference], "Layers": paths}]);
        if let Some(parent) = file.parent() {
            fs::create_dir_all(parent).with_context(|| format!("failed to create {}", parent.display()))?;
        }
        let output = File::create(file).with_context(|| format!("failed to create {}", file.display()))?;
        let mut tar = Builder::new(BufWriter::new(output));
        append(&mut tar, "manifest.json", &serde_json::to_vec(&manifest)?)?;
        append(&mut tar, &format!("{id}.json"), &configuration)?;
        for (layer, path) in self.layers.iter().zip(&paths) {
            let content = File::open(&layer.file)
                .with_context(|| format!("failed to read {}", layer.file.display()))?;
            let mut header = header(content.metadata()?.len());
            tar.append_data(&mut header, path, content)
                .context("failed to write an image")?;
        }
        tar.into_inner()
            .and_then(|mut output| output.flush())
            .context("failed to write an image")
    }

    /// The image's configuration (OCI image-spec, config.md): its digest is the image's id.
    fn configuration(&self) -> Result<Vec<u8>> {
        let layers: Vec<String> = self
            .layers
            .iter()
            .map(|layer| format!("sha256:{}", layer.digest))
            .collect();
        let value: Value = json!({
            "architecture": architecture(),
            "os": "linux",
            "created": "1970-01-01T00:00:00Z",
            "config": {"Entrypoint": self.run.entrypoint, "User": self.run.user, "Env": self.run.environment, "WorkingDir": "/"},
            "rootfs": {"type": "layers", "diff_ids": layers},
        });
        Ok(serde_json::to_vec(&value)?)
    }
}

/// The machine's architecture in Go's words, which image configurations use.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn append(tar: &mut Builder<impl Write>, path: &str, content: &[u8]) -> Result<()> {
    tar.append_data(&mut header(content.len() as u64), path, content)
        .context("failed to write an image")
}

fn header(size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::Regular);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    header
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::layer::Writer;

    fn image(folder: &Path, text: &str) -> Image {
        let mut writer = Writer::create(&folder.join("layer.tar")).unwrap();
        writer.text("etc/greeting", 0o644, text).unwrap();
        let run = Run {
            entrypoint: vec!["/a".to_owned()],
            user: "65532:65532".to_owned(),
            environment: vec![],
        };
        Image {
            name: "test".to_owned(),
            layers: vec![writer.finish().unwrap()],
            run,
        }
    }

    #[test]
    fn the_same_inputs_make_the_same_archive_and_other_inputs_another_tag() {
        let folder = std::env::temp_dir().join(format!("trellis-archive-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let write = |file: &str| {
            let image = image(&folder, "hello");
            let reference = image.reference().unwrap();
            image.write(&folder.join(file), &reference).unwrap();
            (reference, fs::read(folder.join(file)).unwrap())
        };
        let (first, second) = (write("1.tar"), write("2.tar"));
        assert_eq!(first, second);
        assert!(
            first.0.starts_with("trellis.local/test:") && first.0.len() == "trellis.local/test:".len() + 12
        );
        assert_ne!(image(&folder, "bye").reference().unwrap(), first.0);
        fs::remove_dir_all(folder).unwrap();
    }
}
