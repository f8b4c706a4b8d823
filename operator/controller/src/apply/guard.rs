//! Whether an object may be touched: pure.
//!
//! Forced server-side apply takes over whatever has the name. So an object is ours only if its controller is the
//! Microservice of this very uid: labels can be copied and names are used again.

use kube::Resource;
use trellis_api::Microservice;

use super::{Error, Owner, child::describe};
use crate::caches::Child;

/// Whether a live object is the owner's.
pub fn is_owned<K: Resource>(owner: &Owner, live: &K) -> bool {
    controller(live).is_some_and(|(_, uid)| uid == owner.uid)
}

/// Ours and here to stay, or why not.
pub fn check<K: Child>(owner: &Owner, live: &K) -> Result<(), Error> {
    let meta = live.meta();
    let child = || describe::<K>(meta.name.as_deref().unwrap_or_default());
    match controller(live) {
        Some((_, uid)) if uid == owner.uid => {
            if meta.deletion_timestamp.is_some() {
                return Err(Error::Leftover { child: child() });
            }
            Ok(())
        }
        // A Microservice of the same name and another uid is gone, and the garbage collector is on its way.
        Some((name, _)) if name == owner.key.name => Err(Error::Leftover { child: child() }),
        _ => Err(Error::NotOwned { child: child() }),
    }
}

/// Name and uid of the Microservice that controls an object.
fn controller<K: Resource>(live: &K) -> Option<(&str, &str)> {
    live.meta()
        .owner_references
        .iter()
        .flatten()
        .find(|owner| owner.controller == Some(true))
        .filter(|owner| {
            owner.kind == Microservice::kind(&()) && owner.api_version == Microservice::api_version(&())
        })
        .map(|owner| (&*owner.name, &*owner.uid))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Service;
    use serde_json::{Value, json};

    use super::*;
    use crate::key::Key;

    fn check_owned_by(owners: Value) -> Result<(), Error> {
        let live: Service = serde_json::from_value(json!({"metadata": {
            "namespace": "shop", "name": "user", "ownerReferences": owners,
        }}))
        .unwrap();
        let owner = Owner {
            key: Key::new("shop", "user"),
            uid: "new".to_owned(),
        };
        check(&owner, &live)
    }

    fn reference(kind: &str, name: &str, uid: &str, controller: bool) -> Value {
        json!({"apiVersion": "trellis.dev/v1alpha1", "kind": kind, "name": name, "uid": uid, "controller": controller})
    }

    #[test]
    fn only_the_controller_of_this_uid_makes_an_object_ours() {
        assert!(check_owned_by(json!([reference("Microservice", "user", "new", true)])).is_ok());
        for foreign in [
            json!([]),
            json!([reference("Microservice", "user", "new", false)]),
            json!([reference("Deployment", "user", "new", true)]),
            json!([reference("Microservice", "order", "other", true)]),
        ] {
            assert!(matches!(check_owned_by(foreign), Err(Error::NotOwned { .. })));
        }
    }

    #[test]
    fn a_child_of_a_deleted_microservice_of_the_same_name_is_waited_for() {
        let result = check_owned_by(json!([reference("Microservice", "user", "old", true)]));
        assert!(matches!(result, Err(Error::Leftover { .. })));
    }
}
