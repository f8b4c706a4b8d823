//! The outbox against a real PostgreSQL: what is committed is delivered, whatever happens, and nothing else is.
#![allow(clippy::unwrap_used, missing_docs)]

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use prometheus_client::registry::Registry;
use sqlx::migrate::{Migration, MigrationType, Migrator};
use tokio::task::JoinHandle;
use trellis_chassis::config::{self, Environment};
use trellis_chassis::db::{Binding, Database};
use trellis_chassis::readiness::Readiness;
use trellis_messaging::{Deliver, Dispatcher, Failure, Message, Outbox, SCHEMA};
use trellis_testkit::postgres::TestDatabase;
use trellis_testkit::wait;

/// Takes messages, and counts how often each came.
#[derive(Clone, Default)]
struct Receiver {
    came: Arc<Mutex<BTreeMap<String, u32>>>,
    mood: Arc<Mutex<Mood>>,
    /// How many are being delivered now, and at most were.
    under_way: Arc<(AtomicUsize, AtomicUsize)>,
}

#[derive(Clone, Copy, Default, PartialEq)]
enum Mood {
    #[default]
    Good,
    /// Takes nothing.
    Ill,
    /// Takes everything but what is called so.
    Picky(&'static str),
    /// Never answers.
    Silent,
    /// Fails at some message in a way that nobody has foreseen.
    Broken,
}

struct Service {
    database: Database,
    outbox: Outbox,
    receiver: Receiver,
    dispatchers: Vec<JoinHandle<()>>,
    own: TestDatabase,
}

impl Deliver for Receiver {
    async fn deliver(&self, message: &Message) -> Result<(), Failure> {
        *self
            .came
            .lock()
            .unwrap()
            .entry(message.id().to_owned())
            .or_default() += 1;
        let mood = *self.mood.lock().unwrap();
        assert!(mood != Mood::Broken, "the receiver is broken");
        let (now, most) = &*self.under_way;
        most.fetch_max(now.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
        tokio::task::yield_now().await;
        now.fetch_sub(1, Ordering::Relaxed);
        let is_refused = mood == Mood::Ill || mood == Mood::Picky("picked") && message.id() == "picked";
        if mood == Mood::Silent {
            std::future::pending::<()>().await;
        }
        if is_refused {
            return Err(Failure {
                reason: "not now".to_owned(),
                retry_after: None,
            });
        }
        Ok(())
    }
}

impl Service {
    async fn start() -> Self {
        let own = TestDatabase::create().await;
        let readiness = Readiness::new();
        let root = own.binding_root().display().to_string();
        let env = Environment::from_pairs([("SERVICE_BINDING_ROOT", root)]);
        let binding = config::load(env, |env| Binding::read(env, "db")).unwrap();
        let schema = Migration::new(
            1,
            Cow::Borrowed("outbox"),
            MigrationType::Simple,
            sqlx::SqlStr::from_static(SCHEMA),
            false,
        );
        let migrator = Migrator {
            migrations: Cow::Owned(vec![schema]),
            ..Migrator::DEFAULT
        };
        let database = Database::open(binding, migrator, readiness.task("database"));
        wait::until("the schema is there", async || readiness.is_ready()).await;
        Self {
            database,
            outbox: Outbox::default(),
            receiver: Receiver::default(),
            dispatchers: Vec::new(),
            own,
        }
    }

    /// One more replica.
    fn dispatch(&mut self) -> Registry {
        let mut registry = Registry::default();
        let dispatcher = Dispatcher::new(
            self.database.clone(),
            self.outbox.clone(),
            self.receiver.clone(),
            &mut registry,
        );
        self.dispatchers.push(tokio::spawn(dispatcher.run()));
        registry
    }

    async fn put(&self, id: &str, is_committed: bool) {
        let mut transaction = self.database.pool().unwrap().begin().await.unwrap();
        let message = Message::new(id, "test", "thing", &id).unwrap();
        self.outbox.put(&mut transaction, &message).await.unwrap();
        if is_committed {
            transaction.commit().await.unwrap();
        } else {
            transaction.rollback().await.unwrap();
        }
        self.outbox.wake();
    }

    async fn waiting(&self) -> i64 {
        let count = sqlx::query_scalar("SELECT count(*) FROM outbox");
        count.fetch_one(self.database.pool().unwrap()).await.unwrap()
    }

    async fn is_empty(&self) {
        wait::until("all is delivered", async || self.waiting().await == 0).await;
    }

    fn came(&self) -> BTreeMap<String, u32> {
        self.receiver.came.lock().unwrap().clone()
    }

    fn becomes(&self, mood: Mood) {
        *self.receiver.mood.lock().unwrap() = mood;
    }

