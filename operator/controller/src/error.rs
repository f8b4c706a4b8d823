//! Errors as people read them, in logs and in statuses.

use std::error::Error;

use kube::runtime::watcher;

/// An error with its causes, in one line.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = own_text(error);
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = own_text(cause);
        // Some libraries repeat the cause in their own text, and a transparent error is its cause.
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source().filter(|_| !is_answer(cause));
    }
    text
}

/// Whether the API server refuses because the namespace is on its way out, and everything in it.
pub fn is_namespace_terminating(error: &kube::Error) -> bool {
    let kube::Error::Api(status) = error else {
        return false;
    };
    let causes = status.details.iter().flat_map(|details| &details.causes);
    causes
        .into_iter()
        .any(|cause| cause.reason == "NamespaceTerminating")
}

/// The text of one link; of an answer of the API server its message alone, which names object and reason.
fn own_text(error: &(dyn Error + 'static)) -> String {
    if let Some(kube::Error::Api(status)) = error.downcast_ref()
        && !status.message.is_empty()
    {
        return status.message.clone();
    }
    // Their own texts repeat their causes, with every field.
    match error.downcast_ref() {
        Some(watcher::Error::InitialListFailed(_)) => "failed to list".to_owned(),
        Some(watcher::Error::WatchStartFailed(_)) => "failed to start a watch".to_owned(),
        Some(watcher::Error::WatchError(status)) => format!("the watch was ended: {}", status.message),
        Some(watcher::Error::WatchFailed(_)) => "the watch broke off".to_owned(),
        Some(watcher::Error::NoResourceVersion) | None => error.to_string(),
    }
}

fn is_answer(error: &(dyn Error + 'static)) -> bool {
    matches!(error.downcast_ref(), Some(kube::Error::Api(_)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("failed to apply Service user")]
    struct Apply(#[source] kube::Error);

    fn refused() -> Apply {
        Apply(kube::Error::Api(Box::new(
            serde_json::from_value(json!({
                "status": "Failure", "code": 403, "reason": "Forbidden",
                "message": "services \"user\" is forbidden: unable to create new content in namespace shop because it is being terminated",
                "details": {"causes": [{"reason": "NamespaceTerminating", "message": "namespace shop is being terminated", "field": "metadata.namespace"}]},
            }))
            .unwrap(),
        )))
    }

    #[test]
    fn an_answer_of_the_api_server_is_its_message() {
        assert_eq!(
            chain(&refused()),
            "failed to apply Service user: services \"user\" is forbidden: unable to create new content in namespace shop \
             because it is being terminated"
        );
    }

    #[test]
    fn a_namespace_on_its_way_out_is_told_from_other_refusals() {
        let Apply(error) = refused();
        assert!(is_namespace_terminating(&error));
        assert!(!is_namespace_terminating(&kube::Error::TlsRequired));
    }
}
