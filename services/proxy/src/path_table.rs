//! The routes of a gateway listener, by path.
//!
//! A tree with a node per path element: matching takes as many steps as the path has elements, however many routes there
//! are. The longest match wins; of equal paths declared routes win over the one made for the service. Declared routes of
//! one path share it out by method.

use std::{collections::HashMap, slice, sync::Arc};

use trellis_proxy_config::{
    Origin,
    path::{self, Ambiguity},
};

use crate::route::{Labels, Route};

/// Routes by path.
#[derive(Debug, Default)]
pub(crate) struct PathTable(Node);

#[derive(Debug, Default)]
struct Node {
    declared: Vec<Arc<Route>>,
    by_service: Option<Arc<Route>>,
    below: HashMap<Box<str>, Self>,
}

impl PathTable {
    /// Adds a route. `Err` if its path is one that no request may have.
    pub(crate) fn insert(&mut self, origin: Origin, path: &str, route: Route) -> Result<(), Ambiguity> {
        let mut node = &mut self.0;
        for element in path::elements(path) {
            node = node
                .below
                .entry(element?.into_owned().into_boxed_str())
                .or_default();
        }
        match origin {
            Origin::Declared => node.declared.push(Arc::new(route)),
            Origin::ByService => node.by_service = Some(Arc::new(route)),
        }
        Ok(())
    }

    /// The routes with the longest path that `path` starts with; they share it out by method. The whole path is checked,
    /// matched or not.
    pub(crate) fn find(&self, path: &str) -> Result<Option<&[Arc<Route>]>, Ambiguity> {
        let mut best = self.0.routes();
        let mut node = Some(&self.0);
        for element in path::elements(path) {
            let element = element?;
            node = node.and_then(|node| node.below.get(element.as_ref()));
            best = node.and_then(Node::routes).or(best);
        }
        Ok(best)
    }

    /// Names of all routes.
    pub(crate) fn labels(&self) -> Vec<&Labels> {
        let mut labels = Vec::new();
        let mut nodes = vec![&self.0];
        while let Some(node) = nodes.pop() {
            let routes = node.declared.iter().chain(&node.by_service);
            labels.extend(routes.map(|route| &route.labels));
            nodes.extend(node.below.values());
        }
        labels
    }
}

impl Node {
    fn routes(&self) -> Option<&[Arc<Route>]> {
        if self.declared.is_empty() {
            self.by_service.as_ref().map(slice::from_ref)
        } else {
            Some(&self.declared)
        }
    }
}

#[cfg(test)]
mod tests {
    use trellis_proxy_config::{Cluster as Settings, Protocol};

    use super::*;
    use crate::cluster::Cluster;

    fn table(routes: &[(Origin, &str)]) -> PathTable {
        let cluster = Arc::new(Cluster::new("c", &Settings::new(Protocol::Http1, None)));
        let mut table = PathTable::default();
        for (origin, path) in routes {
            let name = format!("{origin:?} {path}");
            let labels = Labels {
                service: "shop/order".into(),
                route: name.into(),
            };
            table
                .insert(*origin, path, Route::all(labels, Arc::clone(&cluster)))
                .unwrap();
        }
        table
    }

    fn found<'a>(table: &'a PathTable, path: &str) -> &'a str {
        table
            .find(path)
            .unwrap()
            .map_or("none", |routes| &*routes[0].labels.route)
    }

    #[test]
    fn the_longest_path_of_whole_elements_wins() {
        let table = table(&[
            (Origin::ByService, "/order"),
            (Origin::Declared, "/orders"),
            (Origin::Declared, "/orders/archive"),
            (Origin::Declared, "/a/b/c"),
        ]);
        for (path, expected) in [
            ("/order", "ByService /order"),
            ("/order/orders/7", "ByService /order"),
            ("/orders", "Declared /orders"),
            ("/orders/", "Declared /orders"),
            ("/orders/7", "Declared /orders"),
            ("/%6frders/7", "Declared /orders"),
            ("/orders/archive", "Declared /orders/archive"),
            ("/orders/archived", "Declared /orders"),
            ("/orders2", "none"),
            ("/Orders", "none"),
            ("/a/b", "none"),
            ("/a/b/c/d", "Declared /a/b/c"),
            ("/", "none"),
        ] {
            assert_eq!(found(&table, path), expected, "{path}");
        }
    }

    #[test]
    fn of_equal_paths_a_declared_route_wins_in_any_order() {
        let one = [(Origin::Declared, "/order/"), (Origin::ByService, "/order")];
        let other = [one[1], one[0]];
        for routes in [one, other] {
            assert_eq!(found(&table(&routes), "/order/x"), "Declared /order/");
        }
    }

    #[test]
    fn a_route_at_the_root_takes_what_nothing_else_does() {
        let table = table(&[(Origin::Declared, "/"), (Origin::Declared, "/orders")]);
        assert_eq!(found(&table, "/"), "Declared /");
        assert_eq!(found(&table, "/x/y"), "Declared /");
        assert_eq!(found(&table, "/orders/1"), "Declared /orders");
    }

    #[test]
    fn an_ambiguous_rest_is_refused_after_a_match_too() {
        let table = table(&[(Origin::ByService, "/order")]);
        assert_eq!(
            table.find("/order/x/%2e%2e/y").unwrap_err(),
            Ambiguity::DotElement
        );
        assert_eq!(table.find("/unknown//x").unwrap_err(), Ambiguity::EmptyElement);
    }
}
