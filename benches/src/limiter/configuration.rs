//! The same limits in both configuration languages, at the port in front of an app.

use serde_json::{Value, json};
use trellis_proxy_config::{
    Config, Document, Identity, Inbound, Listener, ListenerKind, Protocol, RateLimit, Role,
    limit::{Algorithm, LimitHeaders, Rate, Rule},
};

use crate::proxy::{configuration, load::CALLER};

/// The limits of a proxy.
#[derive(Debug, Clone, Copy)]
pub enum Limits {
    /// None.
    None,
    /// All requests together, so many per second.
    Total(Algorithm, u32),
    /// Of each caller, so many per second.
    Each(Algorithm, u32),
}

/// A sidecar's document.
pub fn trellis(port: u16, app_port: u16, limits: Limits) -> Document {
    Document::new(
        1,
        Config {
            role: Role::Sidecar,
            identity: Identity {
                namespace: "bench".to_owned(),
                microservice: "app".to_owned(),
            },
            stream: None,
            listeners: vec![Listener {
                name: "http".to_owned(),
                port,
                kind: ListenerKind::Inbound(Inbound {
                    app_port,
                    protocol: Protocol::Http1,
                    bulkhead: None,
                }),
            }],
            outbound: Vec::new(),
            gateways: Vec::new(),
            limits: limits.ours().into_iter().collect(),
            quota: None,
            clusters: Default::default(),
        },
    )
}

/// Envoy's, with `envoy.filters.http.local_ratelimit`.
pub fn envoy(port: u16, upstream: u16, limits: Limits) -> Value {
    configuration::envoy(port, upstream, None, &Vec::from_iter(limits.envoys()))
}

impl Limits {
    fn ours(self) -> Option<RateLimit> {
        let (algorithm, limit, counters) = match self {
            Self::None => return None,
            Self::Total(algorithm, limit) => (algorithm, limit, Vec::new()),
            Self::Each(algorithm, limit) => {
                (algorithm, limit, vec![format!("request.headers[\"{CALLER}\"]")])
            }
        };
        let rate = Rate {
            limit,
            window: 1_000,
            burst: None,
        };
        Some(RateLimit {
            policy: "bench".to_owned(),
            policy_uid: String::new(),
            generation: 1,
            name: "limit".to_owned(),
            route: None,
            rule: Rule::Rates {
                algorithm,
                rates: vec![rate],
            },
            lease: None,
            counters,
            when: Vec::new(),
            cost: None,
            shadow: false,
            // The same three that Envoy writes.
            headers: LimitHeaders::Draft03,
            status: None,
            body: None,
        })
    }

    /// It has one algorithm, a token bucket. With headers that say what is left, as ours.
    fn envoys(self) -> Option<Value> {
        let (limit, is_keyed) = match self {
            Self::None => return None,
            Self::Total(_, limit) => (limit, false),
            Self::Each(_, limit) => (limit, true),
        };
        let bucket = json!({"max_tokens": limit, "tokens_per_fill": limit, "fill_interval": "1s"});
        let always = json!({"default_value": {"numerator": 100, "denominator": "HUNDRED"}});
        let mut filter = json!({
            "@type": "type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit",
            "stat_prefix": "limit",
            "token_bucket": bucket,
            "filter_enabled": always,
            "filter_enforced": always,
            "enable_x_ratelimit_headers": "DRAFT_VERSION_03",
        });
        if is_keyed {
            // An entry without a value stands for every value: each has a bucket of its own.
            filter["descriptors"] = json!([{"entries": [{"key": "caller"}], "token_bucket": bucket}]);
            filter["rate_limits"] = json!([{"actions": [
                {"request_headers": {"header_name": CALLER, "descriptor_key": "caller"}},
            ]}]);
            filter["max_dynamic_descriptors"] = json!(100_000);
            filter["always_consume_default_token_bucket"] = json!(false);
        }
        Some(json!({"name": "envoy.filters.http.local_ratelimit", "typed_config": filter}))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_documents_are_such_as_a_proxy_takes() {
        for algorithm in [Algorithm::TokenBucket, Algorithm::SlidingWindow] {
            for limits in [
                Limits::None,
                Limits::Total(algorithm, 5),
                Limits::Each(algorithm, 5),
            ] {
                let text = serde_json::to_vec(&trellis(8080, 9000, limits)).unwrap();
                assert!(trellis_proxy_config::ValidDocument::parse(&text).is_ok());
            }
        }
    }
}
