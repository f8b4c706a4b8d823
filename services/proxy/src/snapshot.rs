//! What the proxy runs by: a document, compiled.
//!
//! ```text
//! Document --validate--> ValidDocument --compile--> Snapshot --ArcSwap--> every new request
//! ```
//!
//! A snapshot is never changed. Requests hold the parts they use, so a request that began under one document ends under
//! it. Clusters that did not change are carried over, with their connections.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt,
    net::SocketAddr,
    sync::Arc,
};

use trellis_proxy_config::{
    Cluster as ClusterSettings, ClusterName, Document, Inbound, Listener as ListenerSettings, ListenerKind,
    Route as RouteSettings, ValidDocument, path,
};
use trellis_resilience::bulkhead::{self, layer::SharedBulkhead};

use crate::{
    cluster::Cluster,
    limits::{self, Limits},
    outbound,
    path_table::PathTable,
    route::{Labels, Methods, Route},
};

/// Where a document came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Source {
    /// The file that Kubernetes mounts.
    File,
    /// The copy that the proxy made of what it ran by before it was restarted.
    LastGood,
    /// The operator.
    Stream,
}

/// A document, compiled.
#[derive(Debug)]
pub(crate) struct Snapshot {
    /// The document itself.
    pub(crate) document: Document,
    /// Where it came from.
    pub(crate) source: Source,
    /// What each port serves.
    pub(crate) listeners: Vec<Arc<Listener>>,
    /// Where requests of the app go, by host.
    pub(crate) outbound: HashMap<Box<str>, Arc<Route>>,
    /// All clusters of other pods.
    pub(crate) clusters: BTreeMap<ClusterName, Arc<Cluster>>,
    /// How much comes in, by all listeners together.
    pub(crate) limits: Arc<Limits>,
}

/// What a port serves.
#[derive(Debug)]
pub(crate) struct Listener {
    /// Port to listen on.
    pub(crate) port: u16,
    /// Names for requests that no route takes.
    pub(crate) labels: Labels,
    /// Where its requests go.
    pub(crate) serves: Serves,
    /// The gateways in front of the service: what they say about callers is believed.
    pub(crate) gateways: Vec<Arc<Cluster>>,
    /// How much comes in.
    pub(crate) limits: Arc<Limits>,
    /// How much of it the app works on at once.
    pub(crate) bulkhead: Option<SharedBulkhead>,
}

/// Where the requests of a listener go.
#[derive(Debug)]
pub(crate) enum Serves {
    /// To the app in the same pod.
    App(Arc<Route>),
    /// By path.
    Paths(PathTable),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::File => "file",
            Self::LastGood => "last good",
            Self::Stream => "stream",
        })
    }
}

impl Snapshot {
    /// Compiles a document. What `previous` has in common with it is kept; endpoints known of new clusters are put in.
    ///
    /// # Errors
    /// Every fault that only compiling shows, with its path.
    pub(crate) fn compile(
        document: &ValidDocument,
        source: Source,
        previous: Option<&Self>,
        known: impl Fn(&ClusterName) -> Option<Vec<SocketAddr>>,
    ) -> Result<Self, Vec<String>> {
        let document = document.document().clone();
        let config = &document.config;
        let service: Arc<str> =
            format!("{}/{}", config.identity.namespace, config.identity.microservice).into();
        let clusters: BTreeMap<ClusterName, Arc<Cluster>> = config
            .clusters
            .iter()
            .map(|(name, settings)| (name.clone(), cluster(name, settings, previous, &known)))
            .collect();

        // Validation has found every cluster.
        let gateways: Vec<Arc<Cluster>> = config
            .gateways
            .iter()
            .filter_map(|name| clusters.get(name).cloned())
            .collect();

        let mut faults = Vec::new();
        let before = previous.map(|previous| &*previous.limits);
        let limits = Limits::compile(&config.limits, before, &mut faults);
        let mut listeners = Vec::new();
        for (i, listener) in config.listeners.iter().enumerate() {
            let labels = Labels {
                service: Arc::clone(&service),
                route: listener.name.as_str().into(),
            };
            let serves = match &listener.kind {
                ListenerKind::Inbound(inbound) => {
                    let app = app(&listener.name, inbound, listener.port, previous);
                    Serves::App(Arc::new(Route::all(labels.clone(), app)))
                }
                ListenerKind::Gateway { routes } => {
                    let at = format!("config.listeners[{i}].gateway.routes");
                    Serves::Paths(paths(routes, &clusters, &at, &mut faults))
                }
            };
            // A gateway's requests without a route belong to the gateway itself.
            let unmatched = Labels {
                service: Arc::clone(&service),
                route: trellis_chassis::metrics::UNMATCHED.into(),
            };
            let labels = if matches!(serves, Serves::App(_)) {
                labels
            } else {
                unmatched
            };
            listeners.push(Arc::new(Listener {
                port: listener.port,
                bulkhead: bulkhead(listener, previous),
                labels,
                serves,
                gateways: gateways.clone(),
                limits: Arc::clone(&limits),
            }));
        }
        let outbound = by_host(&document, &clusters);
        if faults.is_empty() {
            Ok(Self {
                document,
                source,
                listeners,
                outbound,
                clusters,
                limits,
            })
        } else {
            Err(faults)
        }
    }

