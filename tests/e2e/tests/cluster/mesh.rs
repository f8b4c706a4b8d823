//! Calls between Microservices, through the sidecars of both.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use anyhow::{Result, ensure};
use e2e::{Cluster, eventually, http, image, wait::until_ready, with_namespace};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, ResourceExt,
    api::{ListParams, LogParams, PostParams},
};
use serde_json::{Value, json};
use trellis_api::{Microservice, names};

const SOON: Duration = Duration::from_secs(30);

/// A callee with three pods and a port of each sort, a caller of it, and a gateway.
async fn caller_and_callee(cluster: &Cluster, ns: &str) -> Result<()> {
    let echo = image::echo().await?;
    let services: Api<Microservice> = Api::namespaced(cluster.client.clone(), ns);
    for (name, spec) in [
        (
            "gateway",
            json!({"gateway": {"listeners": [{"name": "http", "port": 80}]}}),
        ),
        (
            "callee",
            json!({
                "image": echo,
                "replicas": 3,
                "ports": [
                    {"name": "http", "port": 8080},
                    {"name": "h2", "port": 9000, "protocol": "H2C"},
                    {"name": "raw", "port": 7000, "protocol": "TCP"},
                ],
            }),
        ),
        (
            "caller",
            json!({
                "image": echo,
                "ports": [{"name": "http", "port": 8080}],
                "dependsOn": [
                    {"microservice": "callee"},
                    {"microservice": "callee", "port": "h2"},
                    {"microservice": "callee", "port": "raw"},
                ],
            }),
        ),
    ] {
        let object = json!({
            "apiVersion": "trellis.dev/v1alpha1", "kind": "Microservice", "metadata": {"name": name}, "spec": spec,
        });
        services
            .create(&PostParams::default(), &serde_json::from_value(object)?)
            .await?;
    }
    for name in ["callee", "caller", "gateway"] {
        until_ready(&services, name).await;
    }
    Ok(())
}

async fn ask(cluster: &Cluster, ns: &str, path: &str) -> Value {
    let ask = || http::get_through_api_server(&cluster.client, ns, "gateway:http", path);
    eventually(SOON, &format!("an answer at {path}"), ask).await
}

