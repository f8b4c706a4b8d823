//! A service or a gateway: what belongs to the one is a fault in the other.

use trellis_api::MicroserviceSpec;

use super::Problems;
use crate::syntax;

pub(super) fn check(spec: &MicroserviceSpec, problems: &mut Problems) {
    match (&spec.image, &spec.gateway) {
        (Some(_), Some(_)) => problems.error(
            "spec",
            "spec.image and spec.gateway are both set: keep image for a service, or gateway for a gateway",
        ),
        (None, None) => problems.error(
            "spec",
            "neither spec.image nor spec.gateway is set: give a service its image, or describe a gateway",
        ),
        (Some(image), None) => check_image(image, problems),
        (None, Some(_)) => check_gateway_has_no_app(spec, problems),
    }
}

fn check_image(image: &str, problems: &mut Problems) {
    if image.len() > 1024 || !syntax::is_image(image) {
        problems.error(
            "spec.image",
            format!(
                "{image:?} is no image: write it as registry.example/shop/order:1.4.2, the path in lower case"
            ),
        );
    }
}

fn check_gateway_has_no_app(spec: &MicroserviceSpec, problems: &mut Problems) {
    let of_an_app = [
        ("command", !spec.command.is_empty()),
        ("args", !spec.args.is_empty()),
        ("ports", !spec.ports.is_empty()),
        ("env", !spec.env.is_empty()),
        ("envFrom", !spec.env_from.is_empty()),
        ("bindings", !spec.bindings.is_empty()),
        ("dependsOn", !spec.depends_on.is_empty()),
        ("probes", spec.probes.is_some()),
        ("securityContext", spec.security_context.is_some()),
        (
            "automountServiceAccountToken",
            spec.automount_service_account_token,
        ),
        ("tokenAudiences", !spec.token_audiences.is_empty()),
        ("preStopDelay", spec.pre_stop_delay.is_some()),
        ("exposure", spec.exposure.is_some()),
        ("routes", !spec.routes.is_empty()),
    ];
    for (field, _) in of_an_app.into_iter().filter(|(_, set)| *set) {
        let instead = match field {
            "ports" => "a gateway listens on spec.gateway.listeners",
            "routes" => "a gateway serves the routes of other Microservices (spec.gateway.routes)",
            _ => "a gateway is the proxy itself, without an app",
        };
        problems.error(
            format!("spec.{field}"),
            format!("does not go with spec.gateway: {instead}; remove it"),
        );
    }
}
