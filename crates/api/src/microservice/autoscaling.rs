//! `spec.autoscaling`: sugar over a HorizontalPodAutoscaler.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// Keeps the number of pods between `min` and `max` so that their CPU use stays near `cpu` percent of the request.
#[derive(KubeSchema, Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.min <= self.max").message("autoscaling.min must not be greater than autoscaling.max"))]
pub struct Autoscaling {
    /// Fewest pods, at least 1.
    #[schemars(range(min = 1, max = 10000))]
    pub min: i32,
    /// Most pods.
    #[schemars(range(min = 1, max = 10000))]
    pub max: i32,
    /// Wanted CPU use of the app container, in percent of `resources.requests.cpu`, which must be set.
    #[schemars(range(min = 1, max = 1000))]
    pub cpu: i32,
}
