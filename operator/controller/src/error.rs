//! Errors as people read them, in logs and in statuses.

use std::error::Error;

use kube::runtime::watcher;
use trellis_operator_desired::microservice::FieldFault;

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

/// What the API server said of fields of an object that it refuses for what it is (422) or for who asks (403); None if
/// another try may succeed.
pub fn refusal(error: &kube::Error) -> Option<Vec<FieldFault>> {
    let kube::Error::Api(status) = error else {
        return None;
    };
    if !matches!(status.code, 403 | 422) {
        return None;
    }
    let causes = status.details.iter().flat_map(|details| &details.causes);
    let fields = causes.map(|cause| FieldFault {
        field: cause.field.clone(),
        message: cause.message.clone(),
    });
    Some(fields.collect())
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
    fn what_the_api_server_refuses_for_good_is_told_from_what_another_try_may_get() {
        let answer = |code: u16| {
            let answer = json!({
                "status": "Failure", "code": code, "reason": "x", "message": "y",
                "details": {"causes": [{
                    "reason": "FieldValueInvalid", "field": "spec.ports[0].nodePort",
                    "message": "Invalid value: 30080: provided port is already allocated",
                }]},
            });
            kube::Error::Api(Box::new(serde_json::from_value(answer).unwrap()))
        };
        for code in [403, 422] {
            let fields = refusal(&answer(code)).unwrap();
            assert_eq!(fields[0].field, "spec.ports[0].nodePort");
            assert!(fields[0].message.starts_with("Invalid value: 30080: "));
        }
        for code in [404, 409, 429, 500, 503, 504] {
            assert_eq!(refusal(&answer(code)), None, "{code}");
        }
        assert_eq!(refusal(&kube::Error::TlsRequired), None);
    }

    #[test]
    fn a_namespace_on_its_way_out_is_told_from_other_refusals() {
        let Apply(error) = refused();
        assert!(is_namespace_terminating(&error));
        assert!(!is_namespace_terminating(&kube::Error::TlsRequired));
    }
}
