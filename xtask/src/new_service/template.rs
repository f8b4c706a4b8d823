//! The files of a service, with its name to be filled in.
//!
//! They lie below `xtask/templates` as they will lie in the service, so that they can be read, searched and formatted as
//! what they become; only `Cargo.toml.in` is not called what it is, or programs would take its folder for a package.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::name::Name;
use crate::command::output_with_input;

/// Where the name belongs.
const PLACEHOLDER: &str = "__name__";

macro_rules! of_service {
    ($place:literal) => {
        (
            concat!("services/__name__/", $place),
            include_str!(concat!("../../templates/service/", $place)),
        )
    };
}

/// Where each file will be, and its text.
const FILES: [(&str, &str); 15] = [
    (
        "services/__name__/Cargo.toml",
        include_str!("../../templates/service/Cargo.toml.in"),
    ),
    of_service!("openapi.json"),
    (
        "services/__name__/migrations/0001___name__.sql",
        include_str!("../../templates/service/migrations/0001_items.sql"),
    ),
    // Never another than the crate's own.
    (
        "services/__name__/migrations/0002_saga_barrier.sql",
        include_str!("../../../crates/saga-participant/sql/barrier.sql"),
    ),
    of_service!("src/config.rs"),
    of_service!("src/domain.rs"),
    of_service!("src/domain/tests.rs"),
    of_service!("src/error.rs"),
    of_service!("src/handlers.rs"),
    of_service!("src/main.rs"),
    of_service!("src/routes.rs"),
    of_service!("src/routes/tests.rs"),
    of_service!("src/store.rs"),
    of_service!("tests/process.rs"),
    (
        "manifests/samples/shop/__name__.yaml",
        include_str!("../../templates/microservice.yaml"),
    ),
];

/// A file of a new service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// From the root of the checkout.
    pub place: String,
    /// What is in it.
    pub text: String,
}

/// Every file of the service, formatted.
pub fn fill(repository: &Path, name: &Name) -> Result<Vec<File>> {
    let filled = |text: &str| text.replace(PLACEHOLDER, name.as_str());
    FILES
        .iter()
        .map(|(place, text)| {
            let (place, mut text) = (filled(place), filled(text));
            if place.ends_with(".rs") {
                text = format(repository, &text).with_context(|| format!("failed to format {place}"))?;
            }
            Ok(File { place, text })
        })
        .collect()
}

/// As `cargo fmt` writes it: where a line breaks depends on the length of the name.
pub fn format(repository: &Path, text: &str) -> Result<String> {
    output_with_input(Command::new("rustfmt").current_dir(repository), text)
        .context("failed to run rustfmt\n  fix: rustup component add rustfmt")
}
