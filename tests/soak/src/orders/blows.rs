//! What is done to whoever has to do with orders.

use std::{
    collections::VecDeque,
    fmt,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use e2e::Cluster;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, ResourceExt as _,
    api::{ListParams, LogParams, Patch, PatchParams},
};
use nix::sys::signal::Signal;
use rand::seq::IndexedRandom as _;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::{task::JoinSet, time::sleep};
use trellis_api::{
    Microservice, Saga,
    condition::{SagaConditionType, status},
    names::CONTAINER_APP,
};

use super::client::Client;
use crate::{database, process::Process, shop::NAMESPACE, wait::until};

const SYSTEM: &str = "trellis-system";
const ENGINE: &str = "trellis-saga";
const SAGA: &str = "place-order";
/// Between two blows, in milliseconds.
const PAUSE_MS: std::ops::RangeInclusive<u64> = 3_000..=8_000;
/// How long an owner of runs is stopped: longer than its lease of 5 s, shorter than its liveness probe's patience.
const STOPPED: Duration = Duration::from_secs(9);
/// How long records of the owner gather on their way before.
const ON_THE_WAY: Duration = Duration::from_millis(300);
/// What the engine says of records that the store refused because their partitions have another owner.
const REFUSED: &str = "another replica has claimed partitions";

/// Who is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Victim {
    Engine,
    Order,
    Inventory,
    Payment,
    PostgreSql,
}

/// The engine twice: it has two replicas.
const VICTIMS: [Victim; 6] = [
    Victim::Engine,
    Victim::Engine,
    Victim::Order,
    Victim::Inventory,
    Victim::Payment,
    Victim::PostgreSql,
];

/// What is done once.
#[derive(Clone, Copy)]
enum Once {
    /// Another revision of the saga.
    Revise,
    /// SIGSTOP of an engine past its lease.
    Stop,
    /// Another pod template of the engine.
    Roll,
}

/// A process that was killed.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Kill {
    pub(super) victim: Victim,
    /// From then until an order that was sent then was confirmed.
    pub(super) recovered_ms: f64,
}

/// What was done.
#[derive(Debug, Default, Serialize)]
pub(super) struct Dealt {
    pub(super) kills: Vec<Kill>,
    /// Owners that were stopped past their lease, and of these those whose late records were refused by the store.
    pub(super) stopped: usize,
    pub(super) refused: usize,
    /// The revisions before and after the change.
    pub(super) revisions: Vec<String>,
    /// How long the roll of the engine took, in milliseconds.
    pub(super) rolled_ms: f64,
    pub(super) faults: Vec<String>,
}

/// Deals blows.
pub(super) struct Blows {
    pods: Api<Pod>,
    system_pods: Api<Pod>,
    engine: Api<Microservice>,
    sagas: Api<Saga>,
    before: Saga,
}

impl Victim {
    fn container(self) -> &'static str {
        match self {
            Self::PostgreSql => "postgres",
            _ => CONTAINER_APP,
        }
    }
}

impl fmt::Display for Victim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Engine => "trellis-saga",
            Self::Order => "order",
            Self::Inventory => "inventory",
            Self::Payment => "payment",
            Self::PostgreSql => "PostgreSQL",
        })
    }
}

impl Blows {
    /// Notes how the saga is.
    pub(super) async fn new(cluster: &Cluster) -> Result<Self> {
        let client = || cluster.client.clone();
        let sagas: Api<Saga> = Api::namespaced(client(), NAMESPACE);
        let before = sagas.get(SAGA).await;
        Ok(Self {
            pods: Api::namespaced(client(), NAMESPACE),
            system_pods: Api::namespaced(client(), SYSTEM),
            engine: Api::namespaced(client(), SYSTEM),
            sagas,
            before: before.with_context(|| format!("no saga {SAGA}; run `cargo xtask up` first"))?,
        })
    }

    /// Makes the saga as it was.
    pub(super) async fn put_back(&self) -> Result<()> {
        let timeout = serde_json::to_value(self.before.spec.timeout)?;
        self.change(&timeout).await.map(drop)
    }

