//! Manifests as they are in the checkout, with the image names of this cluster.
//!
//! Manifests say `image: trellis-proxy`; in the cluster the image is `trellis.local/trellis-proxy:4be2...`. Only places that
//! hold an image are changed (the field `image`, and arguments and variables whose name says image): `trellis-operator` is
//! also the name of a Deployment.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::yaml_files;
use crate::kubectl::Kubectl;

/// Names in manifests and what they are called in the cluster.
pub type ImageNames = BTreeMap<String, String>;

/// The objects of a folder, by its kustomization or all its files; none if there is no such folder.
pub fn render(kubectl: &Kubectl, folder: &Path, images: &ImageNames) -> Result<Vec<Value>> {
    let text = if folder.join("kustomization.yaml").exists() {
        kubectl
            .output(&["kustomize", &folder.display().to_string()])
            .with_context(|| format!("failed to render {}", folder.display()))?
    } else {
        yaml_files(folder)?
            .iter()
            .map(|file| {
                fs::read_to_string(file)
                    .map(|text| format!("---\n{text}"))
                    .with_context(|| format!("failed to read {}", file.display()))
            })
            .collect::<Result<String>>()?
    };
    let mut objects =
        parse(&text).with_context(|| format!("failed to parse the objects of {}", folder.display()))?;
    for object in &mut objects {
        substitute(object, images);
    }
    Ok(objects)
}

/// The objects of a text with several documents.
fn parse(text: &str) -> Result<Vec<Value>> {
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    let objects: Vec<Value> = serde_saphyr::from_multiple(text)?;
    Ok(objects.into_iter().filter(|object| !object.is_null()).collect())
}

/// Applies objects on the server's side.
pub fn apply(kubectl: &Kubectl, objects: &[Value]) -> Result<()> {
    if objects.is_empty() {
        return Ok(());
    }
    kubectl
        .apply(&json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string())
        .map(drop)
}

/// Replaces image names everywhere inside a value.
fn substitute(value: &mut Value, images: &ImageNames) {
    match value {
        Value::Object(fields) => {
            let is_image_variable = fields
                .get("name")
                .and_then(Value::as_str)
                .is_some_and(|name| name.ends_with("IMAGE"));
            for (key, field) in fields {
                match field {
                    Value::String(text) if key == "image" || (key == "value" && is_image_variable) => {
                        if let Some(reference) = images.get(text) {
                            text.clone_from(reference);
                        }
                    }
                    other => substitute(other, images),
                }
            }
        }
        Value::Array(items) => {
            for item in items {
                if let Value::String(argument) = item {
                    if let Some(changed) = argument_with_image(argument, images) {
                        *argument = changed;
                    }
                } else {
                    substitute(item, images);
                }
            }
        }
        _ => {}
    }
}

/// `--proxy-image=trellis-proxy` with the name replaced.
fn argument_with_image(argument: &str, images: &ImageNames) -> Option<String> {
    let (flag, name) = argument.split_once('=')?;
    let reference = images
        .get(name)
        .filter(|_| flag.starts_with('-') && flag.contains("image"))?;
    Some(format!("{flag}={reference}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_places_that_hold_an_image_are_changed() {
        let images = ImageNames::from([("op".to_owned(), "trellis.local/op:1".to_owned())]);
        let mut objects = parse(
            "metadata: {name: op, labels: {app: op}}\nspec:\n  containers:\n  - {name: op, image: op, args: [--proxy-image=op, --name=op, op], \
             env: [{name: PROXY_IMAGE, value: op}, {name: X, value: op}]}\n---\n# nothing\n",
        )
        .unwrap();
        substitute(&mut objects[0], &images);
        assert_eq!(
            objects,
            [json!({
                "metadata": {"name": "op", "labels": {"app": "op"}},
                "spec": {"containers": [{
                    "name": "op", "image": "trellis.local/op:1", "args": ["--proxy-image=trellis.local/op:1", "--name=op", "op"],
                    "env": [{"name": "PROXY_IMAGE", "value": "trellis.local/op:1"}, {"name": "X", "value": "op"}],
                }]},
            })]
        );
    }

    /// What `rules` of roles grant that no part of Trellis must have: a right to Secrets, by name or by wildcard.
    fn excessive(objects: &[Value]) -> Vec<&Value> {
        let names = |rule: &Value, field: &str| -> Vec<String> {
            let all = rule[field].as_array().into_iter().flatten();
            all.filter_map(|name| name.as_str().map(str::to_owned)).collect()
        };
        let rules = objects
            .iter()
            .flat_map(|object| object["rules"].as_array().into_iter().flatten());
        rules
            .filter(|rule| {
                let resources = names(rule, "resources");
                let all = ["apiGroups", "verbs"].iter().flat_map(|field| names(rule, field));
                resources
                    .iter()
                    .any(|name| name.split('/').next() == Some("secrets"))
                    || all.chain(resources).any(|name| name.contains('*'))
            })
            .collect()
    }

    #[test]
    fn no_part_of_trellis_has_a_right_to_secrets_by_name_or_by_wildcard() {
        let manifests = Path::new("../manifests");
        let mut files = yaml_files(&manifests.join("base/operator")).unwrap();
        files.extend(yaml_files(&manifests.join("base/quota")).unwrap());
        files.extend(yaml_files(&manifests.join("base/saga")).unwrap());
        files.push(manifests.join("install.yaml"));
        let mut rules = 0;
        for file in files {
            let objects = parse(&fs::read_to_string(&file).unwrap()).unwrap();
            assert_eq!(excessive(&objects), Vec::<&Value>::new(), "{}", file.display());
            rules += objects.iter().filter(|object| object["rules"].is_array()).count();
        }
        assert!(rules >= 8, "four roles, each in two places: {rules}");
        for rule in [
            "{apiGroups: [''], resources: [pods, secrets], verbs: [get]}",
            "{apiGroups: [''], resources: [secrets/status], verbs: [get]}",
            "{apiGroups: [''], resources: ['*'], verbs: [get]}",
            "{apiGroups: ['*'], resources: [pods], verbs: [get]}",
            "{apiGroups: [''], resources: [pods], verbs: ['*']}",
        ] {
            let objects = parse(&format!("kind: ClusterRole\nrules: [{rule}]\n")).unwrap();
            assert_eq!(excessive(&objects).len(), 1, "{rule}");
        }
    }
}
