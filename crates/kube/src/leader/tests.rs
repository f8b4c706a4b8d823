//! The claim against an API server in memory that has one Lease.

use std::{
    convert::Infallible,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
};

use http::{Method, Request, Response};
use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use kube::client::Body;
use serde_json::{Value, json};

use super::*;

const RENEW: Duration = Duration::from_secs(5);
/// When the first Lease of a test is made, in seconds since 1970.
const MADE: i64 = 1_800_000_000;

/// The API server; clones are the same.
#[derive(Clone, Default)]
struct Server(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    lease: Option<Lease>,
    /// Writes so far.
    version: u32,
    /// Leases made so far: each a second after the one before.
    made: i64,
    /// The next write is stored, and its answer lost.
    is_answer_lost: bool,
    /// What another write stores just before the next one.
    meddling: Option<Lease>,
}

impl State {
    fn store(&mut self, mut lease: Lease) -> (u16, Value) {
        self.version += 1;
        lease.metadata.resource_version = Some(self.version.to_string());
        let answer = serde_json::to_value(&lease).unwrap();
        self.lease = Some(lease);
        if std::mem::take(&mut self.is_answer_lost) {
            return failure(500, "InternalError");
        }
        (200, answer)
    }

    fn answer(&mut self, method: &Method, body: &[u8]) -> (u16, Value) {
        if *method == Method::GET {
            return match &self.lease {
                Some(lease) => (200, serde_json::to_value(lease).unwrap()),
                None => failure(404, "NotFound"),
            };
        }
        if let Some(lease) = self.meddling.take() {
            self.store(lease);
        }
        let mut written: Lease = serde_json::from_slice(body).unwrap();
        match &self.lease {
            None if *method == Method::POST => {
                let made = Timestamp::from_second(MADE + self.made).unwrap();
                written.metadata.creation_timestamp = Some(Time(made));
                self.made += 1;
                self.store(written)
            }
            Some(_) if *method == Method::POST => failure(409, "AlreadyExists"),
            Some(lease) if lease.metadata.resource_version == written.metadata.resource_version => {
                self.store(written)
            }
            _ => failure(409, "Conflict"),
        }
    }
}

fn failure(code: u16, reason: &str) -> (u16, Value) {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "code": code, "reason": reason, "message": reason,
    });
    (code, status)
}

impl Server {
    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.0.lock().unwrap());
    }

    fn client(&self) -> Client {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let server = server.clone();
            async move {
                let method = request.method().clone();
                let body = request.into_body().collect_bytes().await.unwrap();
                let (code, answer) = server.0.lock().unwrap().answer(&method, &body);
                let body = Body::from(answer.to_string().into_bytes());
                Ok::<_, Infallible>(Response::builder().status(code).body(body).unwrap())
            }
        });
        Client::new(service, "default")
    }

    fn process(&self, identity: &str) -> (Leadership, Authority) {
        let candidate = Candidate {
            identity: identity.to_owned(),
            address: Some(format!("http://{identity}:15010")),
        };
        let settings = Settings {
            lease: "lease".to_owned(),
            duration: RENEW * 3,
            deadline: RENEW * 2,
            renew: RENEW,
        };
        Leadership::new(self.client(), "default", candidate, settings)
    }
}

/// The epoch of the n-th acquisition of the n-th Lease, both counted from 0.
fn epoch(lease: u64, acquisition: u64) -> u64 {
    ((MADE.unsigned_abs() + lease) << 24) | acquisition
}

#[tokio::test]
async fn a_renewal_prolongs_the_term_and_keeps_its_epoch() {
    let (mut leadership, authority) = Server::default().process("a");
    let mut terms = authority.terms();
    assert_eq!(authority.term(), None);

    assert_eq!(leadership.turn().await.unwrap(), RENEW);
    terms.changed().await.unwrap();
    let first = terms.borrow_and_update().unwrap();
    assert!(authority.holds());
    assert_eq!(first.epoch, epoch(0, 0));
    assert_eq!(first.until - first.since, RENEW * 2);

    leadership.turn().await.unwrap();
    terms.changed().await.unwrap();
    let renewed = authority.term().unwrap();
    assert_eq!((renewed.since, renewed.epoch), (first.since, first.epoch));
    assert!(renewed.until > first.until);

    leadership.release().await;
    terms.changed().await.unwrap();
    assert_eq!(authority.term(), None);
}

