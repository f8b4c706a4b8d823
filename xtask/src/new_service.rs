//! `cargo xtask new-service NAME`: another service of the shop, in the one skeleton that all of them have.
//!
//! ```text
//! name -> template: filled in -> lists: with one line more -> changes: all are made, or none
//! ```
//!
//! The service and its Microservice are written from `xtask/templates`; a line each joins the workspace and the shop's
//! kustomization. Nothing else knows the services by name: images are made of the packages below `services/`, databases and
//! Secrets of the bindings in the manifests.
//!
//! The templates are kept equal to the services by tests: what is the same in all services is compared with the payment
//! service, and a service that is made of them is compiled.

mod changes;
mod lists;
mod name;
mod template;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use changes::Change;
use name::Name;

/// The members of the workspace.
const MANIFEST: &str = "Cargo.toml";
/// What belongs to the shop.
const KUSTOMIZATION: &str = "manifests/samples/shop/kustomization.yaml";

/// Makes the service, and says what comes next.
pub fn run(repository: &Path, name: &str) -> Result<()> {
    let name = Name::parse(name)?;
    changes::make(repository, &plan(repository, &name)?)
        .with_context(|| format!("failed to make the service {name}"))?;
    print!("{}", report(&name));
    Ok(())
}

/// Every file that is made or gets another text: those that name others come last.
fn plan(repository: &Path, name: &Name) -> Result<Vec<Change>> {
    let files = template::fill(repository, name)?;
    let places = files.iter().map(|file| file.place.as_str());
    for taken in [&*folder(name)].into_iter().chain(places) {
        if repository.join(taken).exists() {
            bail!(
                "{taken} exists: the name {name} is taken\n  fix: choose another name; or remove it, if a run that was killed left it"
            );
        }
    }
    let read = |place: &str| {
        fs::read_to_string(repository.join(place)).with_context(|| format!("failed to read {place}"))
    };
    let (manifest, kustomization) = (read(MANIFEST)?, read(KUSTOMIZATION)?);
    let is_service = |file: &str| repository.join("services").join(file).is_dir();
    let mut changes: Vec<Change> = files
        .into_iter()
        .map(|file| Change::create(&file.place, file.text))
        .collect();
    let new = lists::with_member(&manifest, &folder(name)).context(MANIFEST)?;
    changes.push(Change::edit(MANIFEST, manifest, new));
    let new = lists::with_resource(&kustomization, name, is_service).context(KUSTOMIZATION)?;
    changes.push(Change::edit(KUSTOMIZATION, kustomization, new));
    Ok(changes)
}

fn folder(name: &Name) -> String {
    format!("services/{name}")
}

/// What was made, and what to type next.
fn report(name: &Name) -> String {
    let lines = |lines: &[(String, &str)]| -> String {
        let width = lines.iter().map(|(left, _)| left.len()).max().unwrap_or(0);
        let line = |(left, right): &(String, &str)| format!("    {left:<width$}  {right}\n");
        lines.iter().map(line).collect()
    };
    let made = lines(&[
        (
            format!("services/{name}/"),
            "the service, with a resource `items` to begin with",
        ),
        (
            format!("manifests/samples/shop/{name}.yaml"),
            "its Microservice; sagas call it, the gateway does not",
        ),
        (MANIFEST.to_owned(), "one member more"),
        (KUSTOMIZATION.to_owned(), "one resource more"),
    ]);
    let next = lines(&[
        (
            format!("cargo test -p shop-{name}"),
            "# its tests; the first cargo command adds it to Cargo.lock",
        ),
        (
            "cargo xtask up".to_owned(),
            "# into the cluster, with a database of its own",
        ),
        (format!("cargo xtask logs {name}"), "# what it says there"),
    ]);
    format!(
        "made the service {name}:\n\n{made}\nnext:\n\n{next}\n\
         Then make `items` what the service is about, beginning with services/{name}/src/domain.rs, say in main.rs and in the\n\
         manifest what it is for, and name it beside the others of the shop in README.md and ARCHITECTURE.md.\n"
    )
}

#[cfg(test)]
mod tests;
