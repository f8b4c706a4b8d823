//! The paths of the service, and what they are built from.

use axum::Router;
use trellis_chassis::db::Database;
use trellis_chassis::server::{self, Process, Routes};

use crate::config::Config;
use crate::handlers::{self, Context};
use crate::store::{self, Store};

/// The service's interface, kept beside the code; a test compares it with the routes.
const OPENAPI: &str = include_str!("../openapi.json");

/// Connects the parts. Must be called within a Tokio runtime.
pub fn build(config: Config, process: &mut Process) -> Router {
    let ready = process.readiness.task("database");
    let database = Database::open(config.database, store::migrations(), ready);
    routes().with_state(Context {
        store: Store::new(database),
    })
}

fn routes() -> Routes<Context> {
    Routes::new()
        .post("/users/", handlers::create)
        .get("/users/", handlers::list)
        .get("/users/{username}", handlers::get)
        .get("/openapi.json", async || server::json(OPENAPI))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::{Value, json};
    use trellis_chassis::config::{self, Environment};
    use trellis_chassis::readiness::Readiness;
    use trellis_testkit::postgres::TestDatabase;
    use trellis_testkit::requests::{get, post};
    use trellis_testkit::{openapi, wait};

    use super::*;

    /// The whole service in this process, with what a request goes through around it.
    fn service(binding_root: &Path) -> (Router, Readiness) {
        let env = Environment::from_pairs([("SERVICE_BINDING_ROOT", binding_root.display().to_string())]);
        let config = config::load(env, crate::config::read).unwrap();
        let mut process = Process::default();
        let router = build(config, &mut process);
        (server::app("user", router, &mut process), process.readiness)
    }

    async fn ready_service() -> (Router, TestDatabase) {
        let database = TestDatabase::create().await;
        let (router, readiness) = service(database.binding_root());
        wait::until("the service is ready", async || readiness.is_ready()).await;
        (router, database)
    }

    #[test]
    fn the_openapi_document_says_what_is_routed() {
        let document: Value = serde_json::from_str(OPENAPI).unwrap();
        openapi::assert_covers(&document, routes().declared());
        openapi::assert_references_resolve(&document);
    }

    #[tokio::test]
    async fn a_user_is_created_once_and_read_back() {
        let (router, _database) = ready_service().await;
        let ada = json!({"username": "ada", "email": "ada@example.org"});
        let created = post(&router, "/users/", ada.to_string()).await;
        assert_eq!(
            (created.status.as_u16(), created.header("location")),
            (201, "/users/ada")
        );
        assert_eq!(created.json(), ada);
        let again = post(&router, "/users", ada.to_string()).await;
        assert_eq!((again.status.as_u16(), again.json()), (200, ada.clone()));
        let other = post(&router, "/users/", r#"{"username":"ada"}"#).await;
        assert_eq!(other.status.as_u16(), 409);
        assert_eq!(other.header("content-type"), "application/problem+json");
        for path in ["/users/ada", "/users/ada/"] {
            let read = get(&router, path).await;
            assert_eq!((read.status.as_u16(), read.json()), (200, ada.clone()));
        }
    }

    #[tokio::test]
    async fn of_many_at_once_one_creates_and_the_others_replay() {
        let (router, _database) = ready_service().await;
        let posts = (0..20).map(|_| {
            let router = router.clone();
            tokio::spawn(async move {
                post(&router, "/users/", r#"{"username":"ada"}"#)
                    .await
                    .status
                    .as_u16()
            })
        });
        let mut statuses = Vec::new();
        for status in posts.collect::<Vec<_>>() {
            statuses.push(status.await.unwrap());
        }
        statuses.sort_unstable();
        assert_eq!(statuses[19], 201);
        assert!(statuses[..19].iter().all(|status| *status == 200), "{statuses:?}");
    }

    #[tokio::test]
    async fn who_does_not_exist_is_a_404_also_under_impossible_names() {
        let (router, _database) = ready_service().await;
        for path in [
            "/users/nobody",
            "/users/NOBODY",
            "/users/%2e%2e",
            "/users/a%20b",
            "/users/%ff",
        ] {
            let answer = get(&router, path).await;
            assert_eq!(answer.status.as_u16(), 404, "{path}");
            assert_eq!(
                answer.header("content-type"),
                "application/problem+json",
                "{path}"
            );
        }
    }

    #[tokio::test]
    async fn bad_bodies_name_their_fields() {
        let (router, _database) = ready_service().await;
        for (body, status, fields) in [
            (
                r#"{"username":"Ada","email":"x"}"#,
                422,
                vec!["username", "email"],
            ),
            (r#"{"username":7}"#, 422, vec!["username"]),
            (r#"{"email":"ada@example.org"}"#, 422, vec!["username"]),
            (r#"{"username":"ada","admin":true}"#, 422, vec!["admin"]),
            (r#"{"username":"#, 400, vec![]),
        ] {
            let answer = post(&router, "/users/", body).await;
            assert_eq!(answer.status.as_u16(), status, "{body}: {}", answer.text);
            assert_eq!(answer.fields(), fields, "{body}");
        }
        let large = format!(r#"{{"username":"{}"}}"#, "x".repeat(70_000));
        assert_eq!(post(&router, "/users/", large).await.status.as_u16(), 413);
    }

    #[tokio::test]
    async fn pages_follow_each_other_to_the_end() {
        let (router, _database) = ready_service().await;
        for name in ["eve", "ada", "b-b", "b.b", "bob"] {
            post(&router, "/users/", json!({"username": name}).to_string()).await;
        }
        let (mut names, mut path) = (Vec::new(), "/users/?limit=2".to_owned());
        loop {
            let page = get(&router, &path).await.json();
            names.extend(
                page["items"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|user| user["username"].clone()),
            );
            let Some(next) = page["next"].as_str() else { break };
            path = format!("/users/?limit=2&cursor={next}");
        }
        assert_eq!(names, ["ada", "b-b", "b.b", "bob", "eve"]);
        let bad = get(&router, "/users/?limit=0&cursor=NO&sort=name").await;
        assert_eq!(
            (bad.status.as_u16(), bad.fields()),
            (422, vec!["limit".into(), "cursor".into(), "sort".into()])
        );
    }

    #[tokio::test]
    async fn without_its_database_the_service_says_503_and_recovers() {
        let database = TestDatabase::reserve().await;
        let (router, readiness) = service(database.binding_root());
        assert!(!readiness.is_ready());
        for answer in [
            get(&router, "/users/ada").await,
            post(&router, "/users/", r#"{"username":"ada"}"#).await,
        ] {
            assert_eq!(
                (answer.status.as_u16(), answer.header("retry-after")),
                (503, "1"),
                "{}",
                answer.text
            );
        }
        assert_eq!(get(&router, "/openapi.json").await.status.as_u16(), 200);
        database.appear().await;
        wait::until("the service is ready", async || readiness.is_ready()).await;
        assert_eq!(get(&router, "/users/ada").await.status.as_u16(), 404);
        database.go_away().await;
        assert_eq!(get(&router, "/users/ada").await.status.as_u16(), 503);
        database.come_back().await;
        wait::until("users are found again", async || {
            get(&router, "/users/ada").await.status.as_u16() == 404
        })
        .await;
    }
}
