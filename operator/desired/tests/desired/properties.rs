//! What holds for every Microservice, not only for the golden ones.

use std::sync::Arc;

use serde_json::{Value, json};
use trellis_api::Microservice;
use trellis_operator_desired::microservice;
use trellis_testkit::kstatus;

use crate::case::{Case, folder, inputs, now, template_digest};

/// Something that happens to a Microservice or around it.
type Edit = fn(&mut Case);

/// Changed inputs per golden case.
const CHANGES: usize = 60;

#[test]
fn a_pass_over_a_damaged_microservice_neither_panics_nor_differs_from_itself() {
    let mut random = Random(0x5eed_0001);
    let mut valid = 0_usize;
    let mut invalid = 0_usize;
    for input in inputs() {
        let mut case = Case::read(&input);
        let document = serde_json::to_value(&case.cr).unwrap();
        for _ in 0..CHANGES {
            let mut changed = document.clone();
            for _ in 0..=random.below(3) {
                damage(&mut changed["spec"], &mut random);
            }
            // What the API server would refuse by type never reaches the operator.
            let Ok(cr) = serde_json::from_value::<Microservice>(changed.clone()) else {
                continue;
            };
            case.cr = cr;
            let pass = case.pass(now());
            if pass.resources.is_some() {
                valid += 1;
            } else {
                invalid += 1;
            }
            let mut object = changed.clone();
            object["status"] = serde_json::to_value(&pass.status).unwrap();
            let tool = kstatus::compute(&object);
            assert!(
                pass.resources.is_some() || tool != kstatus::Status::Current,
                "{changed}"
            );
            let ready_reconciling_stalled = pass
                .status
                .conditions
                .iter()
                .filter(|c| {
                    ["Ready", "Reconciling", "Stalled"].contains(&c.type_.as_str()) && c.status == "True"
                })
                .count();
            assert_eq!(ready_reconciling_stalled, 1, "{changed}");
            case.cr.status = Some(pass.status.clone());
            assert_eq!(pass.status, case.pass(now()).status, "{changed}");
        }
    }
    assert!(
        valid > 300 && invalid > 300,
        "{valid} valid and {invalid} invalid are no fair mix"
    );
}

#[test]
fn what_only_the_proxy_needs_to_know_never_rolls_a_pod() {
    let input = folder().join("a-complete-service.in.yaml");
    let base = Case::read(&input);
    let digest = |case: &Case| template_digest(&case.pass(now()).resources.unwrap().deployment);
    let expected = digest(&base);
    let edits: [(&str, Edit); 8] = [
        ("routes", |case| case.cr.spec.routes.clear()),
        ("exposure", |case| case.cr.spec.exposure = None),
        ("replicas", |case| {
            case.cr.spec.autoscaling = None;
            case.cr.spec.replicas = Some(7);
        }),
        ("the version", |case| {
            case.cr.metadata.resource_version = Some("999999".to_owned())
        }),
        ("dependencies and gateways that vanish", |case| {
            case.fetched.microservices.clear()
        }),
        ("a gateway that takes all namespaces", |case| {
            edit(
                case,
                "gateway",
                &json!({"gateway": {"listeners": [{"name": "x", "port": 81}], "routes": {"fromNamespaces": "All"}}}),
            );
        }),
        ("a dependency with a fault", |case| {
            edit(
                case,
                "user",
                &json!({"image": "user:1", "ports": [{"name": "http", "port": 15020}]}),
            );
        }),
        ("a dependency on other ports", |case| {
            edit(
                case,
                "user",
                &json!({"image": "user:1", "ports": [{"name": "grpc", "port": 1, "protocol": "GRPC"}, {"name": "http", "port": 2}]}),
            );
        }),
    ];
    for (what, change) in edits {
        let mut case = Case::read(&input);
        change(&mut case);
        assert_eq!(digest(&case), expected, "{what} rolls the pods");
    }
}

#[test]
fn a_new_document_never_has_an_older_version() {
    let mut random = Random(0x5eed_0002);
    for input in inputs() {
        let mut case = Case::read(&input);
        let mut last: Option<(u64, String)> = None;
        for _ in 0..8 {
            // Somebody edits another Microservice, deletes one, or edits this one.
            if random.below(2) == 0 {
                case.fetched.microservices.pop();
            }
            if random.below(2) == 0 && !case.cr.spec.ports.is_empty() {
                case.cr.spec.ports.rotate_left(1);
            }
            let Some(resources) = case.pass(now()).resources else {
                break;
            };
            let text = &resources.proxy_config.data.as_ref().unwrap()["proxy.json"];
            let document: Value = serde_json::from_str(text).unwrap();
            let (version, digest) = (
                document["version"].as_u64().unwrap(),
                document["digest"].as_str().unwrap().to_owned(),
            );
            if let Some((before, before_digest)) = &last {
                assert!(version >= *before, "{}", input.display());
                assert_eq!(
                    version == *before,
                    digest == *before_digest,
                    "{}: another document with the same version, or the same with another",
                    input.display()
                );
            }
            last = Some((version, digest));
            case.fetched.proxy_config = Some(resources.proxy_config);
        }
    }
}

fn edit(case: &mut Case, name: &str, spec: &Value) {
    for other in &mut case.fetched.microservices {
        if other.metadata.name.as_deref() == Some(name) {
            let mut changed = other.as_ref().clone();
            changed.spec = serde_json::from_value(spec.clone()).unwrap();
            *other = Arc::new(changed);
        }
    }
}

/// Replaces, removes or doubles something somewhere in a document.
fn damage(value: &mut Value, random: &mut Random) {
    let odd = [
        json!(""),
        json!("a"),
        json!("-"),
        json!("Ω…\u{0}"),
        json!("x".repeat(300)),
        json!("99999h"),
        json!("5m"),
        json!("/"),
        json!(0),
        json!(-1),
        json!(65535),
        json!(15100),
        json!(i32::MAX),
        json!(i64::MAX),
        json!(true),
        json!([]),
        json!({}),
        json!({"name": "a", "port": 1}),
    ];
    match value {
        Value::Object(map) if !map.is_empty() => {
            let index = random.below(map.len());
            let key = map.keys().nth(index).unwrap().clone();
            match random.below(6) {
                0 => {
                    map.remove(&key);
                }
                1 => {
                    map.insert(key, odd[random.below(odd.len())].clone());
                }
                _ => damage(map.get_mut(&key).unwrap(), random),
            }
        }
        Value::Array(items) if !items.is_empty() => {
            let index = random.below(items.len());
            match random.below(6) {
                0 => {
                    items.remove(index);
                }
                1 => {
                    let double = items[index].clone();
                    items.push(double);
                }
                _ => damage(&mut items[index], random),
            }
        }
        leaf => *leaf = odd[random.below(odd.len())].clone(),
    }
}

/// A small generator (xorshift64*, Vigna 2016) with a fixed seed: a failure repeats.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let number = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33;
        usize::try_from(number).unwrap() % bound
    }
}

#[test]
fn a_new_image_is_nothing_that_others_see_and_a_fault_is() {
    let case = Case::read(&folder().join("a-complete-service.in.yaml"));
    let before = microservice::seen(&case.cr);
    let mut other = case.cr.clone();
    other.spec.image = Some("order:2".to_owned());
    other.spec.env.clear();
    other.metadata.resource_version = Some("7".to_owned());
    assert_eq!(microservice::seen(&other), before);
    other.spec.image = None;
    assert_ne!(microservice::seen(&other), before);
    let mut other = case.cr;
    other.spec.ports[0].port = 1;
    assert_ne!(microservice::seen(&other), before);
}