    /// Deals blows for so long, and then stops the client: a kill every few seconds, and the others once, each after a part of the time or when there is time for it.
    pub(super) async fn deal(&self, cluster: &Cluster, client: &Client, time: Duration) -> Result<Dealt> {
        let began = Instant::now();
        let mut dealt = Dealt::default();
        let mut recoveries = JoinSet::new();
        let mut once = VecDeque::from([
            (Once::Revise, time / 6),
            (Once::Stop, time / 2),
            (Once::Roll, time / 6 * 5),
        ]);
        while began.elapsed() < time || !once.is_empty() {
            let pause = rand::random_range(PAUSE_MS);
            sleep(Duration::from_millis(pause)).await;
            let due = once.pop_front_if(|(_, at)| began.elapsed() >= *at);
            let outcome = match due.map(|(once, _)| once) {
                Some(Once::Revise) => self.revise(&mut dealt).await,
                Some(Once::Stop) => self.stop(cluster, &mut dealt).await,
                Some(Once::Roll) => self.roll(&mut dealt).await,
                None => {
                    let victim = *VICTIMS.choose(&mut rand::rng()).unwrap_or(&Victim::Engine);
                    self.kill(victim, client, &mut recoveries).await
                }
            };
            if let Err(error) = outcome {
                dealt.faults.push(format!("{error:#}"));
            }
        }
        client.stop();
        while let Some(recovered) = recoveries.join_next().await {
            match recovered? {
                Ok(kill) => dealt.kills.push(kill),
                Err(error) => dealt.faults.push(format!("{error:#}")),
            }
        }
        Ok(dealt)
    }

    async fn kill(
        &self,
        victim: Victim,
        client: &Client,
        recoveries: &mut JoinSet<Result<Kill>>,
    ) -> Result<()> {
        let (pod, _) = self.serving(victim).await?;
        Process::of(&pod, victim.container())?.signal(Signal::SIGKILL)?;
        eprintln!("    killed {victim} of {}", pod.name_any());
        let client = client.clone();
        recoveries.spawn(async move {
            let recovered = client.until_confirmed().await;
            let recovered = recovered.with_context(|| format!("after {victim} was killed"))?;
            Ok(Kill {
                victim,
                recovered_ms: recovered.as_secs_f64() * 1e3,
            })
        });
        Ok(())
    }

    /// A pod of a victim whose container runs.
    async fn serving(&self, victim: Victim) -> Result<(Pod, Api<Pod>)> {
        let (pods, label) = match victim {
            Victim::Engine => (&self.system_pods, format!("trellis.dev/microservice={ENGINE}")),
            Victim::PostgreSql => (&self.pods, "app.kubernetes.io/name=postgres".to_owned()),
            other => (&self.pods, format!("trellis.dev/microservice={other}")),
        };
        let found = until(&format!("a container of {victim} to run"), || async {
            let found = pods.list(&ListParams::default().labels(&label)).await?.items;
            let runs = |pod: &&Pod| {
                let statuses = pod
                    .status
                    .iter()
                    .flat_map(|status| status.container_statuses.iter().flatten());
                statuses
                    .filter(|status| status.name == victim.container())
                    .any(|status| {
                        status.ready && status.state.as_ref().is_some_and(|state| state.running.is_some())
                    })
            };
            let running: Vec<&Pod> = found.iter().filter(runs).collect();
            running
                .choose(&mut rand::rng())
                .map(|pod| (*pod).clone())
                .context("none runs")
        })
        .await?;
        Ok((found, pods.clone()))
    }