#[tokio::test]
async fn a_caller_reaches_every_pod_of_its_dependency_over_http_and_http2() {
    with_namespace(|cluster, ns| async move {
        caller_and_callee(&cluster, &ns).await?;

        // A pod that is ready is known to its callers a moment later.
        eventually(SOON, "answers of three pods", || async {
            let mut hosts = BTreeSet::new();
            for _ in 0..60 {
                let answer = ask(&cluster, &ns, "/caller/call?variable=CALLEE_URL&path=/greet").await;
                assert!(
                    answer["path"] == "/greet" && answer["protocol"] == "HTTP/1.1",
                    "{answer}"
                );
                hosts.insert(answer["host"].to_string());
            }
            ensure!(hosts.len() == 3, "{hosts:?}");
            Ok(())
        })
        .await;

        // Ping-pong over one stream, through both sidecars: nothing on the way may wait for the end of a body.
        let answer = ask(
            &cluster,
            &ns,
            "/caller/call-stream?variable=CALLEE_H2_ADDR&rounds=20",
        )
        .await;
        assert_eq!(
            answer,
            json!({"rounds": 20, "protocol": "HTTP/2.0", "trailer": "20"})
        );
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn one_trace_goes_through_every_hop_and_a_port_of_no_known_protocol_is_not_proxied() {
    with_namespace(|cluster, ns| async move {
        caller_and_callee(&cluster, &ns).await?;
        let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), &ns);

        let env = pods
            .list(&ListParams::default().labels(&format!("{}=caller", names::LABEL_MICROSERVICE)))
            .await?;
        let spec = env.items[0].spec.as_ref().unwrap();
        let app = spec
            .containers
            .iter()
            .find(|c| c.name == names::CONTAINER_APP)
            .unwrap();
        let value = |name: &str| {
            let found = app.env.iter().flatten().find(|variable| variable.name == name);
            found
                .and_then(|variable| variable.value.clone())
                .unwrap_or_default()
        };
        assert_eq!(value("CALLEE_URL"), "http://callee.mesh:15001");
        assert_eq!(value("CALLEE_H2_ADDR"), "h2.callee.mesh:15001");
        assert_eq!(
            value("CALLEE_RAW_ADDR"),
            format!("callee.{ns}.svc.cluster.local:7000")
        );

        let answer = ask(&cluster, &ns, "/caller/traced").await;
        let parent = answer["headers"]["Traceparent"][0].as_str().unwrap().to_owned();
        let trace = parent.split('-').nth(1).unwrap().to_owned();
        for microservice in ["gateway", "caller"] {
            let selector = format!("{}={microservice}", names::LABEL_MICROSERVICE);
            eventually(
                SOON,
                &format!("the trace in the log of {microservice}"),
                || async {
                    let parameters = LogParams {
                        container: Some(names::CONTAINER_PROXY.to_owned()),
                        ..LogParams::default()
                    };
                    for pod in pods.list(&ListParams::default().labels(&selector)).await? {
                        if pods.logs(&pod.name_any(), &parameters).await?.contains(&trace) {
                            return Ok(());
                        }
                    }
                    anyhow::bail!("{trace} is in no line")
                },
            )
            .await;
        }
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn an_app_learns_the_callers_address_from_its_gateway_and_a_claim_of_another_app_is_replaced() {
    with_namespace(|cluster, ns| async move {
        caller_and_callee(&cluster, &ns).await?;
        let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), &ns);
        let address_of = async |microservice: &str| -> Result<String> {
            let selector = format!("{}={microservice}", names::LABEL_MICROSERVICE);
            let pods = pods.list(&ListParams::default().labels(&selector)).await?;
            Ok(pods.items[0].status.as_ref().unwrap().pod_ip.clone().unwrap())
        };
        let (gateway, caller) = (address_of("gateway").await?, address_of("caller").await?);

        // The API server's proxy is the caller here; its own X-Forwarded-For is dropped by the gateway.
        let answer = ask(&cluster, &ns, "/caller/who").await;
        let told = answer["headers"]["X-Forwarded-For"].as_array().unwrap();
        assert_eq!(told.len(), 1, "{answer}");
        let client: IpAddr = told[0].as_str().unwrap().parse()?;
        assert_ne!(
            client.to_string(),
            gateway,
            "the sidecar did not believe its gateway"
        );
        assert_eq!(answer["headers"]["X-Forwarded-Prefix"], json!(["/caller"]));

        let call = "/caller/call?variable=CALLEE_URL&path=/who&header=X-Forwarded-For:203.0.113.1";
        let answer = ask(&cluster, &ns, call).await;
        assert_eq!(answer["headers"]["X-Forwarded-For"], json!([caller]), "{answer}");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn the_metrics_that_dashboards_read_are_there() {
    with_namespace(|cluster, ns| async move {
        caller_and_callee(&cluster, &ns).await?;
        ask(&cluster, &ns, "/caller/counted").await;
        let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), &ns);
        let selector = ListParams::default().labels(&format!("{}=caller", names::LABEL_MICROSERVICE));
        let pod = pods.list(&selector).await?.items[0].name_any();
        let url = format!(
            "/api/v1/namespaces/{ns}/pods/{pod}:{}/proxy/metrics",
            names::PORT_PROXY_HEALTH
        );
        // A request is counted when its answer has ended, which the caller may see first.
        eventually(SOON, "the metrics of a request", || async {
            let request = ::http::Request::get(&url).body(Vec::new())?;
            let text = cluster.client.request_text(request).await?;
            for wanted in [
                "request_total",
                "response_time_seconds",
                "active_connections",
                "http_server_request_duration_seconds",
                "method=\"GET\"",
            ] {
                ensure!(text.contains(wanted), "{wanted} is not in\n{text}");
            }
            Ok(())
        })
        .await;
        Ok(())
    })
    .await;
}
