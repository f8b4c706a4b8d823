//! The document that the operator writes and a proxy runs by.
//!
//! It is a published interface: an operator of one release speaks to proxies of another. So it is versioned
//! ([`API_VERSION`]), unknown fields are ignored, new fields are optional, and the documents in `tests/golden/` must
//! be readable for ever.
//!
//! ```text
//! Document            one per Microservice: version, digest, config
//!   Config            what the proxy does: role, listeners, outbound routes, clusters
//! validate            every fault, with its path; a proxy swaps only to a valid document
//! endpoint            addresses of a cluster; not in the document, they come by stream
//! ```
//!
//! **Order of documents.** [`Document::version`] only grows. A proxy that gets documents from a ConfigMap, from its own
//! last-good copy and from two operator replicas takes the one with the highest version and never goes back.
//! [`Document::digest`] says whether two documents ask for the same.

pub mod cluster;
pub mod digest;
pub mod document;
pub mod endpoint;
pub mod limit;
pub mod listener;
pub mod path;
pub mod route;
pub mod validate;

pub use cluster::{Cluster, ClusterName, Fallback, Protocol, StaticAnswer};
pub use document::{API_VERSION, Config, Document, Identity, Quota, Role, Stream};
pub use endpoint::{Endpoint, Endpoints};
pub use limit::RateLimit;
pub use listener::{Inbound, Listener, ListenerKind, OutboundRoute};
pub use route::{Origin, Rewrite, Route};
pub use validate::{Fault, ValidDocument};
