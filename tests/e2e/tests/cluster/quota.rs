//! One limit over all pods of a service, judged by the app's own log of what it let pass.
//!
//! A sidecar decides between the time when a request is sent and the time when it comes to the app. On a busy machine that may be
//! long, and the app sees requests of one window together with those of the next. So what counts against a window is what was
//! both sent and received in it: that was decided in it for sure.
//!
//! `TRELLIS_QUOTA_WINDOW=60` runs it with a window of 60 s instead of 6: a quarter of an hour, `cargo xtask soak quota`.

use std::{
    env,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, ensure};
use e2e::{Cluster, eventually, image, wait::until_ready, with_namespace};
use http::{Request, StatusCode};
use k8s_openapi::api::{coordination::v1::Lease, core::v1::Pod};
use kube::{
    Api, Client, Config, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
    client::Body,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde::Deserialize;
use serde_json::json;
use tokio::{task::JoinSet, time};
use trellis_api::{
    Microservice, RateLimitPolicy,
    condition::{PolicyConditionType, status},
};

const SOON: Duration = Duration::from_secs(60);
const NAME: &str = "shared";
const SYSTEM: &str = "trellis-system";
const QUOTA: &str = "trellis-quota";
const LIMIT: u64 = 100;
const RAISED: u64 = 150;
/// Requests to each of the three pods in a window: one has by far the most to do, one next to nothing.
const LOAD: [u64; 3] = [300, 15, 5];

/// A request that came to the app, in nanoseconds since 1970: sent by this process's clock, come by the node's, which on a local node is
/// the same.
#[derive(Clone, Copy, Debug, Deserialize)]
struct Pass {
    sent: u64,
    came: u64,
}

/// What callers were answered.
#[derive(Default)]
struct Answers {
    passed: AtomicU64,
    refused: AtomicU64,
    other: AtomicU64,
}

#[tokio::test(flavor = "multi_thread")]
async fn no_window_sees_more_than_the_limit_over_all_pods_and_nearly_all_of_it_is_usable() {
    // It ends the quota authority: no other test has limits over all pods.
    with_namespace(|cluster, ns| async move {
        let window = window()?;
        let pods = service(&cluster, &ns).await?;
        let policies: Api<RateLimitPolicy> = Api::namespaced(cluster.client.clone(), &ns);
        let policy = json!({
            "apiVersion": "trellis.dev/v1alpha1", "kind": "RateLimitPolicy", "metadata": {"name": NAME},
            "spec": {
                "targetRefs": [{"group": "trellis.dev", "kind": "Microservice", "name": NAME}],
                "limits": {"all": {"rates": [{"limit": LIMIT, "window": format!("{}s", window.as_secs())}]}},
            },
        });
        policies
            .create(&PostParams::default(), &serde_json::from_value(policy)?)
            .await?;
        until_programmed(&policies).await;

        let answers = Arc::new(Answers::default());
        let began = time::Instant::now();
        let mut load = start_load(&cluster, &ns, &pods, window, &answers).await?;
        let mut clock = time::interval(window / 2);
        let mut halves = async |count: u32| {
            for _ in 0..count {
                clock.tick().await;
            }
        };
        // The first tick is at once; shares find their sizes within a window.
        halves(4).await;
        let steady = now();
        halves(6).await;
        let killed = now();
        kill_quota(&cluster).await?;
        halves(6).await;
        let raised = now();
        let edit = json!({"spec": {"limits": {"all": {"rates": [{"limit": RAISED, "window": format!("{}s", window.as_secs())}]}}}});
        policies.patch(NAME, &PatchParams::default(), &Patch::Merge(edit)).await?;
        halves(3).await;
        let settled = now();
        halves(6).await;
        let end = now();
        load.shutdown().await;

        let passes = passes(&cluster, &ns, &pods).await?;
        let usable = |from: u64, to: u64, limit: u64| {
            100.0 * mean_rate(&passes, from..to, window) / (limit as f64 / window.as_secs_f64())
        };
        let before: Vec<Pass> = passes.iter().copied().filter(|pass| pass.came < raised).collect();
        let (seen, seen_raised) = (most(&before, window, came), most(&passes, window, came));
        let (most, most_raised) = (most(&before, window, sent), most(&passes, window, sent));
        println!(
            "window {window:?}: most in a window {most} of {LIMIT}, {most_raised} of {RAISED} after the edit ({seen} and {seen_raised} came in one); usable {:.1} %, {:.1} % with the authority killed, {:.1} % of the raised limit; {} passed, {} refused",
            usable(steady, killed, LIMIT),
            usable(killed, raised, LIMIT),
            usable(settled, end, RAISED),
            answers.passed.load(Ordering::Relaxed),
            answers.refused.load(Ordering::Relaxed),
        );
        ensure!(answers.other.load(Ordering::Relaxed) == 0, "requests failed");
        ensure!(most <= LIMIT as usize, "{most} passed within {window:?}");
        ensure!(most_raised <= RAISED as usize, "{most_raised} passed within {window:?}");
        let sent = answers.passed.load(Ordering::Relaxed) + answers.refused.load(Ordering::Relaxed);
        let planned = LOAD.iter().sum::<u64>() as f64 * began.elapsed().as_secs_f64() / window.as_secs_f64();
        if (sent as f64) < 0.9 * planned {
            println!("{sent} of {planned:.0} requests could be sent: how much is usable is not judged");
            return Ok(());
        }
        for (from, to, limit) in [(steady, killed, LIMIT), (killed, raised, LIMIT), (settled, end, RAISED)] {
            let usable = usable(from, to, limit);
            ensure!(usable >= least_usable(window), "{usable:.1} % of {limit} were usable");
        }
        Ok(())
    })
    .await;
}

/// Percent of the limit. In a short window what it takes for parts to change hands weighs more, a tenth for 600 ms in which a busy
/// machine does something else: there it is looked at whether parts move at all. With parts that did not, it was half.
fn least_usable(window: Duration) -> f64 {
    if window < Duration::from_secs(60) {
        75.0
    } else {
        95.0
    }
}

fn window() -> Result<Duration> {
    let seconds = env::var("TRELLIS_QUOTA_WINDOW").unwrap_or_else(|_| "6".to_owned());
    let seconds = seconds
        .parse()
        .context("failed to read TRELLIS_QUOTA_WINDOW; give seconds")?;
    Ok(Duration::from_secs(seconds))
}

/// Three pods of the echo server; their names.
async fn service(cluster: &Cluster, ns: &str) -> Result<Vec<String>> {
    let microservices: Api<Microservice> = Api::namespaced(cluster.client.clone(), ns);
    let service = json!({
        "apiVersion": "trellis.dev/v1alpha1", "kind": "Microservice", "metadata": {"name": NAME},
        "spec": {
            "image": image::echo().await?, "replicas": LOAD.len(),
            "ports": [{"name": "http", "port": 8080}],
        },
    });
    microservices
        .create(&PostParams::default(), &serde_json::from_value(service)?)
        .await?;
    until_ready(&microservices, NAME).await;
    let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), ns);
    let pods = pods.list(&ListParams::default()).await?;
    Ok(pods.iter().map(ResourceExt::name_any).collect())
}

