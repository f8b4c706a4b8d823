//! The same duty in the three configuration languages: requests under [`PREFIX`] go to the upstream without it, over
//! kept-alive HTTP/1.1, and each is logged as JSON or not at all.

use std::path::Path;

use serde_json::{Value, json};
use trellis_proxy_config::{
    Cluster, ClusterName, Config, Document, Identity, Listener, ListenerKind, Origin, Protocol, Rewrite,
    Role, Route, cluster::Dns,
};
use trellis_resilience::policy::Policy;

/// Start of every path.
pub const PREFIX: &str = "/app/";

/// Fields of Envoy's access log, named and chosen as in ours.
const ENVOY_FIELDS: [(&str, &str); 13] = [
    ("timestamp", "%START_TIME%"),
    ("method", "%REQ(:METHOD)%"),
    ("path", "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%"),
    ("host", "%REQ(:AUTHORITY)%"),
    ("protocol", "%PROTOCOL%"),
    ("status", "%RESPONSE_CODE%"),
    ("duration_ms", "%DURATION%"),
    ("bytes_in", "%BYTES_RECEIVED%"),
    ("bytes_out", "%BYTES_SENT%"),
    ("upstream", "%UPSTREAM_HOST%"),
    ("peer", "%DOWNSTREAM_REMOTE_ADDRESS%"),
    ("user_agent", "%REQ(USER-AGENT)%"),
    ("request_id", "%REQ(X-REQUEST-ID)%"),
];

/// Fields of nginx' access log, likewise.
const NGINX_FIELDS: [(&str, &str); 13] = [
    ("timestamp", "$time_iso8601"),
    ("method", "$request_method"),
    ("path", "$request_uri"),
    ("host", "$host"),
    ("protocol", "$server_protocol"),
    ("status", "$status"),
    ("duration_ms", "$request_time"),
    ("bytes_in", "$request_length"),
    ("bytes_out", "$body_bytes_sent"),
    ("upstream", "$upstream_addr"),
    ("peer", "$remote_addr:$remote_port"),
    ("user_agent", "$http_user_agent"),
    ("request_id", "$request_id"),
];

/// A gateway with one Microservice, as the operator would write it.
pub fn trellis(port: u16, upstream: u16) -> Document {
    let cluster = ClusterName {
        namespace: "bench".to_owned(),
        microservice: "app".to_owned(),
        port: "http".to_owned(),
    };
    let route = Route {
        name: "bench/app".to_owned(),
        origin: Origin::ByService,
        path: PREFIX.trim_end_matches('/').to_owned(),
        methods: Vec::new(),
        rewrite: Rewrite::StripPrefix,
        cluster: cluster.clone(),
    };
    let config = Config {
        role: Role::Gateway,
        identity: Identity {
            namespace: "bench".to_owned(),
            microservice: "gateway".to_owned(),
        },
        stream: None,
        gateways: Vec::new(),
        limits: Vec::new(),
        quota: None,
        listeners: vec![Listener {
            name: "http".to_owned(),
            port,
            kind: ListenerKind::Gateway { routes: vec![route] },
        }],
        outbound: Vec::new(),
        clusters: [(
            cluster,
            Cluster {
                // A gateway has none unless it is told to; the other policies are the usual ones.
                policy: Policy {
                    breaker: None,
                    ..Policy::default()
                },
                ..Cluster::new(
                    Protocol::Http1,
                    Some(Dns {
                        name: "localhost".to_owned(),
                        port: upstream,
                    }),
                )
            },
        )]
        .into(),
    };
    Document::new(1, config)
}

/// Envoy without an admin port, its statistics as by default, with these filters before the one that forwards. Around a
/// request stand the policies that ours has by default, in Envoy's words.
pub fn envoy(port: u16, upstream: u16, log: Option<&Path>, filters: &[Value]) -> Value {
    let format: serde_json::Map<String, Value> = ENVOY_FIELDS
        .iter()
        .map(|(name, value)| ((*name).to_owned(), json!(value)))
        .collect();
    let access_log = log.map(|path| {
        json!({
            "name": "envoy.access_loggers.file",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
                "path": path,
                "log_format": {"json_format": format},
            },
        })
    });
    let routes = json!({
        "name": "local",
        "virtual_hosts": [{
            "name": "all",
            "domains": ["*"],
            "routes": [{
                "match": {"prefix": PREFIX},
                "route": {
                    "cluster": "app",
                    "prefix_rewrite": "/",
                    "timeout": "15s",
                    "retry_policy": {
                        "retry_on": "connect-failure,retriable-status-codes",
                        "retriable_status_codes": [503],
                        "num_retries": 1,
                    },
                },
            }],
        }],
    });
    let router = json!({
        "name": "envoy.filters.http.router",
        "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
    });
    let connections = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "gateway",
        "codec_type": "AUTO",
        "use_remote_address": true,
        "access_log": access_log.into_iter().collect::<Vec<_>>(),
        "route_config": routes,
        "http_filters": filters.iter().chain([&router]).collect::<Vec<_>>(),
    });
    json!({"static_resources": {
        "listeners": [{
            "name": "gateway",
            "address": socket(port),
            "filter_chains": [{"filters": [{
                "name": "envoy.filters.network.http_connection_manager",
                "typed_config": connections,
            }]}],
        }],
        "clusters": [{
            "name": "app",
            "type": "STATIC",
            "connect_timeout": "1s",
            "lb_policy": "LEAST_REQUEST",
            "circuit_breakers": {"thresholds": [{
                "max_requests": 1024,
                "max_pending_requests": 1024,
                "retry_budget": {"budget_percent": {"value": 20.0}},
            }]},
            "load_assignment": {
                "cluster_name": "app",
                "endpoints": [{"lb_endpoints": [{"endpoint": {"address": socket(upstream)}}]}],
            },
        }],
    }})
}

/// One nginx process, as a single worker is. HTTP/2 without TLS has a port of its own in nginx before 1.25.
pub fn nginx(port: u16, h2c: u16, upstream: u16, log: Option<&Path>, folder: &Path) -> String {
    let fields = NGINX_FIELDS
        .map(|(name, value)| format!("\"{name}\":\"{value}\""))
        .join(",");
    // Written like the other two's: many lines at once, a second late at most.
    let access_log = log.map_or_else(
        || "off".to_owned(),
        |path| format!("{} line buffer=64k flush=1s", path.display()),
    );
    let folder = folder.display();
    format!(
        "daemon off;
master_process off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 4096; }}
http {{
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  log_format line escape=json '{{{fields}}}';
  access_log {access_log};
  keepalive_requests 1000000000;
  upstream app {{
    least_conn;
    server 127.0.0.1:{upstream};
    keepalive 64;
    keepalive_requests 1000000000;
  }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    listen 127.0.0.1:{h2c} http2 backlog=4096;
    location {PREFIX} {{
      proxy_pass http://app/;
      proxy_http_version 1.1;
      proxy_set_header Connection \"\";
      proxy_set_header Host $host;
      proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
      proxy_set_header X-Forwarded-Proto $scheme;
      proxy_set_header X-Request-Id $request_id;
    }}
  }}
}}
"
    )
}

fn socket(port: u16) -> Value {
    json!({"socket_address": {"address": "127.0.0.1", "port_value": port}})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_document_is_one_that_a_proxy_takes() {
        let text = serde_json::to_vec(&trellis(8080, 9000)).unwrap();
        assert!(trellis_proxy_config::ValidDocument::parse(&text).is_ok());
    }
}
