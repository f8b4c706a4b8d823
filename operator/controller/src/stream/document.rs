//! The document in a ConfigMap, as it is sent: pure.

use k8s_openapi::api::core::v1::ConfigMap;
use trellis_api::names;
use trellis_config_stream::v1;
use trellis_proxy_config::{ClusterName, Document};

use crate::key::Key;

/// A document that proxies may have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// Place in the order of documents.
    pub version: u64,
    /// What it asks for, in short.
    pub digest: String,
    /// As in the ConfigMap.
    pub json: Vec<u8>,
    /// Clusters whose endpoints a proxy of this document needs.
    pub clusters: Vec<ClusterName>,
}

/// Why a ConfigMap has no document to publish.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The key is missing.
    #[error("failed to find the key {key} in the ConfigMap", key = names::KEY_PROXY_CONFIG)]
    Missing,
    /// It is no document.
    #[error("failed to read the document")]
    Unreadable(#[from] serde_json::Error),
}

/// The Microservice whose document a ConfigMap holds; None if it holds none by its name.
pub fn microservice(object: &ConfigMap) -> Option<Key> {
    let key = Key::of_microservice(object)?;
    let name = names::proxy_config_map(&key.name);
    (object.metadata.name.as_deref() == Some(&*name)).then_some(key)
}

/// The document in a ConfigMap.
///
/// # Errors
/// There is none, or it cannot be read.
pub fn read(object: &ConfigMap) -> Result<Published, Error> {
    let json = object
        .data
        .as_ref()
        .and_then(|data| data.get(names::KEY_PROXY_CONFIG))
        .ok_or(Error::Missing)?;
    let document: Document = serde_json::from_str(json)?;
    Ok(Published {
        version: document.version,
        digest: document.digest,
        json: json.clone().into_bytes(),
        clusters: document.config.clusters.into_keys().collect(),
    })
}

/// What a proxy has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Known {
    /// Version of the document in use, or of the last one that was sent; 0: none.
    pub version: u64,
    /// Its digest.
    pub digest: String,
}

impl Known {
    /// Whether the proxy lacks this document.
    pub fn lacks(&self, published: &Published) -> bool {
        published.version > self.version && published.digest != self.digest
    }

    /// Notes that the document was sent.
    pub fn sent(&mut self, published: &Published) {
        self.version = published.version;
        self.digest.clone_from(&published.digest);
    }
}

impl Published {
    /// The message.
    pub fn message(&self) -> v1::SubscribeResponse {
        let document = v1::Document {
            version: self.version,
            digest: self.digest.clone(),
            json: self.json.clone(),
        };
        v1::SubscribeResponse {
            message: Some(v1::subscribe_response::Message::Document(document)),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn config_map(name: &str, document: &Value) -> ConfigMap {
        serde_json::from_value(json!({
            "metadata": {"namespace": "shop", "name": name, "labels": {"trellis.dev/microservice": "order"}},
            "data": {"proxy.json": document.to_string()},
        }))
        .unwrap()
    }

    fn published(version: u64, digest: &str) -> Published {
        Published {
            version,
            digest: digest.to_owned(),
            json: Vec::new(),
            clusters: Vec::new(),
        }
    }

    #[test]
    fn a_document_is_published_as_it_is_stored_with_its_clusters() {
        let document = json!({
            "apiVersion": "proxy.trellis.dev/v1", "version": 7, "digest": "abc", "later": true,
            "config": {
                "role": "Sidecar", "identity": {"namespace": "shop", "microservice": "order"},
                "clusters": {"shop/user/http": {"protocol": "Http1"}},
            },
        });
        let object = config_map("order-proxy", &document);
        assert_eq!(microservice(&object), Some(Key::new("shop", "order")));
        let published = read(&object).unwrap();
        assert_eq!((published.version, &*published.digest), (7, "abc"));
        assert_eq!(published.clusters, ["shop/user/http".parse().unwrap()]);
        assert!(String::from_utf8(published.json).unwrap().contains("later"));
    }

    #[test]
    fn another_config_map_of_the_microservice_is_no_document() {
        assert_eq!(microservice(&config_map("order-config", &json!({}))), None);
        assert!(read(&config_map("order-proxy", &json!({}))).is_err());
    }

    #[test]
    fn only_a_newer_and_different_document_is_sent() {
        let mut known = Known {
            version: 7,
            digest: "abc".to_owned(),
        };
        assert!(
            !known.lacks(&published(6, "old")),
            "an older one never replaces a newer one"
        );
        assert!(!known.lacks(&published(8, "abc")), "the same under a new number");
        assert!(known.lacks(&published(8, "new")));
        known.sent(&published(8, "new"));
        assert!(!known.lacks(&published(8, "new")));
        assert!(Known::default().lacks(&published(1, "abc")));
    }
}
