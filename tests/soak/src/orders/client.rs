//! A client that means it: it sends an order until somebody has acknowledged it, under the same id.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use e2e::{Cluster, http as requests};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::{
    client::legacy::{Client as Pooled, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::{Value, json};
use tokio::{
    task::JoinSet,
    time::{sleep, sleep_until, timeout},
};

use crate::{database, sample::Quantiles, shop::NAMESPACE};

/// Of what is ordered: enough for every good order, not for a short one.
const STOCK: u64 = 900_000;
/// More than there ever is.
const TOO_MANY: u64 = 1_000_000;
/// Longest wait for an answer.
const ANSWER: Duration = Duration::from_secs(10);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(200);
/// Longest time until an order is acknowledged.
const PATIENCE: Duration = Duration::from_secs(120);
const INVENTORY: &str = "inventory:8080";

/// What is ordered, and so what has to become of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sort {
    /// Some goods.
    Good,
    /// Money alone.
    Bare,
    /// By somebody without money.
    Declined,
    /// More than there is in stock.
    Short,
}

/// An order that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Order {
    pub(super) id: u64,
    pub(super) sort: Sort,
    /// Whether somebody said that it is taken.
    pub(super) is_acknowledged: bool,
}

/// What became of the requests.
#[derive(Debug, Default, serde::Serialize)]
pub(super) struct Sent {
    pub(super) orders: usize,
    pub(super) tries: usize,
    /// From the first try to the acknowledgement, in milliseconds.
    pub(super) acknowledged: Quantiles,
    pub(super) faults: Vec<String>,
}

/// Sends orders. Clones are the same client.
#[derive(Clone)]
pub(super) struct Client(Arc<Inner>);

struct Inner {
    gateway: String,
    pool: Pooled<HttpConnector, Full<Bytes>>,
    seed: u32,
    orders: Mutex<Vec<Order>>,
    is_stopped: AtomicBool,
}

impl Sort {
    const fn of(number: u64) -> Self {
        match number % 10 {
            0 => Self::Declined,
            1 => Self::Short,
            2 => Self::Bare,
            _ => Self::Good,
        }
    }

    /// Whether it ends well.
    pub(super) const fn is_placed(self) -> bool {
        matches!(self, Self::Good | Self::Bare)
    }
}

impl Order {
    /// In cents.
    pub(super) const fn amount(&self) -> u64 {
        self.id % 9_999 + 1
    }

    /// How many of the goods.
    pub(super) const fn quantity(&self) -> u64 {
        match self.sort {
            Sort::Good | Sort::Declined => self.id % 3 + 1,
            Sort::Short => TOO_MANY,
            Sort::Bare => 0,
        }
    }
}

