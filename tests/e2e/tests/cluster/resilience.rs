//! What stands around order's calls of user: user is broken in every way, and order stays on its feet.

use std::{
    collections::BTreeMap,
    sync::Mutex,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use e2e::{
    Cluster,
    cluster::own_shop,
    eventually,
    http::{self, Answer},
    restoring,
    wait::until_ready,
};
use futures::future::join_all;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, ResourceExt,
    api::{ListParams, PostParams},
};
use serde_json::{Value, json};
use trellis_api::{Microservice, microservice::Dependency, names};

const SHOP: &str = "shop";
const SOON: Duration = Duration::from_secs(30);
/// What an order's question after its user may take.
const TIMEOUT: Duration = Duration::from_secs(1);
/// Beside it an order is written, by a service in an unoptimised build on a machine that is busy.
const ORDER: Duration = Duration::from_secs(2);
/// Seconds for which a circuit breaker stays open that is to be tried.
const OPEN_FOR: u64 = 3;
/// How far back a budget looks for requests.
const BUDGET_WINDOW: Duration = Duration::from_secs(10);
/// Failures in a row that open it.
const FAILURES: u64 = 5;

/// The shop, with one pod of order, so that there is one circuit breaker to look at.
struct Shop {
    cluster: Cluster,
    microservices: Api<Microservice>,
    pods: Api<Pod>,
    username: String,
    /// When each order was sent, one question after its user each.
    orders: Mutex<Vec<Instant>>,
}

#[tokio::test]
async fn a_broken_user_service_does_not_drag_order_down() -> Result<()> {
    let _lock = own_shop().await?;
    let cluster = Cluster::connect().await?;
    let microservices: Api<Microservice> = Api::namespaced(cluster.client.clone(), SHOP);
    let before = [
        microservices.get("user").await?,
        microservices.get("order").await?,
    ];
    let restore = async {
        for microservice in &before {
            replace(&microservices, microservice).await?;
        }
        for microservice in &before {
            until_ready(&microservices, &microservice.name_any()).await;
        }
        anyhow::Ok(())
    };
    let body = async {
        let mut user = before[0].clone();
        let switch = json!({"name": "FAULT_INJECTION", "value": "true"});
        user.spec.env.push(serde_json::from_value(switch)?);
        replace(&microservices, &user).await?;
        let mut order = before[1].clone();
        order.spec.replicas = Some(1);
        depend(&mut order, &breaker("60s"))?;
        replace(&microservices, &order).await?;
        for name in ["user", "order"] {
            until_ready(&microservices, name).await;
        }
        let shop = Shop::open(&cluster).await?;
        for fault in ["refuse", "hang", "status 500", "slow 3000"] {
            shop.breaks(fault).await.with_context(|| fault.to_owned())?;
        }
        shop.spends_no_more_than_its_budget().await?;
        shop.falls_back().await
    };
    restoring(body, restore).await
}

impl Shop {
    async fn open(cluster: &Cluster) -> Result<Self> {
        let username = format!("user-{}", rand::random::<u32>());
        let made = http::post(
            &format!("{}/user/users/", cluster.gateway),
            &json!({"username": username}),
        )
        .await?;
        ensure!(made.status == 201, "{made:?}");
        Ok(Self {
            cluster: cluster.clone(),
            microservices: Api::namespaced(cluster.client.clone(), SHOP),
            pods: Api::namespaced(cluster.client.clone(), SHOP),
            username,
            orders: Mutex::default(),
        })
    }

