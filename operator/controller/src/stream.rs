//! The configuration stream: documents and endpoints to proxies, from every replica of the operator.
//!
//! ```text
//! ConfigMap watch ------> index --(watch channel per document)---> session --> proxy
//! EndpointSlice watch --> index --(watch channel per cluster)---/     |
//!                                              status <-- pass <-- answers (ACK, NACK)
//! ```
//!
//! The ConfigMap is the one truth: the leader writes it, every replica streams what its watch shows of it. So it does not
//! matter which replica a proxy reaches, and a proxy never sees a document that a restart would take away again.
//! Versions only grow ([`trellis_proxy_config::Document::version`]); a session sends nothing older than what the proxy
//! says it has.
//!
//! Only the leader writes statuses, so the other replicas report to it what their proxies said.
//!
//! Guarantees: a proxy gets documents and endpoints of its own Microservice's document only, after it has proved by a
//! token that it runs under its ServiceAccount, and speaks for no pod but the one that the token was made for; a slow proxy skips states and never holds up others (channels hold the
//! newest value, not a history); nothing is served before the caches are complete, so "no endpoints" means that.

pub mod answers;
pub mod document;
pub mod endpoints;
pub mod index;
mod places;
pub mod report;
pub mod server;
mod session;
