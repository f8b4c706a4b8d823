//! `trellis check`: documents -> faults.

use std::{collections::BTreeSet, path::Path, sync::Arc};

use serde_json::Value;
use trellis_api::{GROUP, Microservice, Problem, Severity, VERSION};
use trellis_operator_desired::microservice::{self, Fetched, Settings};

use crate::{
    args,
    manifest::{self, Manifest},
    report::{self, Finding},
    schema,
};

/// Why nothing could be checked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Files are not readable.
    #[error(transparent)]
    Manifest(#[from] manifest::Error),
    /// The built-in definitions are broken; a test makes sure that they are not.
    #[error("failed to make the schema of the kinds")]
    Schema(#[source] serde_json::Error),
    /// The standard output is closed or full.
    #[error("failed to write to the standard output")]
    Output(#[source] std::io::Error),
}

/// Microservices that can be acted on, and the faults of all.
#[derive(Debug, Default)]
pub struct Checked {
    /// Those without errors and where they were read.
    pub microservices: Vec<Arc<Microservice>>,
    /// How many there were, with or without faults.
    pub count: usize,
    /// Every fault and hint.
    pub findings: Vec<Finding>,
}

impl Checked {
    /// Whether anything stops a Microservice from being acted on.
    pub fn has_errors(&self) -> bool {
        self.findings
            .iter()
            .any(|finding| finding.severity == Severity::Error)
    }
}

/// Prints the faults. Whether there were none.
///
/// # Errors
/// Files cannot be read.
pub fn run(args: &args::Check) -> Result<bool, Error> {
    let checked = check(&args.input)?;
    let text = match args.output {
        args::Output::Text => report::text(&checked),
        args::Output::Json => report::json(&checked),
    };
    report::print(&text).map_err(Error::Output)?;
    Ok(!checked.has_errors())
}

/// Checks every Microservice of the files.
///
/// # Errors
/// Files cannot be read.
pub fn check(input: &args::Input) -> Result<Checked, Error> {
    let schema = schema_of_microservice().map_err(Error::Schema)?;
    let mut checked = Checked::default();
    for path in &input.files {
        let manifests = manifest::read(path)?;
        // A template that renders to nothing is a mistake, one that renders to other kinds is not.
        if manifests.is_empty() {
            checked.findings.push(nothing_in(path));
        }
        for manifest in &manifests {
            check_manifest(manifest, &schema, &input.namespace, &mut checked);
        }
    }
    if checked.count == 0 && checked.findings.is_empty() {
        let nothing = input.files.iter().map(|path| nothing_in(path));
        checked.findings.extend(nothing);
    }
    Ok(checked)
}

fn nothing_in(path: &Path) -> Finding {
    let file = manifest::name(path);
    Finding::of_file(&file, &format!("no Microservice in {file}"))
}

fn check_manifest(manifest: &Manifest, schema: &Value, namespace: &str, checked: &mut Checked) {
    let document = match &manifest.content {
        Ok(document) => document,
        Err(fault) => {
            checked.findings.push(Finding::of_file(&manifest.file, fault));
            return;
        }
    };
    if !is_ours(document) {
        return;
    }
    checked.count += 1;
    let (cr, problems) = one(document, schema, namespace);
    let findings = manifest
        .duplicates
        .iter()
        .cloned()
        .chain(problems)
        .map(|problem| Finding::of_object(&manifest.file, document, problem));
    checked.findings.extend(findings);
    if let Some(cr) = cr.filter(|_| manifest.duplicates.is_empty()) {
        checked.microservices.push(Arc::new(cr));
        duplicate(manifest, checked);
    }
}

/// Objects of other groups are nobody's business here.
fn is_ours(document: &Value) -> bool {
    let group = |api_version: &str| api_version.split('/').next() == Some(GROUP);
    !document.is_object()
        || document["kind"] == "Microservice"
        || document["apiVersion"].as_str().is_some_and(group)
        || document["apiVersion"].is_null()
        || document["kind"].is_null()
}

/// The Microservice, if it can be acted on, and its problems.
fn one(document: &Value, schema: &Value, namespace: &str) -> (Option<Microservice>, Vec<Problem>) {
    let mut problems = header(document);
    if !problems.is_empty() {
        return (None, problems);
    }
    let mut document = document.clone();
    schema::drop_nulls(&mut document, schema);
    problems = schema::check(&document, schema);
    let mut cr: Microservice = match serde_path_to_error::deserialize(&document) {
        Ok(cr) => cr,
        Err(error) => {
            // What cannot be read because it does not fit the schema has its fault already, with a better text.
            if problems.is_empty() {
                let field = error.path().to_string();
                problems.push(Problem::error(field, error.into_inner().to_string()));
            }
            return (None, problems);
        }
    };
    cr.metadata.namespace.get_or_insert_with(|| namespace.to_owned());
    // Faults never depend on other objects or on the operator's settings.
    let settings = Settings {
        proxy_image: String::new(),
        config_stream_address: String::new(),
        gateway_host: None,
        telemetry_endpoint: None,
        trusted_gateway_namespaces: BTreeSet::new(),
    };
    let fits = problems.is_empty();
    let validation = microservice::validate(&cr, &Fetched::default(), &settings);
    problems.extend(validation.problems);
    (validation.validated.filter(|_| fits).map(|_| cr), problems)
}

fn header(document: &Value) -> Vec<Problem> {
    if !document.is_object() {
        return vec![Problem::error(
            "",
            "is no object: a document starts with apiVersion and kind",
        )];
    }
    let mut problems = Vec::new();
    let version = format!("{GROUP}/{VERSION}");
    if document["apiVersion"] != version.as_str() {
        problems.push(Problem::error(
            "apiVersion",
            format!("is {}: use {version}", document["apiVersion"]),
        ));
    }
    if document["kind"] != "Microservice" {
        problems.push(Problem::error(
            "kind",
            format!("is {}: use Microservice", document["kind"]),
        ));
    }
    problems
}

/// Of two objects of one name, the second would overwrite the first.
fn duplicate(manifest: &Manifest, checked: &mut Checked) {
    let Some((last, earlier)) = checked.microservices.split_last() else {
        return;
    };
    let same = |other: &Arc<Microservice>| microservice::Key::of(other) == microservice::Key::of(last);
    if earlier.iter().any(same)
        && let Ok(document) = &manifest.content
    {
        checked.findings.push(Finding::of_object(
            &manifest.file,
            document,
            Problem::error(
                "metadata.name",
                "is there twice, and the later would overwrite the earlier: rename one",
            ),
        ));
        checked.microservices.pop();
    }
}

fn schema_of_microservice() -> Result<Value, serde_json::Error> {
    for crd in trellis_api::crds()? {
        if crd.spec.names.kind == "Microservice" {
            let mut crd = serde_json::to_value(crd)?;
            return Ok(crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"].take());
        }
    }
    Ok(Value::Null)
}
