//! What Pod Security `restricted` asks of every pod and container.

use k8s_openapi::api::core::v1::{Capabilities, PodSecurityContext, SeccompProfile, SecurityContext};
use trellis_api::microservice;

/// User and group of the proxy's image.
const PROXY_USER: i64 = 65532;

/// Of the pod.
pub(super) fn pod(fs_group: Option<i64>) -> PodSecurityContext {
    PodSecurityContext {
        run_as_non_root: Some(true),
        seccomp_profile: Some(seccomp()),
        fs_group,
        // Without it, every start walks through every file of the volumes.
        fs_group_change_policy: fs_group.map(|_| "OnRootMismatch".to_owned()),
        ..Default::default()
    }
}

/// Of the app.
pub(super) fn app(security: &microservice::SecurityContext) -> SecurityContext {
    SecurityContext {
        run_as_user: security.run_as_user,
        run_as_group: security.run_as_group,
        read_only_root_filesystem: Some(security.read_only_root_filesystem.unwrap_or(true)),
        ..restricted()
    }
}

/// Of the proxy.
pub(super) fn proxy() -> SecurityContext {
    SecurityContext {
        run_as_user: Some(PROXY_USER),
        run_as_group: Some(PROXY_USER),
        read_only_root_filesystem: Some(true),
        ..restricted()
    }
}

fn restricted() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        capabilities: Some(Capabilities {
            drop: Some(vec!["ALL".to_owned()]),
            add: None,
        }),
        run_as_non_root: Some(true),
        seccomp_profile: Some(seccomp()),
        ..Default::default()
    }
}

fn seccomp() -> SeccompProfile {
    SeccompProfile {
        type_: "RuntimeDefault".to_owned(),
        localhost_profile: None,
    }
}