#[tokio::test]
async fn every_look_is_noted_and_once_that_it_leads() {
    let (looks, led) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let count = |counter: &Arc<AtomicU32>| {
        let counter = Arc::clone(counter);
        move || _ = counter.fetch_add(1, Ordering::Relaxed)
    };
    let (leadership, _authority) = Server::default().process("a");
    let mut leadership = leadership.on_turn(count(&looks)).on_led(count(&led));
    for _ in 0..3 {
        leadership.turn().await.unwrap();
    }
    assert_eq!(looks.load(Ordering::Relaxed), 3);
    assert_eq!(led.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_standby_knows_where_the_leader_is_and_takes_over_what_it_gives_back() {
    let server = Server::default();
    let (mut leader, _authority) = server.process("a");
    let (mut standby, authority) = server.process("b");
    leader.turn().await.unwrap();
    assert_eq!(standby.turn().await.unwrap(), LOOK);
    assert_eq!(standby.leader().borrow().as_deref(), Some("http://a:15010"));
    assert_eq!(authority.term(), None);

    leader.release().await;
    standby.turn().await.unwrap();
    assert_eq!(authority.term().unwrap().epoch, epoch(0, 1));
    assert_eq!(*standby.leader().borrow(), None);
}

#[tokio::test]
async fn a_process_started_anew_leads_at_once_in_a_new_epoch_and_the_one_before_ends() {
    let server = Server::default();
    let (mut before, _authority) = server.process("a");
    let (mut after, authority) = server.process("a");
    before.turn().await.unwrap();
    after.turn().await.unwrap();
    assert_eq!(authority.term().unwrap().epoch, epoch(0, 1));

    let ended = before.turn().await.unwrap_err();
    assert!(
        matches!(&ended, Error::Taken { holder } if holder == "a"),
        "{ended}"
    );
    before.release().await;
    after.turn().await.unwrap();
    assert_eq!(authority.term().unwrap().epoch, epoch(0, 1));
}

#[tokio::test]
async fn a_lease_that_somebody_deleted_is_made_anew_in_a_larger_epoch() {
    let server = Server::default();
    let (mut first, authority) = server.process("a");
    first.turn().await.unwrap();
    let since = authority.term().unwrap().since;
    server.change(|state| state.lease = None);
    first.turn().await.unwrap();
    let term = authority.term().unwrap();
    assert_eq!((term.since, term.epoch), (since, epoch(1, 0)));

    server.change(|state| state.lease = None);
    let (mut second, authority) = server.process("b");
    second.turn().await.unwrap();
    assert_eq!(authority.term().unwrap().epoch, epoch(2, 0));
    assert!(matches!(first.turn().await, Err(Error::Taken { .. })));
}

#[tokio::test]
async fn a_claim_whose_answer_was_lost_gives_no_term_until_it_is_made_anew() {
    let server = Server::default();
    let (mut leadership, authority) = server.process("a");
    server.change(|state| state.is_answer_lost = true);
    assert_eq!(leadership.turn().await.unwrap(), RENEW * 2 / 5);
    assert_eq!(authority.term(), None);
    leadership.turn().await.unwrap();
    let term = authority.term().unwrap();
    assert_eq!(term.epoch, epoch(0, 1));

    // A lost renewal changes nothing.
    server.change(|state| state.is_answer_lost = true);
    leadership.turn().await.unwrap();
    assert_eq!(authority.term(), Some(term));
    leadership.turn().await.unwrap();
    assert_eq!(authority.term().unwrap().epoch, term.epoch);
}

#[tokio::test]
async fn a_claim_that_comes_second_gives_no_term_even_if_the_first_has_its_name() {
    for (holder, leader) in [("a", None), ("b", Some("http://b:15010"))] {
        let server = Server::default();
        let (mut first, _authority) = server.process(holder);
        first.turn().await.unwrap();
        server.change(|state| state.meddling = state.lease.take());
        let (mut second, authority) = server.process("a");
        assert_eq!(second.turn().await.unwrap(), LOOK, "{holder}");
        assert_eq!(authority.term(), None, "{holder}");
        assert_eq!(second.leader().borrow().as_deref(), leader);
    }
}

#[tokio::test]
async fn a_leader_whose_own_renewal_came_through_late_leads_on() {
    let server = Server::default();
    let (mut leadership, authority) = server.process("a");
    leadership.turn().await.unwrap();
    let first = authority.term().unwrap();
    server.change(|state| state.meddling = state.lease.clone());
    leadership.turn().await.unwrap();
    let renewed = authority.term().unwrap();
    assert_eq!(renewed.epoch, first.epoch);
    assert!(renewed.until > first.until);
}
