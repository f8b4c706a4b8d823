//! One request is one trace, whoever it passes through.

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use e2e::{Cluster, cluster::own_operator, eventually, http, restoring, wait::until_rolled_out};
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use kube::{
    Api, ResourceExt,
    api::{ListParams, LogParams, Patch, PatchParams},
};
use serde_json::{Value, json};
use trellis_api::names;
use trellis_testkit::otlp::{Collector, Span};

const SHOP: &str = "shop";
const TRACE: &str = "5e1ec7ab1e0000000000000000000001";
const CALLER: &str = "00f067aa0ba902b7";

/// The way of an order, from the client to the last server: process and direction of each span.
const WAY: [(&str, &str); 7] = [
    ("trellis-proxy", "gateway"),
    ("trellis-proxy", "inbound"),
    ("order", "server"),
    ("order", "client"),
    ("trellis-proxy", "outbound"),
    ("trellis-proxy", "inbound"),
    ("user", "server"),
];

#[tokio::test(flavor = "multi_thread")]
async fn an_order_is_one_trace_from_the_gateway_to_the_user_service_and_every_log_line_has_its_id()
-> Result<()> {
    let _lock = own_operator().await?;
    let cluster = Cluster::connect().await?;
    let collector = Collector::start_at(SocketAddr::from(([0, 0, 0, 0], 0))).await;
    let endpoint = format!(
        "http://{}",
        SocketAddr::new(address_towards_pods(&cluster).await?, collector.address().port())
    );

    let body = async {
        export_traces_to(&cluster, Some(&endpoint)).await?;
        order_and_look(&cluster, &collector).await
    };
    restoring(body, export_traces_to(&cluster, None)).await
}

async fn order_and_look(cluster: &Cluster, collector: &Collector) -> Result<()> {
    let shop = &cluster.gateway;
    let username = format!("user-{}", rand::random::<u32>());
    let user = json!({"username": username});
    eventually(Duration::from_secs(30), "a user", || async {
        let answer = http::post(&format!("{shop}/user/users/"), &user).await?;
        ensure!(answer.status.is_success(), "{answer:?}");
        Ok(())
    })
    .await;
    let id = format!("{}", u32::MAX / 2 + rand::random::<u32>() / 2);
    let order = json!({"order_id": id.parse::<u32>()?, "username": username, "amount": 5});
    let parent = format!("00-{TRACE}-{CALLER}-01");
    eventually(Duration::from_secs(30), "an order", || async {
        let answer = http::post_with(
            &format!("{shop}/order/orders/"),
            &order,
            &[("traceparent", &parent)],
        )
        .await?;
        ensure!(answer.status.is_success(), "{answer:?}");
        Ok(())
    })
    .await;

    // Spans travel in batches, every five seconds.
    eventually(Duration::from_secs(30), "the spans of the whole way", || async {
        follow_the_way(&collector.trace(TRACE))
    })
    .await;
    // The order is placed by a run, which is a trace of its own.
    let of_run = trace_of_run(cluster, &id)?;
    // The app of user writes of what it changes only, and it changed nothing: its proxy wrote the line.
    let marks = [TRACE, &id, &format!("/users/{username}")];
    for (microservice, container) in [
        ("gateway", names::CONTAINER_PROXY),
        ("order", names::CONTAINER_PROXY),
        ("order", names::CONTAINER_APP),
        ("user", names::CONTAINER_PROXY),
    ] {
        eventually(
            Duration::from_secs(20),
            &format!("the trace in the log of {microservice}/{container}"),
            || every_line_has_the_trace(cluster, microservice, container, marks, &of_run),
        )
        .await;
    }
    Ok(())
}

/// Goes from parent to child through the spans. Attempts that found no server yet may be in the trace too: one whole way
/// is enough, and every other span must hang on a span of the trace.
fn follow_the_way(spans: &[Span]) -> Result<()> {
    let mut parents = vec![CALLER];
    for (process, direction) in WAY {
        let children: Vec<&str> = spans
            .iter()
            .filter(|span| span.attribute("service.name") == process && direction_of(span) == direction)
            .filter(|span| span.parent_id.as_deref().is_some_and(|id| parents.contains(&id)))
            .map(|span| span.span_id.as_str())
            .collect();
        ensure!(
            !children.is_empty(),
            "no span of {process} ({direction}) is a child of {parents:?} in {spans:#?}"
        );
        parents = children;
    }
    let known = |id: &str| id == CALLER || spans.iter().any(|span| span.span_id == id);
    let orphan = spans
        .iter()
        .find(|span| !span.parent_id.as_deref().is_some_and(known));
    ensure!(orphan.is_none(), "{orphan:#?} has no parent in its trace");
    Ok(())
}

