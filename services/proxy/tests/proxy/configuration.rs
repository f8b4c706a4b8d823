//! Where documents and endpoints come from, and which are used.

use std::fs;

use trellis_config_stream::v1::subscribe_request::Message;
use trellis_proxy_config::{Protocol, cluster::Dns};

use crate::support::{
    backend::Backend,
    client::{Client, get},
    document::{self, cluster},
    eventually, free_port,
    operator::Operator,
    proxy::{Proxy, Setup, local},
    soon,
};

#[tokio::test]
async fn without_a_document_the_proxy_is_alive_but_not_ready_and_says_why() {
    let setup = Setup::new();
    let proxy = setup.start().await;
    assert_eq!(proxy.readyz().await, 503);
    assert_eq!(
        Client::http1(proxy.health)
            .await
            .send(get("/livez"))
            .await
            .status(),
        200
    );
    eventually("it says why", || async {
        let lines = proxy.lines();
        lines
            .iter()
            .any(|line| line["message"] == "failed to read the configuration file")
            .then_some(())
    })
    .await;
    setup.write_text("{\"apiVersion\": \"proxy.trellis.dev/v9\"}");
    eventually("it says what is wrong", || async {
        proxy
            .lines()
            .iter()
            .any(|line| line["message"] == "configuration refused")
            .then_some(())
    })
    .await;
    assert_eq!(proxy.readyz().await, 503);
    setup.write(&document::sidecar().build());
    proxy.ready().await;
}

#[tokio::test]
async fn a_bad_document_is_refused_with_its_faults_and_the_last_good_one_stays() {
    let app = Backend::echo().await;
    let port = free_port();
    let good = document::sidecar().inbound(port, app.address, Protocol::Http1);
    let operator = Operator::start().await;
    let proxy = Proxy::start(&good.clone().stream(operator.address).build()).await;

    let taken = local(free_port());
    let _taken = tokio::net::TcpListener::bind(("0.0.0.0", taken.port()))
        .await
        .unwrap();
    let missing = cluster("missing", "http");
    let faulty = [
        (
            2,
            good.clone().version(2).outbound(&["a.mesh"], &missing).build(),
            "config.outbound[0].cluster",
        ),
        (
            3,
            good.clone()
                .version(3)
                .inbound(taken.port(), app.address, Protocol::Http1)
                .build(),
            "config.listeners[1].port",
        ),
    ];
    for (version, document, path) in faulty {
        operator.document(&document);
        let Message::Nack(nack) = operator
            .hears(|answer| matches!(answer, Message::Nack(nack) if nack.version == version))
            .await
        else {
            unreachable!()
        };
        assert!(nack.faults[0].starts_with(path), "{:?}", nack.faults);
        assert_eq!(nack.digest, document.digest);
        assert_eq!(proxy.config().await["version"], 1);
    }
    operator.text(4, "x", b"not json".to_vec());
    operator
        .hears(|answer| matches!(answer, Message::Nack(nack) if nack.version == 4))
        .await;
    let other = document::gateway().version(5).listener(free_port()).build();
    operator.document(&other);
    operator
        .hears(
            |answer| matches!(answer, Message::Nack(nack) if nack.faults[0].starts_with("config.identity")),
        )
        .await;

    assert_eq!(proxy.readyz().await, 200);
    assert_eq!(
        Client::http1(local(port)).await.send(get("/")).await.status(),
        200
    );
    let next = good.version(6).stream(operator.address).build();
    operator.document(&next);
    operator
        .hears(|answer| matches!(answer, Message::Ack(ack) if ack.version == 6 && ack.digest == next.digest))
        .await;
    proxy.uses(6).await;
}

#[tokio::test]
async fn an_older_document_never_replaces_a_newer_one_whoever_brings_it() {
    let operator = Operator::start().await;
    let document = |version| {
        document::sidecar()
            .version(version)
            .stream(operator.address)
            .build()
    };
    let setup = Setup::with(&document(5));
    let proxy = setup.start().await;
    proxy.uses(5).await;
    // By stream: the operator learns what is in use.
    operator.document(&document(4));
    operator
        .hears(|answer| matches!(answer, Message::Ack(ack) if ack.version == 5))
        .await;
    operator.document(&document(7));
    proxy.uses(7).await;
    // By file: looked at, and left alone.
    setup.write(&document(6));
    eventually("the file is looked at", || async {
        proxy
            .lines()
            .iter()
            .any(|line| line["message"] == "the file has nothing newer")
            .then_some(())
    })
    .await;
    assert_eq!(proxy.config().await["version"], 7);
    assert_eq!(proxy.config().await["source"], "stream");
}

#[tokio::test]
async fn of_equal_versions_the_streams_is_used() {
    let operator = Operator::start().await;
    let app = Backend::echo().await;
    let proxy = Proxy::start(&document::sidecar().stream(operator.address).build()).await;
    let same = document::sidecar().stream(operator.address);
    let same = same.inbound(free_port(), app.address, Protocol::Http1).build();
    operator.document(&same);
    operator
        .hears(|answer| matches!(answer, Message::Ack(ack) if ack.digest == same.digest))
        .await;
    assert_eq!(proxy.config().await["digest"], same.digest);
}

