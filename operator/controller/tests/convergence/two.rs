//! Two operators that both believe to lead, as after a Lease that was lost without notice: they come to the end that one comes
//! to, and then they rest.
//!
//! Each has a Lease of its own, in a namespace of its own, so each is in the right by what it knows.

use std::time::Duration;

use kube::Client;
use trellis_testkit::control_plane::User;

use crate::{
    end_state::EndState,
    operator::{Launch, Operator},
    rest::no_writes,
    scenario::Scenario,
    settled::settled,
    stage::Stage,
};

/// Where the second one has its Lease.
const OTHER_LEASE: &str = "trellis-other";
/// Times that every scenario runs: who writes first is left to chance.
const ROUNDS: usize = 2;
/// How long two that fight would need at most to write again.
const PEACE: Duration = Duration::from_secs(5);
/// One that has not seen yet what the other has made gives its document a version of its own.
const MORE_PATCHES: u32 = 2;
/// Each may write a status that the other has overtaken.
const MORE_STATUSES: u32 = 4;

#[tokio::test(flavor = "multi_thread")]
async fn two_operators_that_both_believe_to_lead_come_to_the_same_end_and_rest() {
    let mut stage = Stage::enter().await;
    let client = stage.client(User::Test).await;
    let rival = stage.client(User::Rival).await;
    let mut first = Operator::start(&stage.cluster, &Launch::default()).await;
    let (alone, _) = ends(&mut stage, &client, &rival, &mut [&mut first]).await;

    let role = "../../manifests/base/operator/role.yaml";
    let cluster = &stage.cluster;
    cluster.kubectl(&["create", "namespace", OTHER_LEASE]).unwrap();
    cluster
        .kubectl(&["create", "--namespace", OTHER_LEASE, "--filename", role])
        .unwrap();
    let launch = Launch {
        identity: "other",
        lease: OTHER_LEASE,
        faults: None,
    };
    let mut second = Operator::start(cluster, &launch).await;
    for _ in 0..ROUNDS {
        let (together, namespaces) = ends(&mut stage, &client, &rival, &mut [&mut first, &mut second]).await;
        for ((scenario, end), wanted) in Scenario::ALL.iter().zip(together).zip(&alone) {
            let (end, patches) = without_patches(end);
            let (wanted, fewest) = without_patches(wanted.clone());
            assert_eq!(end.difference(&wanted), None, "{scenario:?}");
            assert!(
                patches <= fewest + MORE_PATCHES,
                "{scenario:?}: {patches} patches"
            );
            let most = wanted.statuses * 2 + MORE_STATUSES;
            assert!(end.statuses <= most, "{scenario:?}: {} statuses", end.statuses);
        }
        no_writes(&mut stage, &namespaces, PEACE).await;
        for namespace in &namespaces {
            stage.leave(&client, namespace).await;
        }
    }
}

/// Without the patches of children, and how many they were.
fn without_patches(mut end: EndState) -> (EndState, u32) {
    let mut patches = 0;
    end.children.retain(|write, count| {
        let patch = write.starts_with("patch ");
        patches += if patch { *count } else { 0 };
        !patch
    });
    (end, patches)
}

/// Every scenario, all at once, each in a namespace of its own.
async fn ends(
    stage: &mut Stage,
    client: &Client,
    rival: &Client,
    operators: &mut [&mut Operator],
) -> (Vec<EndState>, Vec<String>) {
    let mut namespaces = Vec::new();
    for scenario in Scenario::ALL {
        let namespace = stage.namespace(client).await;
        scenario.prepare(client, &namespace).await;
        namespaces.push(namespace);
    }
    for operator in &mut *operators {
        settled(stage, client, operator, &namespaces).await;
    }
    let before: Vec<usize> = namespaces.iter().map(|name| stage.writes(name).len()).collect();
    for (scenario, namespace) in Scenario::ALL.iter().zip(&namespaces) {
        scenario.act(client, rival, namespace).await;
    }
    for operator in &mut *operators {
        settled(stage, client, operator, &namespaces).await;
    }
    let mut ends = Vec::new();
    for (namespace, before) in namespaces.iter().zip(before) {
        let writes = stage.writes(namespace).split_off(before);
        ends.push(EndState::read(client, namespace, &writes).await);
    }
    (ends, namespaces)
}
