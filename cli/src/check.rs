//! `trellis check`: documents -> faults.

use std::{collections::BTreeSet, path::Path, sync::Arc};

use kube::Resource;
use serde::de::DeserializeOwned;
use serde_json::Value;
use trellis_api::{GROUP, Microservice, Problem, RateLimitPolicy, Saga, Severity, VERSION};
use trellis_operator_desired::{
    microservice::{self, Fetched, Settings},
    rate_limit, saga,
};

use crate::{
    args,
    manifest::{self, Manifest},
    report::{self, Finding},
    schema,
};

const MICROSERVICE: &str = "Microservice";
const POLICY: &str = "RateLimitPolicy";
const SAGA: &str = "Saga";
/// Our kinds, and how messages name them.
const KINDS: [&str; 3] = [MICROSERVICE, POLICY, SAGA];
const ANY_KIND: &str = "Microservice, RateLimitPolicy or Saga";

/// The schema of each kind.
#[derive(Default)]
struct Schemas {
    microservice: Value,
    policy: Value,
    saga: Value,
}

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

/// Objects that can be acted on, and the faults of all.
#[derive(Debug, Default)]
pub struct Checked {
    /// Microservices without errors.
    pub microservices: Vec<Arc<Microservice>>,
    /// Rate limit policies without errors.
    pub policies: Vec<Arc<RateLimitPolicy>>,
    /// Sagas without errors.
    pub sagas: Vec<Arc<Saga>>,
    /// How many there were, with or without faults.
    pub count: usize,
    /// Every fault and hint.
    pub findings: Vec<Finding>,
}

