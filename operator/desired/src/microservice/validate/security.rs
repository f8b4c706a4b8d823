//! `spec.securityContext`: nobody is root.

use trellis_api::MicroserviceSpec;

use super::Problems;

pub(super) fn check(spec: &MicroserviceSpec, problems: &mut Problems) {
    let Some(security) = &spec.security_context else {
        return;
    };
    for (field, value) in [
        ("runAsUser", security.run_as_user),
        ("runAsGroup", security.run_as_group),
        ("fsGroup", security.fs_group),
    ] {
        let field = format!("spec.securityContext.{field}");
        match value {
            Some(0) => problems.error(
                field,
                "0 is root, which Pod Security restricted refuses: use a numeric user of the image, for example 65532",
            ),
            // The kernel's ids are 32 bits wide, and Kubernetes takes half of them.
            Some(id) if !(1..=i64::from(i32::MAX)).contains(&id) => {
                problems.error(field, format!("{id} is out of range: use 1 to {}", i32::MAX));
            }
            _ => {}
        }
    }
}
