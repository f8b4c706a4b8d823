//! Engines as processes have them.

use std::sync::Arc;

use serde_json::json;
use tokio::sync::oneshot;
use trellis_saga_core::run::Status;
use trellis_saga_engine::{
    definitions::Definitions,
    engine::{Engine, Request},
    observe::{Nobody, Observe},
    participants::Participants,
    store::{
        Replica, Store as _,
        postgres::{Options, Postgres},
    },
};
use trellis_testkit::{postgres::TestDatabase, wait};

use crate::common::{self, Shop};

/// Most runs of an engine.
pub const MOST_RUNS: usize = 60;

/// An engine as a process has it.
pub struct Process {
    pub engine: Engine<Postgres>,
    stop: oneshot::Sender<()>,
    membership: tokio::task::JoinHandle<()>,
}

impl Process {
    pub async fn start(options: &Options, shop: &Arc<impl Participants>, name: &str) -> Self {
        Self::with_room(options, shop, name, MOST_RUNS).await
    }

    pub async fn with_room(
        options: &Options,
        shop: &Arc<impl Participants>,
        name: &str,
        most: usize,
    ) -> Self {
        Self::heard_by(options, shop, name, most, Arc::new(Nobody)).await
    }

    pub async fn heard_by(
        options: &Options,
        shop: &Arc<impl Participants>,
        name: &str,
        most: usize,
        observer: Arc<dyn Observe>,
    ) -> Self {
        let store = Arc::new(Postgres::new(options));
        let replica = Replica {
            id: rand::random(),
            name: name.to_owned(),
            address: format!("http://{name}"),
        };
        let definitions = Arc::new(Definitions::default());
        let (engine, membership) = Engine::new(store, shop, definitions, replica, most, &observer);
        engine.restore().await.unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let membership = tokio::spawn(membership.run(async {
            let _ = stopped.await;
        }));
        Self {
            engine,
            stop,
            membership,
        }
    }

    pub async fn owning(self, count: usize) -> Self {
        wait::until("it owns its part", async || self.engine.owned() == count).await;
        self
    }

    pub async fn stop(self) {
        drop(self.stop);
        self.membership.await.unwrap();
    }

    pub async fn run(&self, key: &str, path: &str) -> String {
        let started = self.engine.start(request(key, path)).await.unwrap();
        started.run.to_string()
    }

    pub async fn status(&self, run: &str) -> Status {
        let view = self.engine.view(run.parse().unwrap()).await.unwrap().unwrap();
        assert_eq!(view.state.status(), view.stored.standing.status);
        view.state.status()
    }

    pub async fn until(&self, run: &str, status: Status) {
        wait::until("the run is there", async || self.status(run).await == status).await;
    }
}

/// A start of `order`.
pub fn request(key: &str, path: &str) -> Request {
    Request {
        namespace: "shop".to_owned(),
        saga: "order".to_owned(),
        key: Some(key.to_owned()),
        input: Some(json!({"id": path})),
    }
}

/// A store with a saga of three steps, and its participants.
pub async fn world() -> (TestDatabase, Options, Arc<Shop>) {
    let (database, options) = common::database().await;
    Postgres::new(&options)
        .put_revision(&common::revision("order", 3))
        .await
        .unwrap();
    (database, options, Arc::default())
}
