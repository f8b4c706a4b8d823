//! Which policies there are.

use std::collections::HashSet;

use kube::api::{ListParams, PartialObjectMeta};
use kube::{Api, Client, ResourceExt as _};
use trellis_api::RateLimitPolicy;

/// Lists the uids of all policies as they are now.
///
/// # Errors
/// The API server's.
pub async fn list(client: &Client) -> Result<HashSet<String>, kube::Error> {
    let policies: Api<PartialObjectMeta<RateLimitPolicy>> = Api::all(client.clone());
    let policies = policies.list(&ListParams::default()).await?;
    Ok(policies.iter().filter_map(|policy| policy.uid()).collect())
}
