//! `cargo xtask status`: what runs, for people and for tests.

use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::Value;

use crate::kubectl::Kubectl;
use crate::paths::Paths;
use crate::provider::{self, Name, Options, Provider};

/// Everything that `status` prints.
#[derive(Debug, Serialize)]
struct Status {
    provider: Name,
    running: bool,
    /// The file that `kubectl` reads; the user's own for the provider `current`.
    kubeconfig: Option<PathBuf>,
    /// The folder of `kubectl`.
    path: Option<PathBuf>,
    /// Base URL of the shop's gateway, once it answers.
    gateway: Option<String>,
    microservices: Vec<Microservice>,
}

/// One Microservice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Microservice {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Whether `Ready` is true for the spec as it is now.
    pub ready: bool,
    /// The reason of `Ready`.
    pub reason: String,
    /// The message of `Ready`.
    pub message: String,
}

/// Prints the status.
pub fn print(paths: &Paths, as_json: bool) -> Result<()> {
    let provider = provider::choose(paths, None, &Options::default())?;
    let status = read(provider.as_ref())?;
    if as_json {
        println!("{}", serde_json::to_string_pretty(&status)?);
        return Ok(());
    }
    println!("provider    {}", format!("{:?}", status.provider).to_lowercase());
    println!(
        "running     {}",
        if status.running {
            "yes"
        } else {
            "no: `cargo xtask up` starts it"
        }
    );
    if let Some(file) = &status.kubeconfig {
        println!("kubeconfig  {}", file.display());
    }
    println!(
        "gateway     {}",
        status.gateway.as_deref().unwrap_or("does not answer")
    );
    for service in &status.microservices {
        let mark = if service.ready { "ready" } else { "NOT READY" };
        println!(
            "{:<11} {}/{}: {}",
            mark, service.namespace, service.name, service.message
        );
    }
    Ok(())
}

fn read(provider: &dyn Provider) -> Result<Status> {
    let running = provider.is_running();
    let kubectl = provider.kubectl();
    let microservices = if running {
        microservices(&kubectl, "").unwrap_or_default()
    } else {
        Vec::new()
    };
    Ok(Status {
        provider: provider.name(),
        running,
        kubeconfig: kubectl
            .kubeconfig()
            .map(Into::into)
            .or_else(|| std::env::var_os("KUBECONFIG").map(PathBuf::from)),
        path: kubectl
            .program()
            .parent()
            .filter(|folder| folder.is_absolute())
            .map(Into::into),
        gateway: provider.gateway().filter(|url| running && is_open(url)),
        microservices,
    })
}

/// Whether something accepts connections at `http://ADDRESS:PORT`.
pub fn is_open(url: &str) -> bool {
    url.strip_prefix("http://")
        .and_then(|address| address.parse::<SocketAddr>().ok())
        .is_some_and(|address| TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok())
}

/// The Microservices of a namespace, or of all for an empty name; none if the kind is not installed.
pub fn microservices(kubectl: &Kubectl, namespace: &str) -> Result<Vec<Microservice>> {
    let scope = if namespace.is_empty() {
        "--all-namespaces".to_owned()
    } else {
        format!("--namespace={namespace}")
    };
    if !kubectl.succeeds(&["get", "customresourcedefinition", "microservices.trellis.dev"]) {
        return Ok(Vec::new());
    }
    let list = kubectl.json(&["get", "microservices.trellis.dev", &scope, "-o", "json"])?;
    let items = list["items"]
        .as_array()
        .context("failed to read the list of Microservices")?;
    Ok(items.iter().map(parse).collect())
}

fn parse(object: &Value) -> Microservice {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let status = &object["status"];
    let ready = status["conditions"]
        .as_array()
        .and_then(|all| all.iter().find(|condition| condition["type"] == "Ready"));
    // A status without `observedGeneration`, or with -1, is of no generation: the operator has not looked yet.
    let is_current = status["observedGeneration"].as_i64() == object["metadata"]["generation"].as_i64()
        && object["metadata"]["generation"].is_i64();
    let is_true = ready.is_some_and(|condition| condition["status"] == "True");
    let message = match ready {
        None => "no status yet".to_owned(),
        Some(_) if is_true && !is_current => "the last change is not seen yet".to_owned(),
        Some(condition) => text(&condition["message"]),
    };
    Microservice {
        namespace: text(&object["metadata"]["namespace"]),
        name: text(&object["metadata"]["name"]),
        ready: is_true && is_current,
        reason: ready
            .map(|condition| text(&condition["reason"]))
            .unwrap_or_default(),
        message,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(generation: i64, observed: i64, ready: &str) -> Value {
        json!({
            "metadata": {"namespace": "shop", "name": "user", "generation": generation},
            "status": {"observedGeneration": observed, "conditions": [
                {"type": "Stalled", "status": "False", "reason": "x", "message": "y"},
                {"type": "Ready", "status": ready, "reason": "Available", "message": "2 of 2 replicas"},
            ]},
        })
    }

    #[test]
    fn a_microservice_is_ready_only_for_the_generation_that_the_operator_saw() {
        assert!(parse(&object(2, 2, "True")).ready);
        assert!(!parse(&object(2, 2, "False")).ready);
        let stale = parse(&object(3, 2, "True"));
        assert!(!stale.ready && stale.message.contains("not seen"), "{stale:?}");
        assert!(!parse(&json!({"metadata": {"name": "a", "generation": 1}})).ready);
    }

    #[test]
    fn a_closed_port_is_not_open() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        assert!(is_open(&url));
        drop(listener);
        assert!(!is_open(&url));
    }
}
