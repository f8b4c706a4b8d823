//! The images of our own programs: one compile of the workspace, one layer a binary.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::{Image, Layer, Run, base, layer};
use crate::command::{cargo, output, tail};
use crate::paths::Paths;
use crate::progress::{self, Step};
use crate::workspace::Workspace;

/// Compiles, for speed if wanted, and makes the images.
pub fn build(paths: &Paths, release: bool) -> Result<Vec<Image>> {
    let profile: &[&str] = if release { &["--profile", "optimized"] } else { &[] };
    let workspace = Workspace::read(&paths.repository)?;
    let packages = workspace.images();
    let binaries = compile(&paths.repository, &packages, profile)?;
    let folder = paths.layers();
    let step = progress::step("images of the services");
    let base = base::of_services(&folder)?;
    let images = packages
        .iter()
        .map(|name| {
            let binary = binaries
                .get(*name)
                .with_context(|| format!("cargo built no binary {name}"))?;
            let run = Run {
                entrypoint: vec![format!("/usr/local/bin/{name}")],
                user: "65532:65532".to_owned(),
                environment: vec![
                    "PATH=/usr/local/bin:/usr/bin:/bin".to_owned(),
                    "SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt".to_owned(),
                ],
            };
            Ok(Image {
                name: (*name).to_owned(),
                layers: vec![base.clone(), layer_of(&folder, name, binary)?],
                run,
            })
        })
        .collect::<Result<Vec<_>>>()?;
    step.done("");
    Ok(images)
}

/// The layer of one binary. Line tables stay in the target folder: they are half of the file, and every import carries it.
fn layer_of(folder: &Path, name: &str, binary: &Path) -> Result<Layer> {
    layer::cached(folder, name, &layer::stamp(binary)?, |mut writer| {
        let stripped = folder.join(format!("{name}.stripped"));
        output(
            Command::new("strip")
                .args(["--strip-debug", "-o"])
                .arg(&stripped)
                .arg(binary),
        )?;
        let size = fs::metadata(&stripped)?.len();
        writer.file(
            &format!("usr/local/bin/{name}"),
            0o755,
            0,
            size,
            File::open(&stripped)?,
        )?;
        fs::remove_file(&stripped)?;
        writer.finish()
    })
}

/// Runs `cargo build` with more arguments, and returns where each binary is.
pub fn compile(repository: &Path, packages: &[&str], arguments: &[&str]) -> Result<HashMap<String, PathBuf>> {
    let step = progress::step(format!("compiling {}", packages.join(", ")));
    let mut child = cargo(repository)
        .args(["build", "--bins", "--message-format=json-render-diagnostics"])
        .args(packages.iter().flat_map(|package| ["--package", package]))
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("failed to start cargo")?;
    let errors = child.stderr.take().context("no error output of cargo")?;
    let messages = child.stdout.take().context("no output of cargo")?;
    let (text, artifacts) = thread::scope(|scope| {
        let reader = scope.spawn(|| read_errors(errors, &step));
        let artifacts = read_artifacts(messages, &step);
        (reader.join().unwrap_or_default(), artifacts)
    });
    let (binaries, built) = artifacts?;
    let status = child.wait().context("failed to wait for cargo")?;
    if !status.success() {
        bail!("failed to compile:\n{}", tail(&text, 60));
    }
    step.done(&if built == 0 {
        "nothing to do".to_owned()
    } else {
        format!("{built} crates")
    });
    Ok(binaries)
}

/// What cargo says to people: kept for an error, and shown where it explains a wait.
fn read_errors(output: impl Read, step: &Step) -> String {
    let mut text = String::new();
    // What could be read is shown even if the pipe breaks.
    for line in BufReader::new(output).lines().map_while(Result::ok) {
        if line.trim_start().starts_with("Blocking") {
            step.detail("waiting for another cargo to end");
        }
        text.push_str(&line);
        text.push('\n');
    }
    text
}

/// What cargo says to programs: where each binary is, and how many crates were compiled.
fn read_artifacts(output: impl Read, step: &Step) -> Result<(HashMap<String, PathBuf>, usize)> {
    let mut binaries = HashMap::new();
    let (mut fresh, mut built) = (0, 0);
    for line in BufReader::new(output).lines() {
        let line = line.context("failed to read the output of cargo")?;
        let Ok(message) = serde_json::from_str::<Value>(&line) else {
            continue;
        };
        if message["reason"] != "compiler-artifact" {
            continue;
        }
        let name = message["target"]["name"].as_str().unwrap_or_default().to_owned();
        if message["fresh"] == true {
            fresh += 1;
        } else {
            built += 1;
            step.detail(format!(
                "{built} crates compiled, {fresh} were up to date; last {name}"
            ));
        }
        if let Some(path) = message["executable"].as_str() {
            binaries.insert(name, PathBuf::from(path));
        }
    }
    Ok((binaries, built))
}
