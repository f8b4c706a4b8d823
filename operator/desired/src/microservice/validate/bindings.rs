//! `spec.bindings` and `spec.imagePullSecrets`: Secrets by name; `spec.tokenAudiences`.

use std::collections::{BTreeMap, BTreeSet};

use trellis_api::{MicroserviceSpec, microservice::Binding};

use super::{Problems, environment::check_reference};
use crate::syntax;

const NAME_MAX: usize = 50;
const MOST: usize = 32;
const MOST_AUDIENCES: usize = 8;
const AUDIENCE_MAX: usize = 63;

pub(super) fn check(spec: &MicroserviceSpec, problems: &mut Problems) {
    if spec.bindings.len() > MOST {
        problems.error(
            "spec.bindings",
            format!(
                "{} bindings are more than {MOST}: remove some",
                spec.bindings.len()
            ),
        );
    }
    check_audiences(&spec.token_audiences, problems);
    let mut names = BTreeMap::new();
    for (i, binding) in spec.bindings.iter().enumerate() {
        check_binding(&format!("spec.bindings[{i}]"), binding, problems);
        if let Some(first) = names.insert(&binding.name, i) {
            problems.error(
                format!("spec.bindings[{i}].name"),
                format!(
                    "{:?} is the name of spec.bindings[{first}] too, and so the same folder: give each its own",
                    binding.name
                ),
            );
        }
    }
    for (i, secret) in spec.image_pull_secrets.iter().enumerate() {
        if spec.image_pull_secrets[..i].contains(secret) {
            problems.warning(
                format!("spec.imagePullSecrets[{i}].name"),
                format!("{:?} is listed twice: remove one", secret.name),
            );
        }
        check_reference(
            &format!("spec.imagePullSecrets[{i}].name"),
            &secret.name,
            problems,
        );
    }
}

/// Each names a file.
fn check_audiences(audiences: &[String], problems: &mut Problems) {
    if audiences.len() > MOST_AUDIENCES {
        let message = format!(
            "{} audiences are more than {MOST_AUDIENCES}: remove some",
            audiences.len()
        );
        problems.error("spec.tokenAudiences", message);
    }
    for (i, audience) in audiences.iter().enumerate() {
        let at = format!("spec.tokenAudiences[{i}]");
        if !(syntax::is_dns_subdomain(audience) && audience.len() <= AUDIENCE_MAX) {
            let message = format!(
                "{audience:?} cannot name a file: use at most {AUDIENCE_MAX} characters of a-z, 0-9, '-' and '.', start and end with a \
                 letter or digit"
            );
            problems.error(&at, message);
        }
        if audiences[..i].contains(audience) {
            problems.error(&at, format!("{audience:?} is listed twice: remove one"));
        }
    }
}

fn check_binding(at: &str, binding: &Binding, problems: &mut Problems) {
    if !syntax::is_dns_label(&binding.name, 1..=NAME_MAX) {
        problems.error(
            format!("{at}.name"),
            format!(
                "{:?} cannot name a folder and a volume: use at most {NAME_MAX} characters of a-z, 0-9 and '-', start \
                 and end with a letter or digit",
                binding.name
            ),
        );
    }
    check_reference(&format!("{at}.secret"), &binding.secret, problems);
    if binding.keys.len() > MOST {
        problems.error(
            format!("{at}.keys"),
            format!(
                "{} keys are more than {MOST}: remove some, or all to mount whatever is there",
                binding.keys.len()
            ),
        );
    }
    let mut keys = BTreeSet::new();
    for (j, key) in binding.keys.iter().enumerate() {
        if !syntax::is_config_key(key) {
            problems.error(
                format!("{at}.keys[{j}]"),
                format!("{key:?} is no key of a Secret: use letters, digits, '-', '_' and '.'"),
            );
        }
        if !keys.insert(key) {
            problems.error(
                format!("{at}.keys[{j}]"),
                format!("{key:?} is listed twice: remove one"),
            );
        }
    }
}
