//! Who leads: a standby takes over from a leader that is gone, and whoever lost the Lease ends.

use std::time::Duration;

use k8s_openapi::{api::coordination::v1::Lease, jiff::Timestamp};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use nix::sys::signal::Signal;
use serde_json::json;
use trellis_testkit::control_plane::{OPERATOR_NAMESPACE, User};

use crate::{
    operator::{Launch, Operator},
    stage::Stage,
};

const LEASE: &str = "trellis-operator";
/// Time between the last renewal of a leader that is gone and the first claim of the next: the length of the Lease and a second.
const TAKEOVER: Duration = Duration::from_secs(16);

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_takes_over_within_the_lease_and_a_second_and_the_old_leader_ends() {
    let stage = Stage::enter().await;
    let client = stage.client(User::Test).await;
    let mut old = Operator::start(&stage.cluster, &launch("old")).await;
    let mut standby = Operator::spawn(&stage.cluster, &launch("standby")).await;
    standby.until_ready().await;

    old.signal(Signal::SIGSTOP);
    let (_, renewed) = times(&client).await;
    standby
        .until("the standby leads", async |counts| {
            counts.value("trellis_operator_leader") == 1.0
        })
        .await;
    let (acquired, _) = times(&client).await;
    let took = Duration::try_from(acquired.duration_since(renewed)).unwrap();
    println!("a standby took over {took:.1?} after the last renewal");
    assert!(took <= TAKEOVER, "{took:?}");

    old.signal(Signal::SIGCONT);
    let status = old.ended().await;
    assert!(!status.success(), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whose_lease_somebody_took_ends_with_an_error() {
    let stage = Stage::enter().await;
    let client = stage.client(User::Test).await;
    let mut operator = Operator::start(&stage.cluster, &launch("leader")).await;
    let taken = json!({"spec": {"holderIdentity": "somebody", "renewTime": null}});
    leases(&client)
        .patch(LEASE, &PatchParams::default(), &Patch::Merge(taken))
        .await
        .unwrap();
    let status = operator.ended().await;
    assert!(!status.success(), "{status}");
    // So that the next test need not wait for it to run out.
    let free = json!({"spec": {"holderIdentity": ""}});
    leases(&client)
        .patch(LEASE, &PatchParams::default(), &Patch::Merge(free))
        .await
        .unwrap();
}

fn launch(identity: &'static str) -> Launch {
    Launch {
        identity,
        ..Launch::default()
    }
}

fn leases(client: &Client) -> Api<Lease> {
    Api::namespaced(client.clone(), OPERATOR_NAMESPACE)
}

/// When the Lease was acquired and renewed.
async fn times(client: &Client) -> (Timestamp, Timestamp) {
    let spec = leases(client).get(LEASE).await.unwrap().spec.unwrap();
    (spec.acquire_time.unwrap().0, spec.renew_time.unwrap().0)
}
