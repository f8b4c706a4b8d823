//! The sandbox image of every pod: ten lines of C, linked statically.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::{Image, Run, layer};
use crate::command::output;
use crate::digest;

const SOURCE: &str = include_str!("../../../dev/cluster/pause/pause.c");

/// Compiles the program and makes the image.
pub fn build(folder: &Path) -> Result<Image> {
    let layer = layer::cached(
        folder,
        "pause",
        &digest::sha256(SOURCE.as_bytes()),
        |mut writer| {
            let (source, program) = (folder.join("pause.c"), folder.join("pause"));
            fs::write(&source, SOURCE).context("failed to write pause.c")?;
            output(
                Command::new("cc")
                    .args(["-static", "-Os", "-s", "-o"])
                    .arg(&program)
                    .arg(&source),
            )
            .context("failed to compile the pause program\n  fix: apt-get install gcc libc6-dev")?;
            let size = fs::metadata(&program)?.size();
            writer.file("pause", 0o755, 0, size, fs::File::open(&program)?)?;
            writer.finish()
        },
    )?;
    let run = Run {
        entrypoint: vec!["/pause".to_owned()],
        user: "65535:65535".to_owned(),
        environment: vec![],
    };
    Ok(Image {
        name: "pause".to_owned(),
        layers: vec![layer],
        run,
    })
}