async fn until_programmed(policies: &Api<RateLimitPolicy>) {
    eventually(SOON, "the policy to be programmed", || async {
        let policy = policies.get(NAME).await?;
        let conditions = policy.status.iter().flat_map(|status| &status.conditions);
        let type_ = PolicyConditionType::Programmed;
        let programmed = conditions
            .into_iter()
            .find(|condition| condition.type_ == type_.as_ref())
            .context("no status yet")?;
        ensure!(programmed.status == status::TRUE, "{programmed:?}");
        Ok(())
    })
    .await;
}

/// Calls each pod, through its sidecar, at its own rate, until the set is dropped.
async fn start_load(
    cluster: &Cluster,
    ns: &str,
    pods: &[String],
    window: Duration,
    answers: &Arc<Answers>,
) -> Result<JoinSet<()>> {
    let caller = caller(cluster).await?;
    let mut load = JoinSet::new();
    for (pod, requests) in pods.iter().zip(LOAD) {
        let url = format!("/api/v1/namespaces/{ns}/pods/{pod}:15100/proxy/pass");
        let (caller, answers) = (caller.clone(), Arc::clone(answers));
        let mut pace = time::interval(window / u32::try_from(requests)?);
        load.spawn(async move {
            let mut requests = JoinSet::new();
            loop {
                pace.tick().await;
                let (caller, answers, url) = (caller.clone(), Arc::clone(&answers), url.clone());
                requests.spawn(async move {
                    let answered = ask(&caller, &url).await;
                    let counter = match &answered {
                        Ok(status) if *status == StatusCode::OK => &answers.passed,
                        Ok(status) if *status == StatusCode::TOO_MANY_REQUESTS => &answers.refused,
                        _ => {
                            println!("{answered:?}");
                            &answers.other
                        }
                    };
                    counter.fetch_add(1, Ordering::Relaxed);
                });
                while requests.try_join_next().is_some() {}
            }
        });
    }
    Ok(load)
}

