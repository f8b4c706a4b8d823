//! Endpoints: the addresses behind a cluster. They change with every pod and so are no part of the document.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// One address of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Endpoint {
    /// Where the endpoint's proxy listens.
    pub address: SocketAddr,
}

/// All endpoints of a cluster that may get requests now: ready and not terminating.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Endpoints {
    /// Sorted, without duplicates.
    pub endpoints: Vec<Endpoint>,
}

impl FromIterator<SocketAddr> for Endpoints {
    fn from_iter<I: IntoIterator<Item = SocketAddr>>(addresses: I) -> Self {
        let mut endpoints: Vec<Endpoint> = addresses
            .into_iter()
            .map(|address| Endpoint { address })
            .collect();
        endpoints.sort();
        endpoints.dedup();
        Self { endpoints }
    }
}