fn direction_of(span: &Span) -> String {
    let of_proxy = span.attribute("trellis.direction");
    if of_proxy.is_empty() {
        format!("{:?}", span.kind).to_lowercase()
    } else {
        of_proxy.to_owned()
    }
}

/// The trace of the run that has this key: its id, which is written as a ULID, in hexadecimal digits.
fn trace_of_run(cluster: &Cluster, key: &str) -> Result<String> {
    const CROCKFORD: &str = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";
    let (_, listed) = cluster.trellis(["saga", "list", "-n", SHOP, "--limit", "100", "-o", "json"])?;
    let runs: Vec<Value> = serde_json::from_str(&listed)?;
    let run = runs
        .iter()
        .find(|run| run["key"] == key)
        .context("the order has no run")?;
    let digits = run["id"].as_str().unwrap_or_default().chars();
    let id = digits
        .filter_map(|digit| CROCKFORD.find(digit))
        .fold(0_u128, |id, digit| id << 5 | digit as u128);
    Ok(format!("{id:032x}"))
}

/// Whether a container has written of the order, by any of its marks, and never without the id of the trace, or of its run's.
async fn every_line_has_the_trace(
    cluster: &Cluster,
    microservice: &str,
    container: &str,
    marks: [&str; 3],
    of_run: &str,
) -> Result<()> {
    let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), SHOP);
    let selector = ListParams::default().labels(&format!("{}={microservice}", names::LABEL_MICROSERVICE));
    let parameters = LogParams {
        container: Some(container.to_owned()),
        ..LogParams::default()
    };
    let mut lines = 0;
    for pod in pods.list(&selector).await? {
        let log = pods.logs(&pod.name_any(), &parameters).await?;
        for line in log
            .lines()
            .filter(|line| marks.iter().any(|mark| line.contains(mark)))
        {
            let line: Value =
                serde_json::from_str(line).with_context(|| format!("failed to read the line {line}"))?;
            ensure!(line["trace_id"] == TRACE || line["trace_id"] == of_run, "{line}");
            lines += usize::from(line["trace_id"] == TRACE);
        }
    }
    ensure!(lines > 0, "no line has it");
    Ok(())
}

/// Sets the operator's flag, as a user does, and waits until every pod of the shop runs by it.
async fn export_traces_to(cluster: &Cluster, endpoint: Option<&str>) -> Result<()> {
    const VARIABLE: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
    let operator: Api<Deployment> = Api::namespaced(cluster.client.clone(), "trellis-system");
    let variable = match endpoint {
        Some(endpoint) => json!({"name": VARIABLE, "value": endpoint}),
        None => json!({"name": VARIABLE, "$patch": "delete"}),
    };
    let name = "trellis-operator";
    let container = operator
        .get(name)
        .await?
        .spec
        .unwrap()
        .template
        .spec
        .unwrap()
        .containers[0]
        .name
        .clone();
    let patch =
        json!({"spec": {"template": {"spec": {"containers": [{"name": container, "env": [variable]}]}}}});
    operator
        .patch(name, &PatchParams::default(), &Patch::Strategic(patch))
        .await?;
    until_rolled_out(&operator, name, |_| true).await;
    let shop: Api<Deployment> = Api::namespaced(cluster.client.clone(), SHOP);
    for name in ["gateway", "order", "user"] {
        until_rolled_out(&shop, name, |deployment| {
            let pod = deployment
                .spec
                .iter()
                .filter_map(|spec| spec.template.spec.as_ref());
            let found = pod
                .flat_map(|pod| pod.init_containers.iter().flatten().chain(&pod.containers))
                .flat_map(|container| container.env.iter().flatten())
                .find(|variable| variable.name == VARIABLE);
            found.and_then(|variable| variable.value.as_deref()) == endpoint
        })
        .await;
    }
    Ok(())
}

/// The address of this machine that pods can call.
async fn address_towards_pods(cluster: &Cluster) -> Result<IpAddr> {
    let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), SHOP);
    let pods = pods.list(&ListParams::default()).await?;
    let pod = pods.iter().find_map(|pod| pod.status.as_ref()?.pod_ip.clone());
    let pod: IpAddr = pod.context("no pod of the shop runs")?.parse()?;
    // Sends nothing: it only asks which way packets would go.
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect((pod, 9))?;
    Ok(socket.local_addr()?.ip())
}