async fn ask(caller: &Client, url: &str) -> Result<StatusCode> {
    let url = format!("{url}?sent={}", now());
    let answer = caller.send(Request::get(url).body(Body::empty())?).await?;
    Ok(answer.status())
}

/// A client that takes 429 for an answer, and does not wait and ask again.
async fn caller(cluster: &Cluster) -> Result<Client> {
    let kubeconfig = Kubeconfig::read_from(&cluster.kubeconfig)?;
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    config.default_retry = false;
    Ok(Client::try_from(config)?)
}

/// Ends the process that grants, with no time to say so.
async fn kill_quota(cluster: &Cluster) -> Result<()> {
    let leases: Api<Lease> = Api::namespaced(cluster.client.clone(), SYSTEM);
    let holder = leases
        .get(QUOTA)
        .await?
        .spec
        .and_then(|spec| spec.holder_identity);
    let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), SYSTEM);
    let parameters = DeleteParams::default().grace_period(0);
    pods.delete(&holder.context("nobody grants")?, &parameters)
        .await?;
    Ok(())
}

/// The requests that came to the app, in the order in which they did.
async fn passes(cluster: &Cluster, ns: &str, pods: &[String]) -> Result<Vec<Pass>> {
    let mut all = Vec::new();
    for pod in pods {
        let url = format!("/api/v1/namespaces/{ns}/pods/{pod}:8080/proxy/passes");
        let text = cluster
            .client
            .request_text(Request::get(url).body(Vec::new())?)
            .await?;
        let passes: Option<Vec<Pass>> = serde_json::from_str(&text)?;
        all.extend(passes.unwrap_or_default());
    }
    all.sort_unstable_by_key(came);
    Ok(all)
}

const fn sent(pass: &Pass) -> u64 {
    pass.sent
}

const fn came(pass: &Pass) -> u64 {
    pass.came
}

/// The most in any window that began before them and ended after they came. It is enough to look at windows that begin with one.
fn most(passes: &[Pass], window: Duration, begin: impl Fn(&Pass) -> u64) -> usize {
    let window = window.as_nanos() as u64;
    let within = |from: u64| {
        let inside = |pass: &&Pass| begin(pass) >= from && pass.came < from + window;
        passes.iter().filter(inside).count()
    };
    passes.iter().map(|pass| within(begin(pass))).max().unwrap_or(0)
}

/// Passes per second, on average over all stretches that are as long as it takes until all that passes at once may pass again: by
/// bursts of the busy pod, a stretch of another length would have more or fewer, as it falls.
fn mean_rate(passes: &[Pass], time: Range<u64>, window: Duration) -> f64 {
    // What passes in a 64th of a window counts until it is a whole window ago; windows are longer by what clocks may be off.
    let stretch = window.mul_f64(1.0025 * 65.0 / 64.0);
    let length = u64::try_from(stretch.as_nanos()).unwrap();
    let within = |from: u64| {
        passes.partition_point(|pass| pass.came < from + length)
            - passes.partition_point(|pass| pass.came < from)
    };
    let starts = (time.start..time.end - length).step_by(10_000_000);
    let counts: Vec<usize> = starts.map(within).collect();
    counts.iter().sum::<usize>() as f64 / counts.len() as f64 / stretch.as_secs_f64()
}

fn now() -> u64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    u64::try_from(since_1970.as_nanos()).unwrap()
}
