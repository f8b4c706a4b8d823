//! The shop, through its gateway, as a client of the shop sees it.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::{
    Cluster,
    cluster::{own_shop, share_shop},
    eventually, http, restoring,
    wait::{until, until_ready},
};
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};
use trellis_api::Microservice;

fn unique() -> i64 {
    i64::from(rand::random::<u32>())
}

async fn new_user(shop: &str) -> Result<String> {
    let username = format!("user-{}", unique());
    let answer = http::post(&format!("{shop}/user/users/"), &json!({"username": username})).await?;
    ensure!(answer.status == 201, "{answer:?}");
    Ok(username)
}

#[tokio::test]
async fn an_order_of_a_known_user_is_placed_and_found_again() -> Result<()> {
    let _lock = share_shop().await?;
    let shop = Cluster::connect().await?.gateway;
    let username = new_user(&shop).await?;
    let id = unique();
    let order = json!({"order_id": id, "username": username, "amount": 19.99});

    let created = http::post(&format!("{shop}/order/orders/"), &order).await?;
    assert_eq!(created.status, 202, "{created:?}");
    // As a client resolves it: against the URL that it called.
    let location = created.headers["location"].to_str()?;
    assert_eq!(location, format!("/order/orders/{id}"));
    eventually(Duration::from_secs(30), "the order to be placed", || async {
        let followed = http::get(&format!("{shop}{location}")).await?;
        ensure!(
            followed.status == 200 && followed.body["status"] == "Completed",
            "{followed:?}"
        );
        ensure!(followed.body["order_id"] == id, "{followed:?}");
        Ok(())
    })
    .await;
    let again = http::post(&format!("{shop}/order/orders/"), &order).await?;
    assert_eq!(
        again.status, 200,
        "the same order again is no second order: {again:?}"
    );
    let other = json!({"order_id": id, "username": username, "amount": 20});
    let conflict = http::post(&format!("{shop}/order/orders/"), &other).await?;
    assert_eq!(conflict.status, 409, "{conflict:?}");

    let found = http::get(&format!("{shop}/order/orders/{id}")).await?;
    assert_eq!(found.status, 200, "{found:?}");
    assert_eq!(found.body["username"], Value::from(username));
    Ok(())
}

#[tokio::test]
async fn an_order_of_an_unknown_user_is_refused_and_not_stored() -> Result<()> {
    let _lock = share_shop().await?;
    let shop = Cluster::connect().await?.gateway;
    let id = unique();
    let order = json!({"order_id": id, "username": "nobody-by-this-name", "amount": "5.00"});

    let refused = http::post(&format!("{shop}/order/orders/"), &order).await?;
    assert_eq!(refused.status, 422, "{refused:?}");
    assert_eq!(refused.headers["content-type"], "application/problem+json");
    assert_eq!(refused.body["errors"][0]["field"], "username", "{refused:?}");
    assert_eq!(http::get(&format!("{shop}/order/orders/{id}")).await?.status, 404);
    Ok(())
}

#[tokio::test]
async fn a_faulty_order_is_refused_with_the_field_at_fault() -> Result<()> {
    let _lock = share_shop().await?;
    let shop = Cluster::connect().await?.gateway;
    let order = json!({"username": "somebody", "amount": 0.001, "lines": [{"sku": "a", "quantity": 0}]});
    let refused = http::post(&format!("{shop}/order/orders/"), &order).await?;
    assert_eq!(refused.status, 422, "{refused:?}");
    let fields: Vec<&str> = refused.body["errors"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|e| e["field"].as_str())
        .collect();
    assert!(
        fields.contains(&"amount") && fields.contains(&"lines[0].quantity"),
        "{refused:?}"
    );
    Ok(())
}

#[tokio::test]
async fn without_the_user_service_an_order_is_put_off_and_not_stored() -> Result<()> {
    let _lock = own_shop().await?;
    let cluster = Cluster::connect().await?;
    let shop = cluster.gateway.clone();
    let username = new_user(&shop).await?;
    let services: Api<Microservice> = Api::namespaced(cluster.client.clone(), "shop");
    let before = services.get("user").await?.spec.replicas;
    let body = async {
        scale(&services, "user", 0).await?;
        order_without_users(&services, &shop, &username).await
    };
    let restore = async {
        scale(&services, "user", before.unwrap_or(1)).await?;
        until_ready(&services, "user").await;
        Ok(())
    };
    restoring(body, restore).await?;

    // Twenty in a row: each gateway and each sidecar of order has heard of the new pods, and the next test can begin.
    eventually(
        Duration::from_secs(20),
        "users and orders to be taken again",
        || async {
            for _ in 0..20 {
                let username = new_user(&shop).await?;
                let order = json!({"order_id": unique(), "username": username, "amount": 1});
                let answer = http::post(&format!("{shop}/order/orders/"), &order).await?;
                ensure!(answer.status.is_success(), "{answer:?}");
            }
            Ok(())
        },
    )
    .await;
    Ok(())
}

async fn order_without_users(services: &Api<Microservice>, shop: &str, username: &str) -> Result<()> {
    until(
        services,
        "user",
        Duration::from_secs(60),
        "scaled to zero",
        |found, _| {
            found
                .status
                .as_ref()
                .is_some_and(|status| status.replicas == Some(0))
        },
    )
    .await;
    // Terminated pods leave the balancers before they stop; the address of the last one may be known for a moment.
    let id = eventually(Duration::from_secs(20), "an order to be put off", || async {
        let id = unique();
        let order = json!({"order_id": id, "username": username, "amount": 1});
        let answer = http::post(&format!("{shop}/order/orders/"), &order).await?;
        ensure!(answer.status == 503, "{answer:?}");
        ensure!(answer.headers.contains_key("retry-after"), "{answer:?}");
        Ok(id)
    })
    .await;
    let found = http::get(&format!("{shop}/order/orders/{id}")).await?;
    ensure!(found.status == 404, "the order was stored: {found:?}");
    Ok(())
}

async fn scale(services: &Api<Microservice>, name: &str, replicas: i32) -> Result<()> {
    let patch = json!({"spec": {"replicas": replicas}});
    services
        .patch(name, &PatchParams::default(), &Patch::Merge(patch))
        .await?;
    Ok(())
}