    /// With a fault of user: order answers in time, opens its circuit breaker, probes once after the open time, and takes
    /// orders again when user is well.
    async fn breaks(&self, fault: &str) -> Result<()> {
        self.set(&breaker("60s")).await?;
        self.until_closed().await;
        self.inject(fault).await?;
        let before = self.tries().await?;
        for number in 1..=FAILURES {
            let (answer, took) = self.order().await?;
            ensure!(answer.status == 503, "{number}: {answer:?}");
            ensure!(took < TIMEOUT + ORDER, "{number}: {took:?}");
        }
        eventually(SOON, "the circuit breaker to open", || async {
            let state = self.breaker().await?;
            ensure!(state == "open", "{state}");
            Ok(())
        })
        .await;
        let after = self.tries().await?;
        // A connection that user refuses is refused to both its proxies: the request goes to the other one.
        if fault != "refuse" {
            ensure!(after - before == FAILURES, "{} tries", after - before);
        }
        let (answer, _) = self.order().await?;
        ensure!(answer.status == 503, "{answer:?}");
        let retry_after = answer.headers.contains_key("retry-after");
        ensure!(retry_after, "when may a client ask again? {answer:?}");
        ensure!(
            self.tries().await? == after,
            "a request passed an open circuit breaker"
        );

        // Half-open: of many requests one passes, and another each time that it has been open again for long enough.
        self.set(&breaker("3s")).await?;
        eventually(SOON, "the open time to end", || async {
            let state = self.breaker().await?;
            ensure!(state == "half_open", "{state}");
            Ok(())
        })
        .await;
        let half_open = Instant::now();
        for answer in join_all((0..10).map(|_| self.order())).await {
            ensure!(answer?.0.status == 503);
        }
        let probes = self.tries().await? - after;
        let most = 1 + half_open.elapsed().as_secs() / OPEN_FOR;
        ensure!(
            (1..=most).contains(&probes),
            "{probes} requests passed a half-open circuit breaker"
        );

        self.inject("none").await?;
        let healed = Instant::now();
        eventually(SOON, "orders to be taken again", || async {
            let (answer, _) = self.order().await?;
            ensure!(answer.status == 202, "{answer:?}");
            Ok(())
        })
        .await;
        println!(
            "{fault}: opened after {FAILURES}, {probes} probe, healed in {:.1?}",
            healed.elapsed()
        );
        Ok(())
    }

    /// Retries are no more than the budget's share of requests.
    async fn spends_no_more_than_its_budget(&self) -> Result<()> {
        const REQUESTS: u64 = 200;
        self.set(&json!({
            "retry": {
                "attempts": 3, "retryOn": ["ServerError"], "backoff": {"base": "1ms", "max": "1ms"},
                "budget": {"percent": 20, "minPerSecond": 0},
            },
            "circuitBreaker": {"enabled": false},
        }))
        .await?;
        self.inject("status 500").await?;
        let before = self.tries().await?;
        let began = Instant::now();
        for _ in 0..REQUESTS / 10 {
            for answer in join_all((0..10).map(|_| self.order())).await {
                ensure!(answer?.0.status == 503);
            }
        }
        let retries = self.tries().await? - before - REQUESTS;
        // What came before counts for as long as the budget looks back.
        let orders = self.orders.lock().unwrap().clone();
        let counting = orders
            .iter()
            .filter(|sent| **sent + BUDGET_WINDOW >= began)
            .count() as u64;
        ensure!(
            (1..=counting / 5).contains(&retries),
            "{retries} retries of {counting} requests"
        );
        println!("budget: {retries} retries of {counting} requests");
        self.inject("none").await
    }

    /// What callers get instead of an error, without a restart of anything.
    async fn falls_back(&self) -> Result<()> {
        let pods = self.names_of("order").await?;
        let user = json!({"username": self.username}).to_string();
        self.set(&json!({"timeout": "1s", "fallback": {"status": 200, "body": user}}))
            .await?;
        self.inject("status 503").await?;
        let (answer, _) = self.order().await?;
        ensure!(answer.status == 202, "{answer:?}");
        let metrics = self.metrics("order").await?;
        let fallbacks = value(&metrics, "fallbacks_total", &[("cluster", "shop/user/http")]);
        ensure!(fallbacks >= 1.0, "{metrics}");
        ensure!(
            self.names_of("order").await? == pods,
            "pods of order were replaced"
        );
        self.inject("none").await
    }

    /// Gives order's dependency another policy, and waits until its proxy runs by it.
    async fn set(&self, resilience: &Value) -> Result<()> {
        let mut order = self.microservices.get("order").await?;
        depend(&mut order, resilience)?;
        replace(&self.microservices, &order).await?;
        eventually(SOON, "order's proxy to have the policy", || async {
            let order = self.microservices.get("order").await?;
            let status = order.status.clone().unwrap_or_default();
            let programmed = status
                .conditions
                .iter()
                .find(|condition| condition.type_ == "Programmed");
            let current = programmed.is_some_and(|condition| {
                condition.status == "True" && condition.observed_generation == order.metadata.generation
            });
            ensure!(current, "{:?}", status.conditions);
            Ok(())
        })
        .await;
        Ok(())
    }

