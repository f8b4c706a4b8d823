//! A store in a database of its own, sagas, and participants in this process.

use std::{
    collections::BTreeMap,
    fs,
    sync::{Arc, Mutex},
};

use serde_json::{Value, json};
use sqlx::{ConnectOptions as _, postgres::PgConnectOptions};
use tokio_postgres::Config;
use trellis_saga_core::{
    Definition, canonical,
    definition::RetryCondition,
    event::{Op, Outcome, Payload},
};
use trellis_saga_engine::{
    participants::{Asked, Participants, Try},
    store::{
        Revision,
        postgres::{self, Options},
    },
};
use trellis_testkit::postgres::TestDatabase;

/// A database with the schema, and how to connect to it.
pub async fn database() -> (TestDatabase, Options) {
    let database = TestDatabase::create().await;
    let root = database.binding_root().join("db");
    let read = |key: &str| fs::read_to_string(root.join(key)).unwrap().trim().to_owned();
    let (host, port, name, password) = (read("host"), read("port"), read("database"), read("password"));
    let port: u16 = port.parse().unwrap();
    let mut connection = PgConnectOptions::new_without_pgpass()
        .host(&host)
        .port(port)
        .database(&name)
        .username(&name)
        .password(&password)
        .connect()
        .await
        .unwrap();
    postgres::migrations()
        .run_direct(None, &mut connection, false)
        .await
        .unwrap();
    let options: Options = Arc::new(move || {
        let mut config = Config::new();
        config
            .host(&host)
            .port(port)
            .dbname(&name)
            .user(&name)
            .password(&password);
        config
    });
    (database, options)
}

/// A saga of some steps in a row; the last is the pivot.
pub fn revision(saga: &str, steps: usize) -> Revision {
    revision_with(saga, steps, &json!({}))
}

/// The same with further fields.
pub fn revision_with(saga: &str, steps: usize, fields: &Value) -> Revision {
    let call = |method: &str| {
        json!({
            "call": {"microservice": "shop", "method": method, "path": "/${input.id}"}, "timeout": 5000,
            "body": {"run": "${run.id}"},
            "retry": {"initial": 10, "factor": 2.0, "maxInterval": 50, "jitter": 0,
                "retryOn": ["ServerError", "Throttled", "Timeout", "Unreachable"]},
        })
    };
    let steps: Vec<Value> = (0..steps)
        .map(|i| {
            let mut step = json!({"name": format!("s{i}"), "after": [], "kind": "Compensatable", "action": call("POST")});
            if i > 0 {
                step["after"] = json!([format!("s{}", i - 1)]);
            }
            if i + 1 == steps {
                step["kind"] = "Pivot".into();
            } else {
                step["compensation"] = call("DELETE");
                step["compensation"].as_object_mut().unwrap().remove("body");
            }
            step
        })
        .collect();
    let mut definition = json!({
        "apiVersion": "saga.trellis.dev/v1", "namespace": "shop", "name": saga, "steps": steps,
        "input": {"schema": {"type": "object", "required": ["id"], "properties": {"id": {"type": "string", "minLength": 1}}}},
        "retention": {"completed": 1000, "compensated": 2000}, "onStuck": {"event": true},
    });
    for (name, value) in fields.as_object().unwrap() {
        definition[name] = value.clone();
    }
    let definition: Definition = serde_json::from_value(definition).unwrap();
    let definition = canonical::text(&definition);
    Revision {
        namespace: "shop".to_owned(),
        saga: saga.to_owned(),
        revision: canonical::name(&definition),
        definition,
        is_current: true,
    }
}

/// Participants that remember what they did, by key. A path says what becomes of the last step: `/refuse`, `/away`.
#[derive(Default)]
pub struct Shop {
    /// What was done.
    pub done: Mutex<BTreeMap<String, u32>>,
}

impl Shop {
    /// How often actions and compensations of a run were done.
    pub fn of(&self, run: &str) -> (u32, u32) {
        let done = self.done.lock().unwrap();
        let of = |op: &str| {
            let keys = done
                .iter()
                .filter(|(key, _)| key.starts_with(run) && key.contains(op));
            keys.map(|(_, times)| times).sum()
        };
        (of("/action/"), of("/compensation/"))
    }
}

impl Participants for Shop {
    async fn call(&self, a_try: Try) -> Outcome {
        let Asked::Do(request) = &a_try.request else {
            return Outcome::Failed("nothing is worked on".into());
        };
        let steps = a_try.compiled.program.definition.steps.len();
        let is_last = a_try.call.step as usize + 1 == steps && a_try.call.op == Op::Action;
        match (&*request.path, is_last) {
            ("/refuse", true) => return Outcome::Failed("409".into()),
            ("/away", true) => {
                return Outcome::Retry {
                    condition: RetryCondition::Unreachable,
                    after: None,
                    detail: "connection refused".into(),
                };
            }
            _ => {}
        }
        *self.done.lock().unwrap().entry(a_try.key()).or_default() += 1;
        Outcome::Done(Some(Payload::from("{}")))
    }
}
