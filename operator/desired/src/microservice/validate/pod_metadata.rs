//! `spec.podMetadata`: labels and annotations, without those that Trellis and Kubernetes set themselves.

use trellis_api::{MicroserviceSpec, names};

use super::Problems;
use crate::syntax;

/// Labels of which a pod's Deployment or this operator decides.
const RESERVED_LABELS: [&str; 3] = [names::LABEL_NAME, names::LABEL_MANAGED_BY, "pod-template-hash"];
/// Most bytes of all annotations of an object (`TotalAnnotationSizeLimitB`).
const ANNOTATIONS_MAX: usize = 256 * 1024;

pub(super) fn check(spec: &MicroserviceSpec, problems: &mut Problems) {
    let Some(metadata) = &spec.pod_metadata else {
        return;
    };
    for (key, value) in &metadata.labels {
        let field = format!("spec.podMetadata.labels[{key}]");
        check_key(&field, key, problems);
        if RESERVED_LABELS.contains(&key.as_str()) {
            problems.error(
                &field,
                "is set by Trellis or the Deployment: choose another label",
            );
        }
        if !syntax::is_label_text(value) {
            problems.error(
                &field,
                format!(
                    "{value:?} cannot be a label's value: use at most {} letters, digits, '-', '_' and '.', start and \
                     end with a letter or digit; longer texts go into annotations",
                    syntax::LABEL_MAX
                ),
            );
        }
    }
    for key in metadata.annotations.keys() {
        let field = format!("spec.podMetadata.annotations[{key}]");
        check_key(&field, key, problems);
    }
    let size: usize = metadata
        .annotations
        .iter()
        .map(|(key, value)| key.len() + value.len())
        .sum();
    if size > ANNOTATIONS_MAX {
        problems.error(
            "spec.podMetadata.annotations",
            format!("{size} bytes are more than {ANNOTATIONS_MAX}: mount longer texts from a ConfigMap"),
        );
    }
}

fn check_key(field: &str, key: &str, problems: &mut Problems) {
    if key.starts_with(names::ANNOTATION_PREFIX) {
        problems.error(
            field,
            format!(
                "keys under {} belong to Trellis: choose another domain",
                names::ANNOTATION_PREFIX
            ),
        );
    }
    if !syntax::is_qualified_name(&key.to_ascii_lowercase()) {
        problems.error(
            field,
            format!(
                "{key:?} is no key: write it as name or example.org/name, the name with at most 63 characters"
            ),
        );
    }
}