    async fn order(&self) -> Result<(Answer, Duration)> {
        let order = json!({"order_id": rand::random::<u32>(), "username": self.username, "amount": 1});
        let began = Instant::now();
        self.orders.lock().unwrap().push(began);
        let answer = http::post(&format!("{}/order/orders/", self.cluster.gateway), &order).await?;
        Ok((answer, began.elapsed()))
    }

    async fn until_closed(&self) {
        eventually(SOON, "the circuit breaker to be closed", || async {
            let state = self.breaker().await?;
            ensure!(state == "closed", "{state}");
            Ok(())
        })
        .await;
    }

    /// What the circuit breaker of order's dependency does, by its proxy's metric.
    async fn breaker(&self) -> Result<&'static str> {
        let metrics = self.metrics("order").await?;
        let state = value(
            &metrics,
            "circuit_breaker_state",
            &[("cluster", "shop/user/http")],
        );
        Ok(match state {
            0.0 => "closed",
            1.0 => "open",
            _ => "half_open",
        })
    }

    /// Requests that have reached user's proxies, answered or not.
    async fn tries(&self) -> Result<u64> {
        let metrics = self.metrics("user").await?;
        let inbound = [("direction", "inbound"), ("service", "shop/user")];
        let answered = value(&metrics, "request_total", &inbound);
        let under_way = value(&metrics, "active_connections", &inbound);
        Ok((answered + under_way) as u64)
    }

    async fn inject(&self, fault: &str) -> Result<()> {
        for pod in self.names_of("user").await? {
            let url = format!("/api/v1/namespaces/{SHOP}/pods/{pod}:9090/proxy/fault");
            let request = ::http::Request::put(url).body(fault.as_bytes().to_vec())?;
            self.cluster.client.request_text(request).await?;
        }
        Ok(())
    }

    /// The metrics of the proxies of a Microservice, one after the other.
    async fn metrics(&self, microservice: &str) -> Result<String> {
        let mut all = String::new();
        for pod in self.names_of(microservice).await? {
            let port = names::PORT_PROXY_HEALTH;
            let url = format!("/api/v1/namespaces/{SHOP}/pods/{pod}:{port}/proxy/metrics");
            let request = ::http::Request::get(url).body(Vec::new())?;
            all += &self.cluster.client.request_text(request).await?;
        }
        Ok(all)
    }

    async fn names_of(&self, microservice: &str) -> Result<Vec<String>> {
        let selector = format!("{}={microservice}", names::LABEL_MICROSERVICE);
        let pods = self.pods.list(&ListParams::default().labels(&selector)).await?;
        let live = pods
            .iter()
            .filter(|pod| pod.metadata.deletion_timestamp.is_none());
        Ok(live.map(ResourceExt::name_any).collect())
    }
}

/// A policy whose circuit breaker stays open for so long.
fn breaker(open_for: &str) -> Value {
    json!({
        "timeout": "1s",
        "retry": {"attempts": 1},
        "circuitBreaker": {"failures": FAILURES, "openFor": open_for},
    })
}

/// Gives order another policy for its calls of user, and leaves its other dependencies.
fn depend(order: &mut Microservice, resilience: &Value) -> Result<()> {
    let dependency: Dependency =
        serde_json::from_value(json!({"microservice": "user", "resilience": resilience}))?;
    let dependencies = &mut order.spec.depends_on;
    dependencies.retain(|other| other.microservice != dependency.microservice);
    dependencies.push(dependency);
    Ok(())
}

/// Makes the spec what it is in `wanted`.
async fn replace(microservices: &Api<Microservice>, wanted: &Microservice) -> Result<()> {
    eventually(SOON, "the spec to be taken", || async {
        let mut live = microservices.get(&wanted.name_any()).await?;
        live.spec = wanted.spec.clone();
        microservices
            .replace(&wanted.name_any(), &PostParams::default(), &live)
            .await?;
        Ok(())
    })
    .await;
    Ok(())
}

/// The sum of a metric over all members with these labels.
fn value(metrics: &str, name: &str, labels: &[(&str, &str)]) -> f64 {
    let members = metrics.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?.strip_prefix('{')?;
        let (given, value) = rest.split_once("} ")?;
        let given: BTreeMap<&str, &str> = given
            .split(',')
            .filter_map(|pair| pair.split_once('='))
            .map(|(label, value)| (label, value.trim_matches('"')))
            .collect();
        let all = labels
            .iter()
            .all(|(label, value)| given.get(label) == Some(value));
        value.parse::<f64>().ok().filter(|_| all)
    });
    members.sum()
}
