//! Who may do what with runs.
//!
//! Callers prove who they are by a ServiceAccount token with audience `trellis-saga`. A service may start, look at and wait for runs of the
//! sagas of its own namespace. Everything else is asked of the API server (SubjectAccessReview), as a verb on `sagas/runs` of group
//! `trellis.dev` in the saga's namespace: `create` to start, `get` and `list` to look, `update` to intervene.

use std::time::Duration;

use http::HeaderMap;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::api::PostParams;
use kube::{Api, Client, Config};
use tokio::sync::OnceCell;
use tokio::time;
use tonic::metadata::MetadataMap;
use trellis_api::names::SAGA_TOKEN_AUDIENCE;
use trellis_kube::caller::{self, Authenticator, Caller};

/// Longest wait for a review.
const REVIEW: Duration = Duration::from_secs(5);

/// Finds out who may do what.
#[derive(Default)]
pub struct Access(OnceCell<Reviewers>);

/// Those who know.
struct Reviewers {
    authenticator: Authenticator,
    reviews: Api<SubjectAccessReview>,
}

/// What somebody wants to do with runs of a namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// Start one.
    Start,
    /// Look at one, or wait for it.
    Look,
    /// List them.
    List,
    /// Retry, skip, cancel, force.
    Intervene,
}

/// Why somebody may not.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is not known who it is.
    #[error(transparent)]
    Unknown(#[from] caller::Error),
    /// It is known, and not allowed.
    #[error("{who} may not {verb} sagas/runs in namespace {namespace}: bind it to a role with that verb")]
    Denied {
        /// Who.
        who: String,
        /// The verb of Kubernetes.
        verb: &'static str,
        /// The namespace.
        namespace: String,
    },
    /// The API server could not be asked.
    #[error("failed to find out whether that is allowed")]
    Review(#[source] kube::Error),
    /// It is not known where the API server is.
    #[error("failed to find the API server; set KUBECONFIG or run in a pod")]
    NoApiServer(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// It did not answer in time.
    #[error("failed to find out in time whether that is allowed")]
    Late,
}

impl Wish {
    const fn verb(self) -> &'static str {
        match self {
            Self::Start => "create",
            Self::Look => "get",
            Self::List => "list",
            Self::Intervene => "update",
        }
    }
}

impl Reviewers {
    async fn find() -> Result<Self, Error> {
        let config = Config::infer()
            .await
            .map_err(|error| Error::NoApiServer(error.into()))?;
        let client = Client::try_from(config).map_err(|error| Error::NoApiServer(error.into()))?;
        Ok(Self {
            authenticator: Authenticator::new(client.clone(), SAGA_TOKEN_AUDIENCE),
            reviews: Api::all(client),
        })
    }
}

impl Access {
    /// Who calls. Nothing is looked up for somebody who is not known.
    ///
    /// # Errors
    /// That could not be found out.
    pub async fn caller(&self, headers: &HeaderMap) -> Result<Caller, Error> {
        let reviewers = self.0.get_or_try_init(Reviewers::find).await?;
        let metadata = MetadataMap::from_headers(headers.clone());
        Ok(reviewers.authenticator.caller(&metadata).await?)
    }

    /// The name of a caller, if they may.
    ///
    /// # Errors
    /// They may not, or that could not be found out.
    pub async fn allow(&self, caller: &Caller, wish: Wish, namespace: &str) -> Result<String, Error> {
        let reviewers = self.0.get_or_try_init(Reviewers::find).await?;
        let Caller {
            namespace: own,
            account,
            ..
        } = caller;
        let who = format!("system:serviceaccount:{own}:{account}");
        if *own == namespace && wish != Wish::Intervene {
            return Ok(who);
        }
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: Some(who.clone()),
                groups: Some(vec![
                    "system:authenticated".to_owned(),
                    "system:serviceaccounts".to_owned(),
                    format!("system:serviceaccounts:{own}"),
                ]),
                resource_attributes: Some(ResourceAttributes {
                    group: Some("trellis.dev".to_owned()),
                    resource: Some("sagas".to_owned()),
                    subresource: Some("runs".to_owned()),
                    verb: Some(wish.verb().to_owned()),
                    namespace: Some(namespace.to_owned()),
                    ..ResourceAttributes::default()
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let parameters = PostParams::default();
        let asked = time::timeout(REVIEW, reviewers.reviews.create(&parameters, &review)).await;
        let answer = asked.map_err(|_| Error::Late)?.map_err(Error::Review)?;
        if answer.status.is_some_and(|status| status.allowed) {
            return Ok(who);
        }
        Err(Error::Denied {
            who,
            verb: wish.verb(),
            namespace: namespace.to_owned(),
        })
    }
}