impl Client {
    /// Makes the users, and fills the stock.
    pub(super) async fn open(cluster: &Cluster) -> Result<Self> {
        let seed = rand::random();
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(ANSWER));
        let client = Self(Arc::new(Inner {
            gateway: cluster.gateway.clone(),
            pool: Pooled::builder(TokioExecutor::new()).build(connector),
            seed,
            orders: Mutex::default(),
            is_stopped: AtomicBool::new(false),
        }));
        for username in [client.name(), client.name_of_declined()] {
            let users = format!("{}/user/users/", cluster.gateway);
            let answer = requests::post(&users, &json!({"username": username})).await?;
            ensure!(
                answer.status == StatusCode::CREATED,
                "no user could be made: {answer:?}"
            );
        }
        let item = format!("/items/{}", client.name());
        let stocked = json!({"on_hand": STOCK});
        requests::put_through_api_server(&cluster.client, NAMESPACE, INVENTORY, &item, &stocked).await?;
        Ok(client)
    }

    /// Of the user who has money, and of the goods.
    pub(super) fn name(&self) -> String {
        format!("orders-{:08x}", self.0.seed)
    }

    fn name_of_declined(&self) -> String {
        format!("declined-{:08x}", self.0.seed)
    }

    /// What there was on hand before.
    pub(super) const fn stock() -> u64 {
        STOCK
    }

    /// The first id, and the one behind the last.
    pub(super) fn ids(&self) -> std::ops::Range<u64> {
        let first = (u64::from(self.0.seed) << 20) + 1;
        first..first + self.lock().len() as u64
    }

    /// What was sent.
    pub(super) fn orders(&self) -> Vec<Order> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Order>> {
        // Nothing is left half-changed by a panic under this lock.
        self.0.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next(&self, sort: Option<Sort>) -> Order {
        let mut orders = self.lock();
        let number = orders.len() as u64;
        let order = Order {
            id: (u64::from(self.0.seed) << 20) + 1 + number,
            sort: sort.unwrap_or(Sort::of(number)),
            is_acknowledged: false,
        };
        orders.push(order);
        order
    }

    /// Sends so many orders a second until it is stopped, each until it is acknowledged.
    pub(super) async fn send(self, rate: u32) -> Result<Sent> {
        let began = tokio::time::Instant::now();
        let mut under_way = JoinSet::new();
        for n in 0.. {
            sleep_until(began + Duration::from_secs(n) / rate).await;
            if self.0.is_stopped.load(Ordering::Relaxed) {
                break;
            }
            let (client, order) = (self.clone(), self.next(None));
            under_way.spawn(async move { client.place(&order).await });
        }
        let (mut sent, mut times) = (Sent::default(), Vec::new());
        while let Some(placed) = under_way.join_next().await {
            sent.orders += 1;
            match placed.context("a caller panicked")? {
                Ok((took, tries)) => {
                    times.push(took);
                    sent.tries += tries;
                }
                Err(error) => sent.faults.push(format!("{error:#}")),
            }
        }
        sent.acknowledged = Quantiles::of(times);
        Ok(sent)
    }

    /// Sends no further orders.
    pub(super) fn stop(&self) {
        self.0.is_stopped.store(true, Ordering::Relaxed);
    }

    /// How long it takes until an order that is sent now is confirmed.
    pub(super) async fn until_confirmed(&self) -> Result<Duration> {
        let began = Instant::now();
        let order = self.next(Some(Sort::Bare));
        let (mut took, _) = self.place(&order).await?;
        loop {
            let path = format!("/order/orders/{}", order.id);
            if let Ok((StatusCode::OK, told)) = self.exchange(Method::GET, &path, None).await
                && matches!(told["status"].as_str(), Some("Confirmed" | "Completed"))
            {
                return Ok(took.max(began.elapsed()));
            }
            took = began.elapsed();
            ensure!(
                took < PATIENCE,
                "order {} is not confirmed after {took:?}",
                order.id
            );
            sleep(PAUSE / 4).await;
        }
    }

    /// Sends an order until it is acknowledged; how long that took, and how many tries.
    async fn place(&self, order: &Order) -> Result<(Duration, usize)> {
        let username = match order.sort {
            Sort::Declined => self.name_of_declined(),
            Sort::Good | Sort::Bare | Sort::Short => self.name(),
        };
        let lines = match order.quantity() {
            0 => json!([]),
            quantity => json!([{"sku": self.name(), "quantity": quantity}]),
        };
        let cents = order.amount();
        let amount = format!("{}.{:02}", cents / 100, cents % 100);
        let body = json!({"order_id": order.id, "username": username, "amount": amount, "lines": lines});
        let (began, mut tries) = (Instant::now(), 0);
        loop {
            tries += 1;
            let answer = self.exchange(Method::POST, "/order/orders/", Some(&body)).await;
            match &answer {
                Ok((StatusCode::ACCEPTED | StatusCode::OK, _)) => {
                    let first = self.ids().start;
                    self.lock()[usize::try_from(order.id - first)?].is_acknowledged = true;
                    return Ok((began.elapsed(), tries));
                }
                Ok((status, told))
                    if status.is_client_error() && *status != StatusCode::TOO_MANY_REQUESTS =>
                {
                    anyhow::bail!("order {} is refused: {status} {told}", order.id);
                }
                _ => {}
            }
            ensure!(
                began.elapsed() < PATIENCE,
                "order {} is not acknowledged after {PATIENCE:?}: {answer:?}",
                order.id
            );
            sleep(PAUSE).await;
        }
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<(StatusCode, Value)> {
        let text = body.map(Value::to_string).unwrap_or_default();
        let request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.0.gateway))
            .header("content-type", "application/json")
            .body(Full::from(text))?;
        let exchange = async {
            let (head, body) = self.0.pool.request(request).await?.into_parts();
            let body = body.collect().await?.to_bytes();
            Ok((head.status, serde_json::from_slice(&body).unwrap_or_default()))
        };
        timeout(ANSWER, exchange).await.context("no answer in time")?
    }

    /// Takes the rows of orders and users away. Money is never forgotten, nor what left the house.
    pub(super) async fn forget(&self, cluster: &Cluster) -> Result<()> {
        let of_them = format!("username IN ('{}', '{}')", self.name(), self.name_of_declined());
        for (name, table) in [("order", "orders"), ("user", "users")] {
            database::query(cluster, name, &format!("DELETE FROM {table} WHERE {of_them}")).await?;
        }
        Ok(())
    }
}
