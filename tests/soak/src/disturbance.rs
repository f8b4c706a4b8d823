//! What is done to the shop and to the operator while requests flow. Each ends when the world has settled.

use std::{ops::Range, time::Duration};

use anyhow::Result;
use nix::sys::signal::Signal;
use serde::Serialize;

use crate::{
    edits,
    load::Load,
    process::Process,
    sample::Quantiles,
    shop::{REPLICAS, Shop},
};

/// The service whose pods are disturbed: it calls another one and the database.
const SERVICE: &str = "order";
const GATEWAY: &str = "gateway";
/// Replicas that the service is scaled to.
const MANY: i32 = 4;
/// What the other disturbances are compared with.
const CALM: Duration = Duration::from_secs(5);
/// How long there is no operator.
const AWAY: Duration = Duration::from_secs(60);
/// A killed process can take requests with it that were on their way to it when it ended.
const ON_THE_WAY: Duration = Duration::from_millis(20);

/// One thing that is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum, strum::Display)]
#[serde(rename_all = "kebab-case")]
pub enum Disturbance {
    /// What the others are compared with.
    #[strum(to_string = "nothing")]
    Nothing,
    /// Another pod template of order.
    #[strum(to_string = "order rolls")]
    ServiceRolls,
    /// From 2 pods to 4.
    #[strum(to_string = "order scales 2 -> 4")]
    ServiceGrows,
    /// To 2 pods.
    #[strum(to_string = "order scales 4 -> 2")]
    ServiceShrinks,
    /// One of order's.
    #[strum(to_string = "a pod is deleted")]
    PodDeleted,
    /// SIGTERM to the sidecar of an order pod.
    #[strum(to_string = "a sidecar is restarted")]
    SidecarRestarted,
    /// Another pod template of the gateway.
    #[strum(to_string = "the gateway rolls")]
    GatewayRolls,
    /// Meanwhile a pod of order is replaced.
    #[strum(to_string = "no operator for 60 s, a pod is deleted")]
    OperatorAway,
    /// As `kubectl rollout restart` does it.
    #[strum(to_string = "the operator rolls")]
    OperatorRolls,
    /// Each a moment after the one before has arrived.
    #[strum(to_string = "100 edits of a route")]
    Edits,
    /// Likewise, of a policy that limits order.
    #[strum(to_string = "100 edits of a limit")]
    LimitEdits,
    /// SIGKILL to the sidecar of an order pod.
    #[strum(to_string = "a sidecar is killed (SIGKILL)")]
    SidecarKilled,
}

/// The whole contract; what costs requests that are in a process comes last.
pub(crate) const ALL: [Disturbance; 12] = [
    Disturbance::Nothing,
    Disturbance::ServiceRolls,
    Disturbance::ServiceGrows,
    Disturbance::ServiceShrinks,
    Disturbance::PodDeleted,
    Disturbance::SidecarRestarted,
    Disturbance::GatewayRolls,
    Disturbance::OperatorAway,
    Disturbance::OperatorRolls,
    Disturbance::Edits,
    Disturbance::LimitEdits,
    Disturbance::SidecarKilled,
];

/// What fits into a minute.
pub(crate) const SHORT: [Disturbance; 4] = [
    Disturbance::PodDeleted,
    Disturbance::ServiceRolls,
    Disturbance::ServiceGrows,
    Disturbance::ServiceShrinks,
];

/// What a disturbance has to tell besides its time.
#[derive(Default)]
pub(crate) struct Told {
    /// From an edit to the last pod that answers by it, in milliseconds.
    pub(crate) propagation: Option<Quantiles>,
    /// From the order to kill a process to its end. What was under way then may have been in it.
    pub(crate) killed: Option<Range<Duration>>,
}

impl Told {
    fn propagation(times: Vec<Duration>) -> Self {
        Self {
            propagation: Some(Quantiles::of(times)),
            ..Self::default()
        }
    }
}

impl Disturbance {
    /// Does it, and waits until the world has settled.
    pub(crate) async fn happen(self, shop: &Shop, load: &Load) -> Result<Told> {
        match self {
            Self::Nothing => tokio::time::sleep(CALM).await,
            Self::ServiceRolls => shop.roll(SERVICE).await?,
            Self::ServiceGrows => shop.scale(SERVICE, MANY).await?,
            Self::ServiceShrinks => shop.scale(SERVICE, REPLICAS).await?,
            Self::PodDeleted => {
                shop.delete_pod(SERVICE).await?;
                shop.settled(SERVICE).await?;
            }
            Self::SidecarRestarted => {
                let sidecar = Process::of_sidecar(&shop.serving_pod(SERVICE).await?)?;
                // As the kubelet would: the proxy says to its callers that it ends, and ends what it has begun.
                sidecar.signal(Signal::SIGTERM)?;
                sidecar.restarted(shop).await?;
                shop.settled(SERVICE).await?;
            }
            Self::GatewayRolls => shop.roll(GATEWAY).await?,
            Self::OperatorAway => without_operator(shop).await?,
            Self::OperatorRolls => shop.roll_operator().await?,
            Self::Edits => {
                let times = edits::of_a_route(shop, SERVICE, GATEWAY).await?;
                shop.settled(SERVICE).await?;
                return Ok(Told::propagation(times));
            }
            Self::LimitEdits => {
                let times = edits::of_a_limit(shop, SERVICE).await?;
                shop.settled(SERVICE).await?;
                return Ok(Told::propagation(times));
            }
            Self::SidecarKilled => return kill(shop, load).await,
        }
        Ok(Told::default())
    }
}

async fn without_operator(shop: &Shop) -> Result<()> {
    let replicas = shop.operator_replicas().await?;
    shop.scale_operator(0).await?;
    let back = tokio::time::Instant::now() + AWAY;
    // At once: nobody tells the proxies, and they have not noticed yet that nobody does.
    shop.delete_pod(SERVICE).await?;
    shop.pods_settled(SERVICE, REPLICAS).await?;
    tokio::time::sleep_until(back).await;
    shop.scale_operator(replicas).await?;
    shop.settled(SERVICE).await
}

/// Nothing can save a request that a process held when it was killed, or that may have been acted on. Everything else goes
/// elsewhere.
async fn kill(shop: &Shop, load: &Load) -> Result<Told> {
    let sidecar = Process::of_sidecar(&shop.serving_pod(SERVICE).await?)?;
    let from = load.now();
    sidecar.signal(Signal::SIGKILL)?;
    sidecar.gone().await?;
    let killed = from..load.now() + ON_THE_WAY;
    sidecar.restarted(shop).await?;
    shop.settled(SERVICE).await?;
    Ok(Told {
        killed: Some(killed),
        ..Told::default()
    })
}