    /// Nobody waits for a claim to run out.
    async fn forget_claims(&self) {
        let due = sqlx::query("UPDATE outbox SET due_at = now()");
        due.execute(self.database.pool().unwrap()).await.unwrap();
        self.outbox.wake();
    }
}

#[tokio::test]
async fn what_is_committed_is_delivered_once_and_what_is_not_never() {
    let mut service = Service::start().await;
    service.dispatch();
    service.dispatch();
    for n in 0..100 {
        service.put(&format!("{n}"), n % 10 != 0).await;
    }
    service.is_empty().await;
    let came = service.came();
    assert_eq!(came.len(), 90);
    assert!(came.values().all(|times| *times == 1), "{came:?}");
    assert!(!came.contains_key("10"), "it was rolled back");
}

#[tokio::test]
async fn a_message_that_still_waits_is_not_put_twice() {
    let mut service = Service::start().await;
    service.put("same", true).await;
    service.put("same", true).await;
    assert_eq!(service.waiting().await, 1);
    service.dispatch();
    service.is_empty().await;
    assert_eq!(service.came(), BTreeMap::from([("same".to_owned(), 1)]));
}

#[tokio::test]
async fn one_that_is_not_taken_keeps_no_other_waiting_and_says_why() {
    let mut service = Service::start().await;
    service.becomes(Mood::Picky("picked"));
    let registry = service.dispatch();
    service.put("picked", true).await;
    for n in 0..40 {
        service.put(&format!("{n}"), true).await;
    }
    wait::until("all others are delivered", async || service.waiting().await == 1).await;
    let of_row = "SELECT error FROM outbox WHERE id = 'picked'";
    wait::until("the reason is kept", async || {
        let error: Option<String> = sqlx::query_scalar(of_row)
            .fetch_one(service.database.pool().unwrap())
            .await
            .unwrap();
        error.as_deref() == Some("not now")
    })
    .await;
    wait::until("it is counted", async || {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        text.contains("outbox_waiting 1") && text.contains("outcome=\"not_taken\"")
    })
    .await;
    service.becomes(Mood::Good);
    service.is_empty().await;
    assert!(service.came()["picked"] > 1);
}

#[tokio::test]
async fn what_a_replica_was_delivering_when_it_was_killed_is_delivered_by_another() {
    let mut service = Service::start().await;
    service.becomes(Mood::Silent);
    service.dispatch();
    service.put("lost", true).await;
    wait::until("it is under way", async || service.came().contains_key("lost")).await;
    service.dispatchers.remove(0).abort();
    service.becomes(Mood::Good);
    service.dispatch();
    // As after the time that a claim holds.
    service.forget_claims().await;
    service.is_empty().await;
    assert_eq!(service.came()["lost"], 2);
}

#[tokio::test]
async fn a_database_that_goes_away_loses_nothing() {
    let mut service = Service::start().await;
    service.becomes(Mood::Ill);
    service.dispatch();
    for n in 0..10 {
        service.put(&format!("{n}"), true).await;
    }
    wait::until("all were tried", async || service.came().len() == 10).await;
    service.own.go_away().await;
    service.becomes(Mood::Good);
    service.own.come_back().await;
    service.is_empty().await;
    assert_eq!(service.came().len(), 10);
}

#[tokio::test]
async fn of_many_that_wait_no_more_are_delivered_at_once_than_a_replica_has_room_for() {
    let mut service = Service::start().await;
    let many = "INSERT INTO outbox (id, type, subject, data) SELECT n::text, 'test', 'thing', '1' FROM generate_series(1, 3000) n";
    sqlx::query(many)
        .execute(service.database.pool().unwrap())
        .await
        .unwrap();
    sqlx::query("ANALYZE outbox")
        .execute(service.database.pool().unwrap())
        .await
        .unwrap();
    for _ in 0..3 {
        service.dispatch();
    }
    service.is_empty().await;
    let came = service.came();
    assert_eq!((came.len(), came.values().max()), (3000, Some(&1)));
    let most = service.receiver.under_way.1.load(Ordering::Relaxed);
    assert!((2..=3 * 32).contains(&most), "{most} at once");
}

#[tokio::test]
async fn a_delivery_that_panics_ends_no_dispatcher() {
    let mut service = Service::start().await;
    service.becomes(Mood::Broken);
    service.dispatch();
    service.put("first", true).await;
    wait::until("it was tried", async || service.came().contains_key("first")).await;
    service.becomes(Mood::Good);
    service.put("second", true).await;
    service.forget_claims().await;
    service.is_empty().await;
    assert_eq!(service.came().keys().collect::<Vec<_>>(), ["first", "second"]);
}
