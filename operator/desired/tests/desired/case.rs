//! A golden case: what is read, and one whole pass over it.

use std::{
    marker::PhantomData,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use k8s_openapi::{
    api::{
        apps::v1::Deployment,
        core::v1::{Event, Pod},
    },
    jiff::Timestamp,
};
use kube::Resource;
use serde::de::DeserializeOwned;
use serde_json::Value;
use trellis_api::{Microservice, MicroserviceStatus, Problem, RateLimitPolicy, names};
use trellis_operator_desired::{
    Applied, Resources,
    microservice::{
        self, Answer, ApplyFault, Fetched, FieldFault, Outcome, PodEvent, Proxy, Refused, Settings,
        Validation,
    },
};

/// When every golden pass happens.
pub fn now() -> Timestamp {
    "2026-03-01T12:00:00Z".parse().unwrap()
}

/// Settings of the operator in every golden pass.
pub fn settings() -> Settings {
    Settings {
        proxy_image: "trellis-proxy".to_owned(),
        config_stream_address: "http://trellis-operator.trellis-system.svc:15010".to_owned(),
        quota_address: "http://trellis-quota.trellis-system.svc:8080".to_owned(),
        saga_engine: "trellis-saga".to_owned(),
        namespace: "trellis-system".to_owned(),
        gateway_host: Some("127.0.0.1".to_owned()),
        telemetry_endpoint: None,
        trusted_gateway_namespaces: ["web".to_owned()].into(),
    }
}

/// What a case reads.
pub struct Case {
    pub cr: Microservice,
    pub fetched: Fetched,
    /// What proxies said. Empty: as many as the live Deployment has ready pods run by the document.
    pub proxies: Vec<Proxy>,
    /// How far the pass comes, if not to the end.
    pub end: Option<End>,
    /// What of the result the case is about: kinds, and `status`. Empty: everything.
    pub shown: Vec<String>,
}

/// How far a pass comes.
pub enum End {
    Pending,
    ApplyFailed {
        child: String,
        message: String,
        cause: ApplyFault,
    },
}

/// What one pass makes.
pub struct Pass {
    pub resources: Option<Resources<Applied>>,
    pub problems: Vec<Problem>,
    pub status: MicroserviceStatus,
}

impl Case {
    pub fn read(path: &Path) -> Self {
        let text = std::fs::read_to_string(path).unwrap();
        assert!(
            text.starts_with("# "),
            "{} has no comment that says what it shows",
            path.display()
        );
        let shown = text
            .lines()
            .find_map(|line| line.strip_prefix("# golden: "))
            .map(|list| list.split(", ").map(str::to_owned).collect())
            .unwrap_or_default();
        let mut documents = serde_saphyr::from_multiple::<Value>(&text).unwrap().into_iter();
        let mut case = Self {
            cr: as_stored(parse(documents.next().unwrap())),
            fetched: Fetched::default(),
            proxies: Vec::new(),
            end: None,
            shown,
        };
        for document in documents {
            case.add(document);
        }
        case
    }

    fn add(&mut self, document: Value) {
        let kind = document["kind"].as_str().unwrap_or_default().to_owned();
        match kind.as_str() {
            "Microservice" => {
                let other: Microservice = as_stored(parse(document));
                self.fetched.microservices.push(Arc::new(other));
            }
            "RateLimitPolicy" => {
                let policy: RateLimitPolicy = as_stored(parse(document));
                self.fetched.rate_limit_policies.known.push(Arc::new(policy));
            }
            "Deployment" => self.fetched.deployment = Some(deployment(document)),
            "HorizontalPodAutoscaler" => self.fetched.autoscaler = Some(parse(document)),
            "ConfigMap" => self.fetched.proxy_config = Some(parse(document)),
            "Pod" => self.fetched.pods.push(parse(document)),
            "Event" => self.fetched.events.push(event(parse(document))),
            "Proxy" => self.proxies.push(proxy(&document)),
            "Pending" => self.end = Some(End::Pending),
            "ApplyFailed" => {
                self.end = Some(End::ApplyFailed {
                    child: document["child"].as_str().unwrap().to_owned(),
                    message: document["message"].as_str().unwrap_or_default().to_owned(),
                    cause: cause(&document),
                });
            }
            other => panic!("a golden input has no documents of kind {other:?}"),
        }
    }

    /// One pass of the operator, with an API server that stores what it is given.
    pub fn pass(&self, now: Timestamp) -> Pass {
        let Validation { validated, problems } = microservice::validate(&self.cr, &self.fetched, &settings());
        let Some(validated) = validated else {
            let status = microservice::status(&self.cr, &Outcome::Invalid { problems: &problems }, now);
            return Pass {
                resources: None,
                problems,
                status,
            };
        };
        let prepared = microservice::build(&validated);
        assert_eq!(
            prepared,
            microservice::build(&validated),
            "build is not deterministic"
        );
        let resources = store(prepared, &self.fetched);
        let pods = self.pods(&resources.deployment);
        let newest = newest(&resources);
        let proxies = self.proxies(&resources, &newest);
        let mut cr = self.cr.clone();
        if let Some(counts) = cr.status.as_mut().and_then(|status| status.proxies.as_mut())
            && counts.document == "newest"
        {
            counts.document.clone_from(&newest);
        }
        let outcome = match &self.end {
            Some(End::Pending) => Outcome::Pending,
            Some(End::ApplyFailed {
                child,
                message,
                cause,
            }) => Outcome::ApplyFailed {
                child: child.clone(),
                message: message.clone(),
                cause: cause.clone(),
            },
            None => Outcome::Applied {
                validated: &validated,
                resources: &resources,
                pods: &pods,
                events: &self.fetched.events,
                proxies: &proxies,
            },
        };
        Pass {
            status: microservice::status(&cr, &outcome, now),
            problems,
            resources: self.end.is_none().then_some(resources),
        }
    }

    /// The proxies, with the digest of the document for `newest`.
    fn proxies(&self, resources: &Resources<Applied>, newest: &str) -> Vec<Proxy> {
        let status = resources.deployment.status.clone().unwrap_or_default();
        let mut proxies = self.proxies.clone();
        if proxies.is_empty() {
            proxies = (0..status.ready_replicas.unwrap_or_default())
                .map(|index| taken(&format!("pod-{index}")))
                .collect();
        }
        let answers = proxies.iter_mut().filter_map(|proxy| proxy.answer.as_mut());
        for answer in answers {
            let refused = answer.refused.as_mut().map(|refused| &mut refused.digest);
            for digest in [Some(&mut answer.in_use), refused].into_iter().flatten() {
                if digest == "newest" {
                    newest.clone_into(digest);
                }
            }
        }
        proxies
    }

    /// The pods, those marked so with the template's digest.
    fn pods(&self, deployment: &Deployment) -> Vec<Pod> {
        let digest = template_digest(deployment);
        let mut pods = self.fetched.pods.clone();
        for pod in &mut pods {
            if let Some(value) = pod
                .metadata
                .annotations
                .get_or_insert_default()
                .get_mut(names::ANNOTATION_TEMPLATE_DIGEST)
                && value == "current"
            {
                value.clone_from(&digest);
            }
        }
        pods
    }
}

/// Digest of the document that a pass made.
fn newest(resources: &Resources<Applied>) -> String {
    let text = &resources.proxy_config.data.as_ref().unwrap()[names::KEY_PROXY_CONFIG];
    let document: Value = serde_json::from_str(text).unwrap();
    document["digest"].as_str().unwrap().to_owned()
}

/// Digest of a Deployment's pod template.
pub fn template_digest(deployment: &Deployment) -> String {
    let template = &deployment.spec.as_ref().unwrap().template;
    template.metadata.as_ref().unwrap().annotations.as_ref().unwrap()[names::ANNOTATION_TEMPLATE_DIGEST]
        .clone()
}

fn has_template(deployment: &Deployment) -> bool {
    deployment.spec.as_ref().unwrap().template.metadata.is_some()
}

/// What the API server answers: the object as wanted, with the status and the replicas that are live.
pub fn store(
    prepared: Resources<trellis_operator_desired::Prepared>,
    fetched: &Fetched,
) -> Resources<Applied> {
    let Resources {
        service_account,
        proxy_config,
        services,
        handover,
        mut deployment,
        mut autoscaler,
        disruption_budget,
        stage: _,
    } = prepared;
    let live = fetched.deployment.as_ref();
    let live_replicas = live.and_then(|live| live.spec.as_ref()?.replicas);
    let spec = deployment.spec.get_or_insert_default();
    spec.replicas = spec.replicas.or(live_replicas).or(Some(1));
    let changed =
        live.is_some_and(|live| has_template(live) && template_digest(live) != template_digest(&deployment));
    deployment.metadata.generation = live
        .and_then(|live| live.metadata.generation)
        .or(Some(1))
        .map(|generation| generation + i64::from(changed));
    deployment.status = live.and_then(|live| live.status.clone());
    if let (Some(autoscaler), Some(live)) = (&mut autoscaler, &fetched.autoscaler) {
        autoscaler.status.clone_from(&live.status);
    }
    Resources {
        service_account,
        proxy_config,
        services,
        handover,
        deployment,
        autoscaler,
        disruption_budget,
        stage: PhantomData,
    }
}

/// As the API server has it: with an identity and a generation.
fn as_stored<K: Resource>(mut object: K) -> K {
    let metadata = object.meta_mut();
    metadata
        .uid
        .get_or_insert_with(|| "6f1c4c5e-0000-4000-8000-000000000001".to_owned());
    metadata.generation.get_or_insert(1);
    metadata.resource_version.get_or_insert_with(|| "100".to_owned());
    metadata.namespace.get_or_insert_with(|| "shop".to_owned());
    object
}

/// A live Deployment of which a case writes only what it is about.
fn deployment(mut document: Value) -> Deployment {
    let spec = &mut document["spec"];
    for (field, empty) in [
        ("selector", serde_json::json!({})),
        ("template", serde_json::json!({})),
    ] {
        if spec[field].is_null() {
            spec[field] = empty;
        }
    }
    parse(document)
}

/// `{kind: Proxy, pod, waited: seconds, inUse: digest, refused: {version, digest, fault}}`; without `inUse` it is not
/// connected.
fn proxy(document: &Value) -> Proxy {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let refused = &document["refused"];
    Proxy {
        pod: text(&document["pod"]),
        waited: Duration::from_secs(document["waited"].as_u64().unwrap_or(3600)),
        answer: document["inUse"].is_string().then(|| Answer {
            in_use: text(&document["inUse"]),
            refused: refused.is_object().then(|| Refused {
                version: refused["version"].as_u64().unwrap_or_default(),
                digest: text(&refused["digest"]),
                fault: text(&refused["fault"]),
            }),
        }),
    }
}

fn taken(pod: &str) -> Proxy {
    Proxy {
        pod: pod.to_owned(),
        waited: Duration::from_secs(3600),
        answer: Some(Answer {
            in_use: "newest".to_owned(),
            refused: None,
        }),
    }
}

fn cause(document: &Value) -> ApplyFault {
    if document["notOwned"] == true {
        return ApplyFault::NotOwned;
    }
    let Some(refused) = document["refused"].as_array() else {
        return ApplyFault::Passing;
    };
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let fields = refused.iter().map(|fault| FieldFault {
        field: text(&fault["field"]),
        message: text(&fault["message"]),
    });
    ApplyFault::Refused {
        fields: fields.collect(),
    }
}

fn event(event: Event) -> PodEvent {
    let path = event.involved_object.field_path.unwrap_or_default();
    PodEvent {
        pod: event.involved_object.name.unwrap_or_default(),
        reason: event.reason.unwrap_or_default(),
        message: event.message.unwrap_or_default(),
        container: path
            .split_once('{')
            .map(|(_, rest)| rest.trim_end_matches('}').to_owned()),
        count: event.count.unwrap_or(1),
    }
}

fn parse<T: DeserializeOwned>(document: Value) -> T {
    let text = document.to_string();
    serde_json::from_value(document).unwrap_or_else(|error| panic!("{error} in {text}"))
}

/// Where the cases are.
pub fn folder() -> PathBuf {
    PathBuf::from("tests/golden/microservice")
}

/// Every case, in order.
pub fn inputs() -> Vec<PathBuf> {
    let mut inputs: Vec<PathBuf> = std::fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_string_lossy().ends_with(".in.yaml"))
        .collect();
    inputs.sort();
    inputs
}
