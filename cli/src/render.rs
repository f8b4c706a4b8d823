//! `trellis render`: documents -> objects.

use std::collections::BTreeSet;

use serde::Serialize;
use trellis_operator_desired::{
    Prepared, Resources,
    microservice::{self, Fetched, Settings},
    rate_limit::Policies,
    saga,
};

use crate::{args, check, report};

/// Why nothing could be rendered.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The files.
    #[error(transparent)]
    Check(#[from] check::Error),
    /// An object cannot be written as YAML.
    #[error("failed to write an object as YAML")]
    Yaml(#[source] serde_saphyr::ser::Error),
    /// The standard output is closed or full.
    #[error("failed to write to the standard output")]
    Output(#[source] std::io::Error),
}

/// Prints the objects of every Microservice and the revision of every Saga without faults, and the faults of the others. Whether there were none.
///
/// # Errors
/// Files cannot be read or objects not be written.
pub fn run(args: &args::Render) -> Result<bool, Error> {
    let checked = check::check(&args.input)?;
    for finding in &checked.findings {
        eprintln!("{finding}");
    }
    let settings = Settings {
        proxy_image: args.proxy_image.clone(),
        config_stream_address: args.config_stream_address.clone(),
        quota_address: args.quota_address.clone(),
        saga_engine: "trellis-saga".to_owned(),
        namespace: args.operator_namespace.clone(),
        gateway_host: None,
        telemetry_endpoint: None,
        trusted_gateway_namespaces: BTreeSet::new(),
    };
    let fetched = Fetched {
        microservices: checked.microservices.clone(),
        ..Fetched::default()
    };
    let mut documents = Vec::new();
    for cr in &checked.microservices {
        let namespace = &cr.metadata.namespace;
        let policies = checked.policies.iter();
        let fetched = Fetched {
            rate_limit_policies: Policies {
                known: policies
                    .filter(|policy| policy.metadata.namespace == *namespace)
                    .cloned()
                    .collect(),
                ..Policies::default()
            },
            ..fetched.clone()
        };
        if let Some(validated) = microservice::validate(cr, &fetched, &settings).validated {
            documents.extend(yaml(microservice::build(&validated))?);
        }
    }
    for cr in &checked.sagas {
        if let Ok(compiled) = saga::compile(cr) {
            documents.push(document(&saga::config_map(cr, &compiled))?);
        }
    }
    report::print(&documents.join("---\n")).map_err(Error::Output)?;
    Ok(!checked.has_errors())
}

/// In the order in which the operator applies them.
fn yaml(resources: Resources<Prepared>) -> Result<Vec<String>, Error> {
    let Resources {
        service_account,
        proxy_config,
        services,
        handover: _,
        deployment,
        autoscaler,
        disruption_budget,
        stage: _,
    } = resources;
    let mut documents = vec![document(&service_account)?, document(&proxy_config)?];
    for service in &services {
        documents.push(document(service)?);
    }
    documents.push(document(&deployment)?);
    if let Some(autoscaler) = &autoscaler {
        documents.push(document(autoscaler)?);
    }
    if let Some(disruption_budget) = &disruption_budget {
        documents.push(document(disruption_budget)?);
    }
    Ok(documents)
}

fn document<T: Serialize>(object: &T) -> Result<String, Error> {
    let text = serde_saphyr::to_string(object).map_err(Error::Yaml)?;
    Ok(if text.ends_with('\n') { text } else { text + "\n" })
}
