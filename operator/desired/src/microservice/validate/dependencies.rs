//! `spec.dependsOn`: each entry gives the app one address, so no two may give the same.

use std::collections::BTreeMap;

use trellis_api::{Microservice, microservice::Dependency};

use super::{Problems, ports::check_name};
use crate::microservice::{Key, dependency};
use crate::syntax;

const MOST: usize = 64;

pub(super) fn check(cr: &Microservice, problems: &mut Problems) {
    let dependencies = &cr.spec.depends_on;
    if dependencies.len() > MOST {
        problems.error(
            "spec.dependsOn",
            format!(
                "{} dependencies are more than {MOST}: remove some",
                dependencies.len()
            ),
        );
    }
    let own = Key::of(cr);
    let mut variables = BTreeMap::new();
    let mut hosts = BTreeMap::new();
    for (i, entry) in dependencies.iter().enumerate() {
        let at = format!("spec.dependsOn[{i}]");
        check_names(&at, entry, problems);
        if dependency::key(entry, &own.namespace) == own {
            problems.error(
                format!("{at}.microservice"),
                format!(
                    "{:?} is this Microservice itself: remove the entry, an app reaches itself at 127.0.0.1",
                    own.name
                ),
            );
        }
        let variable = dependency::variable(entry, "ADDR");
        if let Some(first) = variables.insert(variable.clone(), i) {
            problems.error(
                &at,
                format!(
                    "gives the app the variable {variable}, and so does spec.dependsOn[{first}]: remove one of the two"
                ),
            );
            continue;
        }
        for host in dependency::hosts(entry, &own.namespace) {
            if let Some(first) = hosts.insert(host.clone(), i) {
                problems.error(
                    &at,
                    format!("is reached at {host}, and so is spec.dependsOn[{first}]: rename one of the two"),
                );
            }
        }
    }
}

fn check_names(at: &str, entry: &Dependency, problems: &mut Problems) {
    if !syntax::is_microservice_name(&entry.microservice) {
        problems.error(
            format!("{at}.microservice"),
            format!(
                "{:?} is no name of a Microservice: use at most {} characters of a-z, 0-9 and '-', start with a letter \
                 and end with a letter or digit",
                entry.microservice,
                syntax::MICROSERVICE_NAME_MAX
            ),
        );
    }
    if let Some(namespace) = &entry.namespace
        && !syntax::is_dns_label(namespace, 1..=syntax::LABEL_MAX)
    {
        problems.error(
            format!("{at}.namespace"),
            format!("{namespace:?} is no name of a namespace: use a-z, 0-9 and '-', start and end with a letter or digit"),
        );
    }
    if let Some(port) = &entry.port {
        check_name(&format!("{at}.port"), port, problems);
    }
}
