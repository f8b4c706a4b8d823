//! The command line. Every flag has an environment variable, and all are checked before anything is opened.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use clap::Parser;
use http::Uri;
use trellis_operator_desired::microservice::Settings;

use crate::leader::Candidate;

/// The Trellis operator: makes Microservices real and streams configuration to their proxies.
#[derive(Debug, Clone, Parser)]
#[command(name = "trellis-operator", version)]
pub struct Args {
    /// Image of the proxy, sidecar and gateway.
    #[arg(long, env = "TRELLIS_PROXY_IMAGE", value_parser = image)]
    pub proxy_image: String,

    /// Where proxies find the configuration stream.
    #[arg(
        long,
        env = "TRELLIS_CONFIG_STREAM_ADDRESS",
        default_value = "http://trellis-operator.trellis-system.svc:15010",
        value_parser = address
    )]
    pub config_stream_address: String,

    /// Where proxies find the quota service, from which they lease shares of limits over all pods.
    #[arg(
        long,
        env = "TRELLIS_QUOTA_ADDRESS",
        default_value = "http://trellis-quota.trellis-system.svc:8080",
        value_parser = address
    )]
    pub quota_address: String,

    /// Host at which node ports of gateways are reached, for the URL column. Unset: unknown.
    #[arg(long, env = "TRELLIS_GATEWAY_HOST", value_parser = host)]
    pub gateway_host: Option<String>,

    /// Namespaces whose gateways every sidecar believes about callers, with commas between. Unset: a sidecar believes
    /// gateways of its own namespace only. Whoever may create pods in such a namespace is believed too.
    #[arg(
        long,
        env = "TRELLIS_TRUSTED_GATEWAY_NAMESPACES",
        default_value = "",
        hide_default_value = true,
        value_parser = namespaces
    )]
    pub trusted_gateway_namespaces: BTreeSet<String>,

    /// Where pods export traces to. Unset: they export none.
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT")]
    pub telemetry_endpoint: Option<String>,

    /// Namespace of the operator, where its Lease is. No rate limit policy holds for the Microservices there: they are parts of
    /// Trellis.
    #[arg(long, env = "POD_NAMESPACE", default_value = "trellis-system")]
    pub namespace: String,

    /// Name of this replica, as the holder of the Lease. Unset: made of the process id.
    #[arg(long, env = "POD_NAME")]
    pub pod_name: Option<String>,

    /// ServiceAccount of the operator: only it may report to the leader what proxies said.
    #[arg(long, env = "POD_SERVICE_ACCOUNT", default_value = "trellis-operator")]
    pub service_account: String,

    /// IP address at which other replicas reach this one. Unset: they cannot report to it what their proxies said.
    #[arg(long, env = "POD_IP")]
    pub pod_ip: Option<IpAddr>,

    /// File with the token that proves to the leader who this replica is (audience `trellis-config`).
    #[arg(
        long,
        env = "TRELLIS_TOKEN_FILE",
        default_value = "/var/run/secrets/trellis/token"
    )]
    pub token_file: PathBuf,

    /// The Microservice of the saga engine, in the operator's namespace: only it gets revisions of sagas, and its sidecars reach all
    /// participants.
    #[arg(long, env = "TRELLIS_SAGA_ENGINE", default_value = "trellis-saga")]
    pub saga_engine: String,

    /// Address of health and metrics.
    #[arg(long, env = "TRELLIS_ADMIN_ADDRESS", default_value = "0.0.0.0:9090")]
    pub admin_address: SocketAddr,

    /// Address of the configuration stream.
    #[arg(long, env = "TRELLIS_STREAM_ADDRESS", default_value = "0.0.0.0:15010")]
    pub stream_address: SocketAddr,

    /// Most Microservices that are reconciled at once.
    #[arg(long, env = "TRELLIS_CONCURRENCY", default_value = "8", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub concurrency: u16,

    /// Check the configuration and end: 0 if it is good, 64 if not.
    #[arg(long)]
    pub check_config: bool,
}

impl Args {
    /// Name of this replica.
    pub fn identity(&self) -> String {
        self.pod_name
            .clone()
            .filter(|name| !name.is_empty())
            .unwrap_or_else(|| format!("process-{}", std::process::id()))
    }

    /// How this replica stands for the Lease.
    pub fn candidate(&self) -> Candidate {
        let port = self.stream_address.port();
        Candidate {
            identity: self.identity(),
            address: self
                .pod_ip
                .map(|ip| format!("http://{}", SocketAddr::new(ip, port))),
        }
    }

