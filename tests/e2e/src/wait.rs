//! Conditions with a deadline: the only way in which a test waits.

use std::{
    fmt::Debug,
    time::{Duration, Instant},
};

use anyhow::Result;
use k8s_openapi::api::apps::v1::Deployment;
use kube::{Api, ResourceExt};
use trellis_api::{
    Microservice,
    condition::{ConditionType, Reason, status},
};

const PAUSE: Duration = Duration::from_millis(150);

/// Asks again until the answer is `Ok`.
///
/// # Panics
/// After the deadline, with what was waited for and the last answer.
pub async fn eventually<T, F>(deadline: Duration, what: &str, mut ask: impl FnMut() -> F) -> T
where
    F: Future<Output = Result<T>>,
{
    let start = Instant::now();
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(error) if start.elapsed() > deadline => {
                panic!("waited {deadline:?} for {what}; at the end: {error:#}");
            }
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

/// Waits until a Microservice's `Ready` condition is about its current spec and satisfies the test.
///
/// # Panics
/// After the deadline, with the last status.
pub async fn until(
    api: &Api<Microservice>,
    name: &str,
    deadline: Duration,
    what: &str,
    test: impl Fn(&Microservice, &Ready) -> bool,
) -> Microservice {
    eventually(deadline, &format!("{name} to be {what}"), || async {
        let found = api.get(name).await?;
        let ready = Ready::of(&found);
        anyhow::ensure!(
            ready.observed_generation == found.metadata.generation && test(&found, &ready),
            "its status is {:#?}",
            found.status
        );
        Ok(found)
    })
    .await
}

/// Waits until a Microservice is ready for its current spec.
///
/// # Panics
/// After the deadline, with the last status.
pub async fn until_ready(api: &Api<Microservice>, name: &str) -> Microservice {
    until(api, name, Duration::from_secs(90), "ready", |_, ready| {
        ready.status == status::TRUE
    })
    .await
}

/// Waits until a Microservice is not ready for a reason.
///
/// # Panics
/// After the deadline, with the last status.
pub async fn until_failing(
    api: &Api<Microservice>,
    name: &str,
    deadline: Duration,
    reason: Reason,
) -> Microservice {
    until(api, name, deadline, reason.as_ref(), |_, ready| {
        ready.status == status::FALSE && ready.reason == reason.as_ref()
    })
    .await
}

/// Waits until a Deployment satisfies the test and all its pods are of its current template and available.
///
/// # Panics
/// After the deadline, with the last status.
pub async fn until_rolled_out(api: &Api<Deployment>, name: &str, test: impl Fn(&Deployment) -> bool) {
    let what = format!("Deployment {name} to be rolled out");
    eventually(Duration::from_secs(120), &what, || async {
        let found = api.get(name).await?;
        let wanted = found.spec.as_ref().and_then(|spec| spec.replicas);
        let status = found.status.clone().unwrap_or_default();
        anyhow::ensure!(
            test(&found)
                && status.observed_generation == found.metadata.generation
                && status.replicas == wanted
                && status.updated_replicas == wanted
                && status.available_replicas == wanted,
            "it is {status:?}"
        );
        Ok(())
    })
    .await;
}

/// The `Ready` condition, taken apart.
#[derive(Debug, Clone, Default)]
pub struct Ready {
    /// `True`, `False` or `Unknown`; empty if there is no such condition.
    pub status: String,
    /// Its reason.
    pub reason: String,
    /// Its message.
    pub message: String,
    /// Generation that it is about.
    pub observed_generation: Option<i64>,
}

impl Ready {
    /// The condition of a Microservice.
    #[must_use]
    pub fn of(microservice: &Microservice) -> Self {
        microservice
            .status
            .as_ref()
            .and_then(|status| {
                status
                    .conditions
                    .iter()
                    .find(|c| c.type_ == ConditionType::Ready.as_ref())
            })
            .map(|condition| Self {
                status: condition.status.clone(),
                reason: condition.reason.clone(),
                message: condition.message.clone(),
                observed_generation: condition.observed_generation,
            })
            .unwrap_or_default()
    }
}

/// Waits until an object is gone.
///
/// # Panics
/// After the deadline.
pub async fn until_gone<K>(api: &Api<K>, name: &str)
where
    K: kube::Resource + Clone + Debug + serde::de::DeserializeOwned,
{
    eventually(Duration::from_secs(60), &format!("{name} to be gone"), || async {
        match api.get_opt(name).await? {
            None => Ok(()),
            Some(found) => anyhow::bail!("{} is still there", found.name_any()),
        }
    })
    .await;
}