#[tokio::test]
async fn the_operator_learns_who_asks_and_gets_the_token_as_it_is_now() {
    let operator = Operator::start().await;
    let address = operator.address;
    let document = document::sidecar().version(3).stream(address).build();
    let setup = Setup::with(&document);
    let _proxy = setup.start().await;
    let hello = eventually("a hello", || async { operator.heard().hellos.first().cloned() }).await;
    assert_eq!(
        (hello.namespace.as_str(), hello.microservice.as_str()),
        ("shop", "order")
    );
    assert_eq!((hello.pod.as_str(), hello.document_version), ("order-0", 3));
    assert_eq!(hello.document_digest, document.digest);
    assert_eq!(operator.heard().authorizations, ["Bearer a-token"]);

    fs::write(setup.folder.join("token"), "another-token").unwrap();
    drop(operator);
    let listener = eventually("the port is free", || async {
        tokio::net::TcpListener::bind(address).await.ok()
    })
    .await;
    let again = Operator::on(listener);
    eventually("the proxy comes back", || async {
        again
            .heard()
            .authorizations
            .contains(&"Bearer another-token".to_owned())
            .then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_restarted_proxy_serves_as_before_without_operator_and_without_file() {
    let app = Backend::echo().await;
    let (port, user) = (free_port(), cluster("user", "http"));
    let operator = Operator::start().await;
    operator.endpoints(&user, &[app.address]);
    let boot = document::sidecar().stream(operator.address);
    let setup = Setup::with(&boot.clone().build());
    let mut proxy = setup.start().await;
    proxy.ready().await;
    let newer = boot
        .version(9)
        .inbound(port, app.address, Protocol::Http1)
        .cluster(&user, Protocol::Http1)
        .outbound(&["user.mesh"], &user)
        .build();
    operator.document(&newer);
    proxy.knows("shop/user/http", 1).await;
    proxy.uses(9).await;
    let copy = setup.folder.join("state/last-good.json");
    eventually("a copy is kept", || async {
        let copy: serde_json::Value = serde_json::from_slice(&fs::read(&copy).ok()?).ok()?;
        (copy["document"]["version"] == 9 && copy["endpoints"]["shop/user/http"].is_array()).then_some(())
    })
    .await;
    proxy.signal("KILL").await;
    proxy.ended().await;
    drop((proxy, operator));
    fs::remove_file(setup.folder.join("proxy.json")).unwrap();

    let proxy = setup.start().await;
    proxy.ready().await;
    let config = proxy.config().await;
    assert_eq!(
        (&config["version"], &config["source"]),
        (&9.into(), &"lastGood".into())
    );
    assert_eq!(config["endpoints"]["shop/user/http"]["origin"], "lastGood");
    assert_eq!(
        Client::http1(local(port)).await.send(get("/")).await.status(),
        200
    );
    assert_eq!(
        Client::http1(proxy.outbound).await.send(get("/")).await.status(),
        200
    );
}

#[tokio::test]
async fn a_damaged_copy_is_no_reason_not_to_start() {
    let setup = Setup::with(&document::sidecar().build());
    fs::write(setup.folder.join("state/last-good.json"), "{\"document\": {").unwrap();
    let proxy = setup.start().await;
    proxy.ready().await;
    assert_eq!(proxy.config().await["source"], "file");
}

#[tokio::test]
async fn dns_serves_until_the_stream_knows_better_and_again_when_it_stays_away() {
    let (by_dns, by_stream) = (Backend::echo().await, Backend::echo().await);
    let user = cluster("user", "http");
    let operator = Operator::start().await;
    let address = operator.address;
    let document = document::sidecar()
        .stream(address)
        .local_cluster(&user, by_dns.address.port(), Protocol::Http1)
        .outbound(&["user.mesh"], &user)
        .build();
    let proxy = Proxy::start(&document).await;
    let origin = async |expected: &str, port: u16| {
        eventually(&format!("endpoints by {expected}"), || async {
            let config = proxy.config().await;
            let known = &config["endpoints"]["shop/user/http"];
            let endpoint = format!("127.0.0.1:{port}");
            (known["origin"] == expected && known["addresses"][0] == endpoint).then_some(())
        })
        .await;
    };
    origin("dns", by_dns.address.port()).await;
    operator.endpoints(&user, &[by_stream.address]);
    origin("stream", by_stream.address.port()).await;
    drop(operator);
    // After 10 s; until then the stream's word counts.
    eventually("the stream is away", || async {
        (proxy.config().await["stream"] == "away").then_some(())
    })
    .await;
    assert_eq!(
        Client::http1(proxy.outbound).await.send(get("/")).await.status(),
        200
    );
    assert_eq!(by_dns.connections(), 0);
    origin("dns", by_dns.address.port()).await;
    assert_eq!(
        Client::http1(proxy.outbound).await.send(get("/")).await.status(),
        200
    );
    assert_eq!(by_dns.connections(), 1);
}

#[tokio::test]
async fn check_prints_every_fault() {
    let good = document::sidecar().build();
    let mut bad = document::sidecar().build();
    bad.api_version = "proxy.trellis.dev/v9".to_owned();
    bad.config.clusters.insert(
        cluster("user", "http"),
        trellis_proxy_config::Cluster::new(
            Protocol::Http1,
            Some(Dns {
                name: "a".to_owned(),
                port: 1,
            }),
        ),
    );
    bad.digest = String::new();
    for (document, code, expected) in [
        (good, 0, &["valid, version 1"][..]),
        (bad, 65, &["apiVersion", "digest"]),
    ] {
        let setup = Setup::with(&document);
        let check = tokio::process::Command::new(env!("CARGO_BIN_EXE_trellis-proxy"))
            .arg("check")
            .args(["--config".as_ref(), setup.folder.join("proxy.json").as_os_str()])
            .output();
        let output = soon("the verb returns", check).await.unwrap();
        assert_eq!(output.status.code(), Some(code));
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        for part in expected {
            assert!(text.contains(part), "{text}");
        }
    }
}
