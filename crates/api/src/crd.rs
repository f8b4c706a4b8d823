//! The CustomResourceDefinitions, made fit for Kubernetes 1.36 and for `kubectl explain`.
//!
//! kube's derive writes `format: uint16` (which the API server warns about on every apply), `nullable: true` for every
//! optional field (which invites `field: null`) and floating-point bounds on integers, and describes a field of an
//! enumerated type by the type's text instead of its own. [`crds`] puts these right, and gives a new object the status
//! that nobody has looked at it yet.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use schemars::{JsonSchema, generate::SchemaSettings};
use serde_json::Value;

use crate::{
    Microservice, MicroserviceSpec, MicroserviceStatus, RateLimitPolicy, RateLimitPolicySpec,
    RateLimitPolicyStatus, Saga, SagaSpec, SagaStatus, microservice::UNOBSERVED,
};

/// Every CustomResourceDefinition of Trellis, in the order in which they are applied.
///
/// # Errors
/// A schema that does not fit its own type; the tests make every one of them, so a caller never sees it.
pub fn crds() -> Result<Vec<CustomResourceDefinition>, serde_json::Error> {
    Ok(vec![
        tidy::<MicroserviceSpec, MicroserviceStatus>(Microservice::crd())?,
        tidy::<RateLimitPolicySpec, RateLimitPolicyStatus>(RateLimitPolicy::crd())?,
        tidy::<SagaSpec, SagaStatus>(Saga::crd())?,
    ])
}

fn tidy<Spec: JsonSchema, Status: JsonSchema>(
    crd: CustomResourceDefinition,
) -> Result<CustomResourceDefinition, serde_json::Error> {
    let mut value = serde_json::to_value(crd)?;
    if let Some(versions) = value.pointer_mut("/spec/versions").and_then(Value::as_array_mut) {
        for version in versions {
            if let Some(schema) = version.pointer_mut("/schema/openAPIV3Schema") {
                tidy_schema(schema);
                describe_fields::<Spec>(&mut schema["properties"]["spec"]);
                describe_fields::<Status>(&mut schema["properties"]["status"]);
                list_conditions_by_type(schema);
                begin_unobserved(schema);
            }
        }
    }
    serde_json::from_value(value)
}

fn tidy_schema(value: &mut Value) {
    match value {
        Value::Object(map) => {
            if map
                .get("format")
                .and_then(Value::as_str)
                .is_some_and(|f| f.starts_with("uint"))
            {
                map.insert("format".to_owned(), "int32".into());
            }
            if map.get("nullable") == Some(&Value::Bool(true)) {
                map.remove("nullable");
            }
            if map.get("type").and_then(Value::as_str) == Some("integer") {
                for bound in ["minimum", "maximum"] {
                    if let Some(whole) = map.get(bound).and_then(Value::as_f64) {
                        map.insert(bound.to_owned(), whole.into());
                    }
                }
            }
            map.values_mut().for_each(tidy_schema);
        }
        Value::Array(items) => items.iter_mut().for_each(tidy_schema),
        _ => {}
    }
}

/// Gives every field the description that stands at the field. kube writes that of the type over it where the type is an
/// enumeration, so that the text which says what unset means gets lost.
fn describe_fields<T: JsonSchema>(schema: &mut Value) {
    let own = SchemaSettings::draft2020_12()
        .into_generator()
        .into_root_schema_for::<T>()
        .to_value();
    describe(schema, &own, &own["$defs"]);
}

fn describe(schema: &mut Value, own: &Value, definitions: &Value) {
    let own = definition(own, definitions);
    if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
        for (name, field) in properties {
            let own = &own["properties"][name];
            if let (Some(field), Value::String(text)) = (field.as_object_mut(), &own["description"]) {
                field.insert("description".to_owned(), text.as_str().into());
            }
            describe(field, own, definitions);
        }
    }
    for inner in ["items", "additionalProperties"] {
        if let Some(schema) = schema.get_mut(inner) {
            describe(schema, &own[inner], definitions);
        }
    }
}

/// Where the schema of a field is: in place, behind `$ref`, or as the first of `anyOf` with null.
fn definition<'a>(own: &'a Value, definitions: &'a Value) -> &'a Value {
    let own = own["anyOf"].get(0).unwrap_or(own);
    own["$ref"]
        .as_str()
        .and_then(|path| definitions.get(path.strip_prefix("#/$defs/")?))
        .unwrap_or(own)
}

