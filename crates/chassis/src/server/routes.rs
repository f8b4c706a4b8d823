//! A router that remembers its routes, so that a test can compare them with the OpenAPI document.
//!
//! axum's router cannot be asked what it routes; a table beside it would drift. Here the declaration is
//! both.

use axum::Router;
use axum::handler::Handler;
use axum::routing::{MethodFilter, on};
use http::Method;

/// Routes of a service with state `S`.
#[derive(Debug)]
pub struct Routes<S> {
    router: Router<S>,
    declared: Vec<(Method, &'static str)>,
}

impl<S: Clone + Send + Sync + 'static> Default for Routes<S> {
    fn default() -> Self {
        Self {
            router: Router::new(),
            declared: Vec::new(),
        }
    }
}

impl<S: Clone + Send + Sync + 'static> Routes<S> {
    /// No routes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Answers `GET path`, with the path as the OpenAPI document spells it.
    pub fn get<H: Handler<T, S>, T: 'static>(self, path: &'static str, handler: H) -> Self {
        self.on(Method::GET, MethodFilter::GET, path, handler)
    }

    /// Answers `POST path`.
    pub fn post<H: Handler<T, S>, T: 'static>(self, path: &'static str, handler: H) -> Self {
        self.on(Method::POST, MethodFilter::POST, path, handler)
    }

    /// Answers `PUT path`.
    pub fn put<H: Handler<T, S>, T: 'static>(self, path: &'static str, handler: H) -> Self {
        self.on(Method::PUT, MethodFilter::PUT, path, handler)
    }

    /// Answers `DELETE path`.
    pub fn delete<H: Handler<T, S>, T: 'static>(self, path: &'static str, handler: H) -> Self {
        self.on(Method::DELETE, MethodFilter::DELETE, path, handler)
    }

    /// Every route in the order of its declaration.
    pub fn declared(&self) -> &[(Method, &'static str)] {
        &self.declared
    }

    /// The router.
    pub fn with_state(self, state: S) -> Router {
        self.router.with_state(state)
    }

    fn on<H, T>(mut self, method: Method, filter: MethodFilter, path: &'static str, handler: H) -> Self
    where
        H: Handler<T, S>,
        T: 'static,
    {
        // The path of a request arrives without its trailing slash (see `observe`).
        let routed = if path == "/" {
            path
        } else {
            path.trim_end_matches('/')
        };
        self.router = self.router.route(routed, on(filter, handler));
        self.declared.push((method, path));
        self
    }
}