    /// An owner of runs does nothing for longer than its lease, and then goes on where it was, with records on their way to the store. So
    /// that some are, its sessions of the database are stopped a moment before.
    async fn stop(&self, cluster: &Cluster, dealt: &mut Dealt) -> Result<()> {
        let (pod, pods) = self.serving(Victim::Engine).await?;
        let (server, _) = self.serving(Victim::PostgreSql).await?;
        let engine = Process::of(&pod, CONTAINER_APP)?;
        let address = pod.status.as_ref().and_then(|status| status.pod_ip.as_deref());
        let sessions = format!(
            "SELECT pid FROM pg_stat_activity WHERE client_addr = '{}'",
            address.context("an engine without an address")?
        );
        let sessions = database::query(cluster, "trellis-saga", &sessions).await?;
        let sessions: Vec<i32> = sessions.lines().filter_map(|line| line.parse().ok()).collect();
        let sessions = Process::inside(&server, Victim::PostgreSql.container(), &sessions)?;
        ensure!(!sessions.is_empty(), "{} has no session", pod.name_any());
        let log = LogParams {
            container: Some(CONTAINER_APP.to_owned()),
            ..LogParams::default()
        };
        let refusals = async || -> Result<usize> {
            let log = pods.logs(&pod.name_any(), &log).await?;
            Ok(log.matches(REFUSED).count())
        };
        let before = refusals().await?;
        let signal = |signal| sessions.iter().try_for_each(|session| session.signal(signal));
        signal(Signal::SIGSTOP)?;
        sleep(ON_THE_WAY).await;
        let stopped = engine.signal(Signal::SIGSTOP);
        eprintln!("    stopped {} for {STOPPED:?}", pod.name_any());
        sleep(STOPPED).await;
        signal(Signal::SIGCONT)?;
        engine.signal(Signal::SIGCONT)?;
        stopped?;
        dealt.stopped += 1;
        until("the store to refuse what an owner wrote too late", || async {
            ensure!(refusals().await? > before, "it refused nothing");
            Ok(())
        })
        .await?;
        dealt.refused += 1;
        Ok(())
    }

    /// Another revision, while runs of the one before are in flight.
    async fn revise(&self, dealt: &mut Dealt) -> Result<()> {
        let before = self
            .sagas
            .get(SAGA)
            .await?
            .status
            .and_then(|status| status.revision);
        let after = self.change(&json!("3m")).await?;
        eprintln!(
            "    revision {} after {}",
            after,
            before.as_deref().unwrap_or("none")
        );
        dealt.revisions.extend(before);
        dealt.revisions.push(after);
        Ok(())
    }

    /// Changes the saga's timeout; returns the revision, when runs are started of it.
    async fn change(&self, timeout: &Value) -> Result<String> {
        let patch = Patch::Merge(json!({"spec": {"timeout": timeout}}));
        self.sagas.patch(SAGA, &PatchParams::default(), &patch).await?;
        until("the saga to be programmed", || async {
            let saga = self.sagas.get(SAGA).await?;
            let found = saga.status.context("no status")?;
            ensure!(
                found.observed_generation == saga.metadata.generation,
                "not looked at yet"
            );
            let programmed = SagaConditionType::Programmed.as_ref();
            let condition = found
                .conditions
                .iter()
                .find(|condition| condition.type_ == programmed);
            let condition = condition.context("no condition")?;
            ensure!(condition.status == status::TRUE, "{}", condition.message);
            found.revision.context("no revision")
        })
        .await
    }

    /// As a new version of the engine does.
    async fn roll(&self, dealt: &mut Dealt) -> Result<()> {
        let began = Instant::now();
        let stamp = jiff::Timestamp::now().to_string();
        let patch = json!({"spec": {"podMetadata": {"annotations": {"trellis-soak/roll": stamp}}}});
        let patched = self
            .engine
            .patch(ENGINE, &PatchParams::default(), &Patch::Merge(patch))
            .await?;
        eprintln!("    the engine rolls");
        until("the engine to have rolled", || async {
            let of_it = ListParams::default().labels(&format!("trellis.dev/microservice={ENGINE}"));
            let pods = self.system_pods.list(&of_it).await?.items;
            let replicas = usize::try_from(patched.spec.replicas.unwrap_or(1))?;
            let is_new = |pod: &&Pod| {
                pod.annotations().get("trellis-soak/roll") == Some(&stamp)
                    && pod.metadata.deletion_timestamp.is_none()
            };
            let is_ready = |pod: &Pod| {
                let conditions = pod
                    .status
                    .iter()
                    .flat_map(|status| status.conditions.iter().flatten());
                conditions
                    .into_iter()
                    .any(|condition| condition.type_ == "Ready" && condition.status == "True")
            };
            let ready = pods.iter().filter(is_new).filter(|pod| is_ready(pod)).count();
            ensure!(
                ready == replicas && pods.len() == replicas,
                "{ready} of {} pods",
                pods.len()
            );
            Ok(())
        })
        .await?;
        dealt.rolled_ms = began.elapsed().as_secs_f64() * 1e3;
        Ok(())
    }
}