    /// Every name that a request may have in logs and metrics.
    pub(crate) fn names(&self) -> HashSet<Labels> {
        let unmatched = outbound::unmatched();
        let listeners = self.listeners.iter().flat_map(|listener| {
            let routes = match &listener.serves {
                Serves::App(route) => vec![&route.labels],
                Serves::Paths(table) => table.labels(),
            };
            routes.into_iter().chain([&listener.labels])
        });
        let outbound = self.outbound.values().map(|route| &route.labels);
        listeners.chain(outbound).chain([&unmatched]).cloned().collect()
    }

    /// Lets limits, bulkheads and clusters that were carried over take what the document says about them, and finds for all clusters those
    /// that answer instead. To be called once the snapshot is in use.
    pub(crate) fn settle(&self) {
        self.limits.settle(limits::now());
        for (listener, settings) in self.listeners.iter().zip(&self.document.config.listeners) {
            if let (Some(bulkhead), Some(settings)) = (&listener.bulkhead, bulkhead_settings(settings)) {
                bulkhead.reconfigure(settings.clone());
            }
        }
        for (name, settings) in &self.document.config.clusters {
            if let Some(cluster) = self.clusters.get(name) {
                cluster.set_policies(settings, |other| self.clusters.get(other));
            }
        }
    }

    /// Closes connections that have been idle for too long.
    pub(crate) fn sweep(&self) {
        let apps = self
            .listeners
            .iter()
            .filter_map(|listener| match &listener.serves {
                Serves::App(route) => Some(&route.cluster),
                Serves::Paths(_) => None,
            });
        for cluster in self.clusters.values().chain(apps) {
            cluster.sweep();
        }
    }
}

fn cluster(
    name: &ClusterName,
    settings: &ClusterSettings,
    previous: Option<&Snapshot>,
    known: impl Fn(&ClusterName) -> Option<Vec<SocketAddr>>,
) -> Arc<Cluster> {
    let before = previous.and_then(|previous| previous.clusters.get(name));
    if let Some(same) = before.filter(|before| before.is(settings)) {
        return Arc::clone(same);
    }
    let cluster = Cluster::new(&name.to_string(), settings);
    if let Some(addresses) = known(name) {
        cluster.replace(&addresses);
    }
    Arc::new(cluster)
}

fn app(name: &str, inbound: &Inbound, port: u16, previous: Option<&Snapshot>) -> Arc<Cluster> {
    let before =
        previous
            .iter()
            .flat_map(|previous| &previous.listeners)
            .find_map(|listener| match &listener.serves {
                Serves::App(route) if listener.port == port => Some(&route.cluster),
                _ => None,
            });
    let address = SocketAddr::from(([127, 0, 0, 1], inbound.app_port));
    let same =
        before.filter(|before| before.protocol() == inbound.protocol && before.addresses() == [address]);
    same.map_or_else(
        || Arc::new(Cluster::app(name, inbound.app_port, inbound.protocol)),
        Arc::clone,
    )
}

/// The bulkhead in front of the app. The one of the same port goes on, with who is in and who waits.
fn bulkhead(listener: &ListenerSettings, previous: Option<&Snapshot>) -> Option<SharedBulkhead> {
    let settings = bulkhead_settings(listener)?;
    let before = previous
        .iter()
        .flat_map(|previous| &previous.listeners)
        .find(|before| before.port == listener.port)
        .and_then(|before| before.bulkhead.clone());
    Some(before.unwrap_or_else(|| SharedBulkhead::new(settings.clone())))
}

fn bulkhead_settings(listener: &ListenerSettings) -> Option<&bulkhead::Settings> {
    match &listener.kind {
        ListenerKind::Inbound(inbound) => inbound.bulkhead.as_ref(),
        ListenerKind::Gateway { .. } => None,
    }
}

fn paths(
    routes: &[RouteSettings],
    clusters: &BTreeMap<ClusterName, Arc<Cluster>>,
    at: &str,
    faults: &mut Vec<String>,
) -> PathTable {
    let mut table = PathTable::default();
    for (i, settings) in routes.iter().enumerate() {
        // Validation has found every cluster.
        let Some(cluster) = clusters.get(&settings.cluster) else {
            continue;
        };
        let route = Route {
            labels: Labels {
                service: service_of(&settings.cluster),
                route: settings.name.as_str().into(),
            },
            cluster: Arc::clone(cluster),
            methods: Methods::new(&settings.methods),
            rewrite: settings.rewrite,
            depth: path::elements(&settings.path).count(),
        };
        if let Err(ambiguity) = table.insert(settings.origin, &settings.path, route) {
            faults.push(format!("{at}[{i}].path: {}", ambiguity.detail()));
        }
    }
    table
}

fn by_host(
    document: &Document,
    clusters: &BTreeMap<ClusterName, Arc<Cluster>>,
) -> HashMap<Box<str>, Arc<Route>> {
    let mut hosts = HashMap::new();
    for settings in &document.config.outbound {
        let Some(cluster) = clusters.get(&settings.cluster) else {
            continue;
        };
        let labels = Labels {
            service: service_of(&settings.cluster),
            route: Arc::clone(&cluster.name),
        };
        let route = Arc::new(Route::all(labels, Arc::clone(cluster)));
        hosts.extend(
            settings
                .hosts
                .iter()
                .map(|host| (host.as_str().into(), Arc::clone(&route))),
        );
    }
    hosts
}

fn service_of(cluster: &ClusterName) -> Arc<str> {
    format!("{}/{}", cluster.namespace, cluster.microservice).into()
}
