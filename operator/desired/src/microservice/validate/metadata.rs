//! `metadata.name`: every child is named after it.

use trellis_api::{Microservice, names};

use super::Problems;
use crate::syntax;

pub(super) fn check(cr: &Microservice, problems: &mut Problems) {
    let name = cr.metadata.name.as_deref().unwrap_or_default();
    if !syntax::is_microservice_name(name) {
        problems.error(
            "metadata.name",
            format!(
                "{name:?} cannot name Services: use at most {} characters of a-z, 0-9 and '-', start with a letter and \
                 end with a letter or digit",
                syntax::MICROSERVICE_NAME_MAX
            ),
        );
    }
    if let Some(other) = name.strip_suffix(names::HEADLESS_SUFFIX) {
        problems.error(
            "metadata.name",
            format!(
                "{name:?} is the name of the headless Service of a Microservice {other:?}: choose a name that does not \
                 end with {}",
                names::HEADLESS_SUFFIX
            ),
        );
    }
}