impl Checked {
    /// Whether anything stops an object from being acted on.
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

/// Checks every object of our kinds in the files.
///
/// # Errors
/// Files cannot be read.
pub fn check(input: &args::Input) -> Result<Checked, Error> {
    let schemas = schemas().map_err(Error::Schema)?;
    let mut checked = Checked::default();
    for path in &input.files {
        let manifests = manifest::read(path)?;
        // A template that renders to nothing is a mistake, one that renders to other kinds is not.
        if manifests.is_empty() {
            checked.findings.push(nothing_in(path));
        }
        for manifest in &manifests {
            check_manifest(manifest, &schemas, &input.namespace, &mut checked);
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
    Finding::of_file(&file, &format!("no {ANY_KIND} in {file}"))
}

fn check_manifest(manifest: &Manifest, schemas: &Schemas, namespace: &str, checked: &mut Checked) {
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
    let mut objects = Objects::default();
    let problems = if document["kind"] == POLICY {
        let (policy, problems) = policy(document, &schemas.policy, namespace);
        objects.policy = policy;
        problems
    } else if document["kind"] == SAGA {
        let (saga, problems) = saga(document, &schemas.saga, namespace);
        objects.saga = saga;
        problems
    } else {
        let (microservice, problems) = microservice(document, &schemas.microservice, namespace);
        objects.microservice = microservice;
        problems
    };
    let findings = manifest
        .duplicates
        .iter()
        .cloned()
        .chain(problems)
        .map(|problem| Finding::of_object(&manifest.file, document, problem));
    checked.findings.extend(findings);
    if manifest.duplicates.is_empty() {
        let twice = [
            keep(objects.microservice, manifest, &mut checked.microservices),
            keep(objects.policy, manifest, &mut checked.policies),
            keep(objects.saga, manifest, &mut checked.sagas),
        ];
        checked.findings.extend(twice.into_iter().flatten());
    }
}

/// An object of one of the kinds, if it can be acted on.
#[derive(Default)]
struct Objects {
    microservice: Option<Microservice>,
    policy: Option<RateLimitPolicy>,
    saga: Option<Saga>,
}

/// Keeps an object, unless there is one of its name already.
fn keep<K: Resource>(object: Option<K>, manifest: &Manifest, objects: &mut Vec<Arc<K>>) -> Option<Finding> {
    objects.push(Arc::new(object?));
    duplicate(manifest, objects)
}

/// Objects of other groups are nobody's business here.
fn is_ours(document: &Value) -> bool {
    let group = |api_version: &str| api_version.split('/').next() == Some(GROUP);
    !document.is_object()
        || KINDS.iter().any(|kind| document["kind"] == *kind)
        || document["apiVersion"].as_str().is_some_and(group)
        || document["apiVersion"].is_null()
        || document["kind"].is_null()
}

/// The Microservice, if it can be acted on, and its problems.
fn microservice(document: &Value, schema: &Value, namespace: &str) -> (Option<Microservice>, Vec<Problem>) {
    let (cr, mut problems) = read::<Microservice>(document, schema, namespace);
    let Some(cr) = cr else {
        return (None, problems);
    };
    // Faults never depend on other objects or on the operator's settings.
    let settings = Settings {
        proxy_image: String::new(),
        config_stream_address: String::new(),
        quota_address: String::new(),
        saga_engine: String::new(),
        namespace: String::new(),
        gateway_host: None,
        telemetry_endpoint: None,
        trusted_gateway_namespaces: BTreeSet::new(),
    };
    let fits = problems.is_empty();
    let validation = microservice::validate(&cr, &Fetched::default(), &settings);
    problems.extend(validation.problems);
    (validation.validated.filter(|_| fits).map(|_| cr), problems)
}

/// The policy, if it can be acted on, and its problems.
fn policy(document: &Value, schema: &Value, namespace: &str) -> (Option<RateLimitPolicy>, Vec<Problem>) {
    let (policy, mut problems) = read::<RateLimitPolicy>(document, schema, namespace);
    if let Some(policy) = &policy {
        problems.extend(rate_limit::problems(policy));
    }
    let has_errors = problems.iter().any(|problem| problem.severity == Severity::Error);
    (policy.filter(|_| !has_errors), problems)
}

/// The saga, if it can be acted on, and its problems.
fn saga(document: &Value, schema: &Value, namespace: &str) -> (Option<Saga>, Vec<Problem>) {
    let (saga, mut problems) = read::<Saga>(document, schema, namespace);
    if let Some(saga) = &saga {
        problems.extend(saga::compile(saga).err().into_iter().flatten());
    }
    let has_errors = problems.iter().any(|problem| problem.severity == Severity::Error);
    (saga.filter(|_| !has_errors), problems)
}

/// The object as its type, if it can be read, and where it does not fit the schema.
fn read<K: Resource + DeserializeOwned>(
    document: &Value,
    schema: &Value,
    namespace: &str,
) -> (Option<K>, Vec<Problem>) {
    let mut problems = header(document);
    if !problems.is_empty() {
        return (None, problems);
    }
    let mut document = document.clone();
    schema::drop_nulls(&mut document, schema);
    problems = schema::check(&document, schema);
    let mut object: K = match serde_path_to_error::deserialize(&document) {
        Ok(object) => object,
        Err(error) => {
            // What cannot be read because it does not fit the schema has its fault already, with a better text.
            if problems.is_empty() {
                let field = error.path().to_string();
                problems.push(Problem::error(field, error.into_inner().to_string()));
            }
            return (None, problems);
        }
    };
    let metadata = object.meta_mut();
    metadata.namespace.get_or_insert_with(|| namespace.to_owned());
    (Some(object), problems)
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
    if KINDS.iter().all(|kind| document["kind"] != *kind) {
        problems.push(Problem::error(
            "kind",
            format!("is {}: use {ANY_KIND}", document["kind"]),
        ));
    }
    problems
}

/// Of two objects of one kind and name, the second would overwrite the first; it is taken out again.
fn duplicate<K: Resource>(manifest: &Manifest, objects: &mut Vec<Arc<K>>) -> Option<Finding> {
    let (last, earlier) = objects.split_last()?;
    let name = |object: &K| (object.meta().namespace.clone(), object.meta().name.clone());
    if !earlier.iter().any(|other| name(other) == name(last)) {
        return None;
    }
    objects.pop();
    let document = manifest.content.as_ref().ok()?;
    Some(Finding::of_object(
        &manifest.file,
        document,
        Problem::error(
            "metadata.name",
            "is there twice, and the later would overwrite the earlier: rename one",
        ),
    ))
}

fn schemas() -> Result<Schemas, serde_json::Error> {
    let mut schemas = Schemas::default();
    for crd in trellis_api::crds()? {
        let kind = crd.spec.names.kind.clone();
        let mut crd = serde_json::to_value(crd)?;
        let schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"].take();
        match kind.as_str() {
            MICROSERVICE => schemas.microservice = schema,
            POLICY => schemas.policy = schema,
            SAGA => schemas.saga = schema,
            _ => {}
        }
    }
    Ok(schemas)
}
