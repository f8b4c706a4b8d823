//! The control plane, shared by the tests of this process and lent to one at a time.

use std::{mem, path::Path};

use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Api, Client,
    api::{DeleteParams, ObjectMeta, PostParams},
};
use tokio::sync::{Mutex, MutexGuard, OnceCell};
use trellis_testkit::{
    control_plane::{
        ControlPlane, Setup, User,
        audit::{Log, Write},
    },
    wait,
};

const MANIFESTS: &str = "../../manifests";

static STAGE: OnceCell<Mutex<Stage>> = OnceCell::const_new();

/// The control plane and what it has logged.
pub struct Stage {
    /// The control plane.
    pub cluster: ControlPlane,
    log: Log,
    namespaces: u32,
    /// Those that nobody has let go yet.
    in_use: Vec<String>,
}

impl Stage {
    /// Waits until no other test has it.
    pub async fn enter() -> MutexGuard<'static, Self> {
        let stage = STAGE.get_or_init(async || {
            let cluster = ControlPlane::start(Setup::of_test(Path::new(MANIFESTS)))
                .await
                .unwrap();
            let log = Log::new(cluster.audit_log());
            Mutex::new(Self {
                cluster,
                log,
                namespaces: 0,
                in_use: Vec::new(),
            })
        });
        let mut stage = stage.await.lock().await;
        stage.clear().await;
        stage
    }

    /// Takes away what a test has left that failed, so that it fails no other: an operator sees the whole cluster.
    async fn clear(&mut self) {
        if self.in_use.is_empty() {
            return;
        }
        self.cluster.install(Path::new(MANIFESTS)).unwrap();
        let client = self.client(User::Test).await;
        let namespaces = Api::<Namespace>::all(client.clone());
        for name in mem::take(&mut self.in_use) {
            // It may have let it go by other means.
            let _ = namespaces.delete(&name, &DeleteParams::background()).await;
            wait::until(&format!("{name} is gone"), async || {
                namespaces.get_opt(&name).await.is_ok_and(|found| found.is_none())
            })
            .await;
        }
    }

    /// A client; one for each test, because it lives in the test's runtime.
    pub async fn client(&self, user: User) -> Client {
        self.cluster.client(user).await.unwrap()
    }

    /// A new namespace.
    pub async fn namespace(&mut self, client: &Client) -> String {
        self.namespaces += 1;
        // Of one length, so that texts which hold it are, too.
        let name = format!("ns-{:05}", self.namespaces);
        let namespace = Namespace {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                ..ObjectMeta::default()
            },
            ..Namespace::default()
        };
        let api = Api::<Namespace>::all(client.clone());
        api.create(&PostParams::default(), &namespace).await.unwrap();
        self.in_use.push(name.clone());
        name
    }

    /// Lets a namespace go; what is in it goes in the background.
    pub async fn leave(&mut self, client: &Client, namespace: &str) {
        self.in_use.retain(|name| name != namespace);
        let api = Api::<Namespace>::all(client.clone());
        api.delete(namespace, &DeleteParams::background()).await.unwrap();
    }

    /// Every write so far.
    pub fn all_writes(&mut self) -> &[Write] {
        self.log.writes().unwrap()
    }

    /// Every write to a namespace so far. Events are notes that nobody acts on.
    pub fn writes(&mut self, namespace: &str) -> Vec<Write> {
        let writes = self.log.writes().unwrap().iter();
        writes
            .filter(|write| write.namespace() == namespace && write.resource() != "events")
            .cloned()
            .collect()
    }
}