    /// What shows in the objects.
    pub fn settings(&self) -> Settings {
        Settings {
            proxy_image: self.proxy_image.clone(),
            config_stream_address: self.config_stream_address.clone(),
            quota_address: self.quota_address.clone(),
            namespace: self.namespace.clone(),
            saga_engine: self.saga_engine.clone(),
            gateway_host: self.gateway_host.clone(),
            telemetry_endpoint: self
                .telemetry_endpoint
                .clone()
                .filter(|endpoint| !endpoint.is_empty()),
            trusted_gateway_namespaces: self.trusted_gateway_namespaces.clone(),
        }
    }
}

fn image(text: &str) -> Result<String, String> {
    let good = !text.is_empty() && text.chars().all(|c| c.is_ascii_graphic());
    good.then(|| text.to_owned())
        .ok_or_else(|| "write an image reference, for example registry.example/trellis-proxy:1.0".to_owned())
}

fn address(text: &str) -> Result<String, String> {
    let fault = || "write http://host:port".to_owned();
    let uri: Uri = text.parse().map_err(|_| fault())?;
    let good = uri.scheme_str() == Some("http")
        && uri.host().is_some_and(|host| !host.is_empty())
        && uri.port().is_some()
        && uri.path() == "/"
        && uri.query().is_none();
    good.then(|| text.to_owned()).ok_or_else(fault)
}

fn namespaces(text: &str) -> Result<BTreeSet<String>, String> {
    if text.is_empty() {
        return Ok(BTreeSet::new());
    }
    let of_label = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let good = |name: &str| {
        (1..=63).contains(&name.len())
            && name.chars().all(of_label)
            && !name.starts_with('-')
            && !name.ends_with('-')
    };
    let names: BTreeSet<String> = text.split(',').map(|name| name.trim().to_owned()).collect();
    match names.iter().find(|name| !good(name)) {
        Some(name) => Err(format!(
            "{name:?} is no name of a namespace: write names with commas between, for example edge,ingress"
        )),
        None => Ok(names),
    }
}

fn host(text: &str) -> Result<String, String> {
    let good = !text.is_empty()
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '[' | ']'));
    good.then(|| text.to_owned())
        .ok_or_else(|| "write a host name or an IP address, without scheme and port".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Args, clap::Error> {
        Args::try_parse_from([&["trellis-operator", "--proxy-image=trellis-proxy"], args].concat())
    }

    #[test]
    fn the_image_of_the_proxy_is_all_that_must_be_given() {
        let args = parse(&[]).unwrap();
        assert_eq!(args.settings().proxy_image, "trellis-proxy");
        assert_eq!(args.admin_address.port(), 9090);
        assert!(Args::try_parse_from(["trellis-operator"]).is_err());
    }

    #[test]
    fn a_replica_is_reached_at_the_address_of_its_pod_and_the_port_of_its_stream() {
        let address = |args: &[&str]| parse(args).unwrap().candidate().address;
        assert_eq!(
            address(&["--pod-ip=10.0.0.7"]).as_deref(),
            Some("http://10.0.0.7:15010")
        );
        assert_eq!(
            address(&["--pod-ip=fd00::7"]).as_deref(),
            Some("http://[fd00::7]:15010")
        );
        assert_eq!(address(&[]), None, "it is not guessed");
    }

    #[test]
    fn gateways_of_no_other_namespace_are_trusted_unless_it_is_named() {
        let trusted = |args: &[&str]| parse(args).unwrap().settings().trusted_gateway_namespaces;
        assert!(trusted(&[]).is_empty());
        assert!(trusted(&["--trusted-gateway-namespaces="]).is_empty());
        assert_eq!(
            trusted(&["--trusted-gateway-namespaces=edge, ingress"]),
            ["edge".to_owned(), "ingress".to_owned()].into()
        );
    }

    #[test]
    fn faults_are_found_before_anything_is_opened() {
        for fault in [
            "--proxy-image=",
            "--config-stream-address=trellis-operator:15010",
            "--config-stream-address=http://trellis-operator",
            "--config-stream-address=http://trellis-operator:15010/x",
            "--quota-address=trellis-quota:8080",
            "--gateway-host=http://127.0.0.1",
            "--concurrency=0",
            "--trusted-gateway-namespaces=edge,",
            "--trusted-gateway-namespaces=Edge",
            "--admin-address=9090",
        ] {
            assert!(parse(&[fault]).is_err(), "{fault}");
        }
    }
}
