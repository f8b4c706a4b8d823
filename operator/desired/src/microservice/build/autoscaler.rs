//! The owner of the number of pods, if the spec asks for one.
//!
//! It measures the one container that does the work (`ContainerResource`), not the pod: the sidecar's share would blur
//! the figure, and a container without a CPU request makes a pod's figure fail altogether.

use k8s_openapi::api::autoscaling::v2::{
    ContainerResourceMetricSource, CrossVersionObjectReference, HorizontalPodAutoscaler,
    HorizontalPodAutoscalerSpec, MetricSpec, MetricTarget,
};
use trellis_api::names::{CONTAINER_APP, CONTAINER_PROXY};

use super::metadata;
use crate::microservice::validated::{Role, Scaling, Validated};

pub(super) fn build(validated: &Validated) -> Option<HorizontalPodAutoscaler> {
    let Scaling::Auto { autoscaling, .. } = &validated.scaling else {
        return None;
    };
    let container = match validated.role {
        Role::Service(_) => CONTAINER_APP,
        Role::Gateway(_) => CONTAINER_PROXY,
    };
    Some(HorizontalPodAutoscaler {
        metadata: metadata::child(validated, &validated.key.name),
        spec: HorizontalPodAutoscalerSpec {
            scale_target_ref: CrossVersionObjectReference {
                api_version: Some("apps/v1".to_owned()),
                kind: "Deployment".to_owned(),
                name: validated.key.name.clone(),
            },
            min_replicas: Some(autoscaling.min),
            max_replicas: autoscaling.max,
            metrics: Some(vec![MetricSpec {
                type_: "ContainerResource".to_owned(),
                container_resource: Some(ContainerResourceMetricSource {
                    container: container.to_owned(),
                    name: "cpu".to_owned(),
                    target: MetricTarget {
                        type_: "Utilization".to_owned(),
                        average_utilization: Some(autoscaling.cpu),
                        ..Default::default()
                    },
                }),
                ..Default::default()
            }]),
            ..Default::default()
        },
        status: None,
    })
}