/// Conditions are a map keyed by `type`, so that server-side apply of one leaves the others alone.
fn list_conditions_by_type(schema: &mut Value) {
    if let Some(conditions) = schema
        .pointer_mut("/properties/status/properties/conditions")
        .and_then(Value::as_object_mut)
    {
        conditions.insert("x-kubernetes-list-type".to_owned(), "map".into());
        conditions.insert(
            "x-kubernetes-list-map-keys".to_owned(),
            serde_json::json!(["type"]),
        );
    }
}

/// A new object has a status that is about no generation. By kstatus an object without any status is done, and so it
/// would be until the first status is written. (Flux' kinds have the same default.)
fn begin_unobserved(schema: &mut Value) {
    schema["properties"]["status"]["default"] = serde_json::json!({"observedGeneration": UNOBSERVED});
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn walk(path: &str, value: &Value, visit: &mut impl FnMut(&str, &serde_json::Map<String, Value>)) {
        match value {
            Value::Object(map) => {
                visit(path, map);
                for (key, child) in map {
                    walk(&format!("{path}.{key}"), child, visit);
                }
            }
            Value::Array(items) => items.iter().for_each(|child| walk(path, child, visit)),
            _ => {}
        }
    }

    #[test]
    fn every_field_is_described_and_has_a_format_that_the_api_server_knows() {
        for crd in crds().unwrap() {
            let value = serde_json::to_value(&crd).unwrap();
            let schema = &value["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
            walk("", schema, &mut |path, map| {
                assert!(
                    !map.contains_key("nullable") || path.ends_with(".properties"),
                    "{path} is nullable"
                );
                assert!(
                    !map.contains_key("default")
                        || path.ends_with(".properties")
                        || path == ".properties.status",
                    "{path} has a default"
                );
                if let Some(format) = map.get("format").and_then(Value::as_str) {
                    assert!(
                        ["int32", "int64", "date-time"].contains(&format),
                        "{path}: format {format}"
                    );
                }
                if let Some(Value::Object(properties)) = map.get("properties")
                    && !path.ends_with(".properties")
                {
                    for (name, property) in properties {
                        let root = path.is_empty() && name == "metadata";
                        assert!(
                            root || property.get("description").is_some(),
                            "{path}.{name} has no description"
                        );
                    }
                }
            });
        }
    }

    #[test]
    fn a_field_of_an_enumerated_type_has_its_own_description_and_not_that_of_the_type() {
        let crd = serde_json::to_value(&crds().unwrap()[0]).unwrap();
        let spec = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
        for (field, expected) in [
            ("/ports/items/properties/protocol", "Unset: `HTTP`"),
            ("/imagePullPolicy", "Unset: Kubernetes' rule"),
            ("/exposure", "Unset: `Gateway`"),
            (
                "/gateway/properties/routes/properties/fromNamespaces",
                "`Same`: those of the gateway's namespace",
            ),
            (
                "/gateway/properties/listeners/items/properties/protocol",
                "`HTTP` (the default)",
            ),
        ] {
            let text = &spec["properties"].pointer(field).unwrap()["description"];
            assert!(text.as_str().unwrap().contains(expected), "{field}: {text}");
        }
    }

    #[test]
    fn a_new_object_has_a_status_that_is_about_no_generation_and_does_not_count_as_written() {
        for crd in crds().unwrap() {
            let crd = serde_json::to_value(&crd).unwrap();
            let status = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"];
            let mut status: MicroserviceStatus = serde_json::from_value(status["default"].clone()).unwrap();
            assert_eq!(status.observed_generation, Some(-1));
            assert!(!status.is_written());
            status.observed_generation = Some(1);
            assert!(status.is_written());
        }
    }

    #[test]
    fn a_method_that_the_proxy_refuses_cannot_be_routed() {
        let crd = serde_json::to_value(&crds().unwrap()[0]).unwrap();
        let methods = crd
            .pointer("/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/routes/items/properties/methods/items/enum")
            .unwrap()
            .as_array()
            .unwrap();
        assert!(!methods.contains(&"CONNECT".into()), "{methods:?}");
        assert!(methods.contains(&"GET".into()), "{methods:?}");
    }

    #[test]
    fn a_definition_fits_into_an_annotation_of_client_side_apply() {
        for crd in crds().unwrap() {
            assert!(serde_json::to_vec(&crd).unwrap().len() < 200_000);
        }
    }
}
