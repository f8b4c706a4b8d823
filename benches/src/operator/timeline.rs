//! What the audit log says about each Microservice.
//!
//! | figure | from | to |
//! |---|---|---|
//! | apply to last child | the API server receives the Microservice | it has answered the operator's last create of a child |
//! | Deployment to ReplicaSet | it has answered the operator's create | it has answered the Deployment controller's |
//! | plain client | the client sends its first write | it has the answer to its last |
//!
//! The first two are on one clock, the API server's. "In the API server" is the part of the first that the operator waited for
//! answers: no operator that writes one after the other can have less.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use trellis_testkit::control_plane::User;

use super::{
    audit::Write,
    microservices::{self, NAMESPACE},
};
use crate::statistics::Times;

/// When each Microservice was applied.
pub fn applied(log: &[Write]) -> BTreeMap<&str, Timestamp> {
    log.iter()
        .filter(|write| write.user() == User::Test.name())
        .filter(|write| write.namespace() == NAMESPACE && write.resource() == "microservices")
        .map(|write| (write.name(), write.received))
        .collect()
}

/// Whether this made or changed a child.
pub fn is_child(write: &Write) -> bool {
    let resource = write.resource();
    write.namespace() == NAMESPACE
        && !resource.starts_with("microservices")
        && resource != "events"
        && !write.refused()
        && write.verb != "delete"
}

/// How many objects these writes are about.
pub fn distinct(children: &[&Write]) -> usize {
    let objects: BTreeSet<(String, &str)> = children
        .iter()
        .map(|write| (write.resource(), write.name()))
        .collect();
    objects.len()
}

/// For each Microservice: from its apply to the end of the last create of a child, and how much of that its writes took in the
/// API server.
pub fn last_child(created: &BTreeMap<&str, Timestamp>, children: &[&Write]) -> Vec<(Duration, Duration)> {
    let mut by_owner = BTreeMap::<&str, Vec<&Write>>::new();
    for child in children.iter().filter(|child| child.created()) {
        if let Some(owner) = microservices::of(child.name()) {
            by_owner.entry(owner).or_default().push(child);
        }
    }
    created
        .iter()
        .filter_map(|(owner, begin)| {
            let writes = by_owner.get(owner)?;
            let end = writes.iter().map(|write| write.done).max()?;
            let in_api_server = writes.iter().map(|write| write.took()).sum();
            Some((end.duration_since(*begin).unsigned_abs(), in_api_server))
        })
        .collect()
}

/// From each Deployment that the operator made to its first ReplicaSet.
pub fn replica_sets(log: &[Write], children: &[&Write]) -> Times {
    let mut first = BTreeMap::<&str, Timestamp>::new();
    let of_controller = log
        .iter()
        .filter(|write| write.user() == User::ControllerManager.name() && write.created())
        .filter(|write| write.namespace() == NAMESPACE && write.resource() == "replicasets");
    for write in of_controller {
        if let Some(owner) = microservices::of(write.name()) {
            first.entry(owner).or_insert(write.done);
        }
    }
    children
        .iter()
        .filter(|write| write.created() && write.resource() == "deployments")
        .filter_map(|write| Some(first.get(write.name())?.duration_since(write.done).unsigned_abs()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operator::audit::tests::write;

    #[test]
    fn the_last_child_is_the_last_that_was_created() {
        let operator = User::Operator.name();
        let log = [
            write(
                User::Test.name(),
                "patch",
                "microservices",
                "m00000",
                201,
                1000,
                1010,
            ),
            write(
                operator,
                "patch",
                "microservices/status",
                "m00000",
                200,
                1015,
                1020,
            ),
            write(operator, "patch", "services", "m00000", 201, 1020, 1030),
            write(operator, "patch", "services", "m00000-headless", 201, 1030, 1050),
            write(operator, "patch", "deployments", "m00000", 201, 1050, 1100),
            write(
                User::ControllerManager.name(),
                "create",
                "replicasets",
                "m00000-abc",
                201,
                1120,
                1140,
            ),
            // Changes a child that is there already.
            write(operator, "patch", "deployments", "m00000", 200, 2000, 2010),
        ];
        let children: Vec<&Write> = log
            .iter()
            .filter(|write| write.user() == operator && is_child(write))
            .collect();
        assert_eq!(distinct(&children), 3);
        let last = last_child(&applied(&log), &children);
        assert_eq!(last, [(Duration::from_millis(100), Duration::from_millis(80))]);
        let peer = replica_sets(&log, &children).percentiles().unwrap();
        assert_eq!((peer.count, peer.max), (1, 40.0));
    }
}
