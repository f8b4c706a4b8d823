//! The records of a run as Server-Sent Events.

use http::{Method, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::Value;

use crate::stage::{Replica, Stage};

/// A stream of events that is read.
struct Events {
    response: Response<Incoming>,
    text: String,
}

impl Events {
    async fn of(replica: &Replica, run: &str, headers: &[(&str, &str)]) -> Self {
        let path = format!("/v1/runs/{run}/events");
        Self {
            response: replica.ask(Method::GET, &path, headers, Value::Null).await,
            text: String::new(),
        }
    }

    /// The next event: its id, its type, and its data. None: the stream has ended.
    async fn next(&mut self) -> Option<(u64, String, Value)> {
        loop {
            if let Some((block, rest)) = self.text.split_once("\n\n") {
                let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name));
                let data = field("data: ").map(|data| serde_json::from_str(data).unwrap());
                let event = data.map(|data| {
                    let id = field("id: ").unwrap().parse().unwrap();
                    (id, field("event: ").unwrap().to_owned(), data)
                });
                self.text = rest.to_owned();
                // A comment keeps the stream alive, and says nothing.
                if event.is_some() {
                    return event;
                }
                continue;
            }
            let frame = self.response.body_mut().frame().await?.unwrap();
            self.text
                .push_str(str::from_utf8(&frame.into_data().unwrap()).unwrap());
        }
    }

    async fn rest(mut self) -> Vec<(u64, String, Value)> {
        let mut events = Vec::new();
        while let Some(event) = self.next().await {
            events.push(event);
        }
        events
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_record_of_a_run_is_told_once_in_order_and_without_payloads_wherever_it_is() {
    let stage = Stage::new().await;
    let owner = stage.replica("saga-0", &[]);
    let mut other = stage.replica("saga-1", &[]);
    other.has_its_part(2);
    stage.participants.hold("first action");
    let run = owner.start(&[]).await;

    let mut events = Events::of(&other, &run, &[]).await;
    assert_eq!(events.response.headers()["content-type"], "text/event-stream");
    let mut told = Vec::new();
    loop {
        let event = events.next().await.unwrap();
        let is_retry = event.2["outcome"] == "retry";
        told.push(event);
        if is_retry {
            break;
        }
    }
    stage.participants.release("first action");
    told.extend(events.rest().await);

    let ids: Vec<u64> = told.iter().map(|(id, ..)| *id).collect();
    assert_eq!(ids, (0..ids.len() as u64).collect::<Vec<_>>());
    assert_eq!(owner.run(&run).await["records"], ids.len());
    assert_eq!(told[0].1, "started");
    for (id, what, data) in &told {
        assert_eq!(
            (&data["sequence"], &data["type"]),
            (&(*id).into(), &(&**what).into())
        );
        assert!(!data.to_string().contains("payload"), "{data}");
    }
    let (.., last) = told.last().unwrap();
    assert_eq!((&last["step"], &last["op"]), (&"last".into(), &"action".into()));
    assert_eq!(
        (&last["outcome"], &last["status"]),
        (&"done".into(), &"Completed".into())
    );

    let last = ids.len() - 1;
    let seen = (last - 2).to_string();
    let rest = Events::of(&owner, &run, &[("last-event-id", &seen)])
        .await
        .rest()
        .await;
    assert_eq!(rest, told[last - 1..]);
    let over = Events::of(&owner, &run, &[("last-event-id", &last.to_string())]).await;
    assert_eq!(over.response.status(), StatusCode::NO_CONTENT);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn events_are_for_those_who_may_look_at_the_run() {
    let stage = Stage::new().await;
    let replica = stage.replica("saga-0", &[]);
    let run = replica.start(&[("prefer", "wait=8")]).await;
    for (token, last, status) in [
        ("Bearer store:order", "0", StatusCode::FORBIDDEN),
        ("Bearer nobody", "0", StatusCode::UNAUTHORIZED),
        ("Bearer shop:order", "x", StatusCode::UNPROCESSABLE_ENTITY),
    ] {
        let headers = [("authorization", token), ("last-event-id", last)];
        let events = Events::of(&replica, &run, &headers).await;
        assert_eq!(events.response.status(), status, "{token}");
    }
    let nothing = Events::of(&replica, "01JD2X3Y4Z5A6B7C8D9E0F1G2H", &[]).await;
    assert_eq!(nothing.response.status(), StatusCode::NOT_FOUND);
}
