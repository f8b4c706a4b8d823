//! Documents for proxies under test.

use std::net::SocketAddr;

use trellis_proxy_config::{
    Cluster, ClusterName, Config, Document, Identity, Inbound, Listener, ListenerKind, Origin, OutboundRoute,
    Protocol, Rewrite, Role, Route, Stream, cluster::Dns,
};
use trellis_resilience::bulkhead;

/// A document that is put together step by step.
#[derive(Debug, Clone)]
pub struct Builder {
    version: u64,
    config: Config,
}

/// A sidecar of `shop/order`.
pub fn sidecar() -> Builder {
    Builder::new(Role::Sidecar, "order")
}

/// A gateway of `shop`.
pub fn gateway() -> Builder {
    Builder::new(Role::Gateway, "gateway")
}

/// The name of a cluster in `shop`.
pub fn cluster(microservice: &str, port: &str) -> ClusterName {
    ClusterName {
        namespace: "shop".to_owned(),
        microservice: microservice.to_owned(),
        port: port.to_owned(),
    }
}

impl Builder {
    fn new(role: Role, microservice: &str) -> Self {
        Self {
            version: 1,
            config: Config {
                role,
                identity: Identity {
                    namespace: "shop".to_owned(),
                    microservice: microservice.to_owned(),
                },
                stream: None,
                listeners: Vec::new(),
                outbound: Vec::new(),
                gateways: Vec::new(),
                limits: Vec::new(),
                quota: None,
                clusters: Default::default(),
            },
        }
    }

    pub fn version(mut self, version: u64) -> Self {
        self.version = version;
        self
    }

    pub fn stream(mut self, address: SocketAddr) -> Self {
        self.config.stream = Some(Stream {
            address: format!("http://{address}"),
        });
        self
    }

    /// A port that leads to the app.
    pub fn inbound(mut self, port: u16, app: SocketAddr, protocol: Protocol) -> Self {
        let kind = ListenerKind::Inbound(Inbound {
            app_port: app.port(),
            protocol,
            bulkhead: None,
        });
        let name = format!("p{}", self.config.listeners.len());
        self.config.listeners.push(Listener { name, port, kind });
        self
    }

    /// So many requests at once to the app at the last port, and so many that wait.
    pub fn bulkhead(mut self, settings: bulkhead::Settings) -> Self {
        let Some(ListenerKind::Inbound(inbound)) = self.config.listeners.last_mut().map(|it| &mut it.kind)
        else {
            panic!("there is no port yet that leads to the app");
        };
        inbound.bulkhead = Some(settings);
        self
    }

    /// A cluster whose only endpoint DNS knows: whatever listens on `port` of localhost.
    pub fn local_cluster(mut self, name: &ClusterName, port: u16, protocol: Protocol) -> Self {
        let dns = Some(Dns {
            name: "localhost".to_owned(),
            port,
        });
        self.config
            .clusters
            .insert(name.clone(), Cluster::new(protocol, dns));
        self
    }

    /// A cluster, changed.
    pub fn changed(mut self, name: &ClusterName, change: impl FnOnce(&mut Cluster)) -> Self {
        change(self.config.clusters.get_mut(name).unwrap());
        self
    }

    /// A cluster whose endpoints only the stream knows.
    pub fn cluster(mut self, name: &ClusterName, protocol: Protocol) -> Self {
        self.config
            .clusters
            .insert(name.clone(), Cluster::new(protocol, None));
        self
    }

    /// The endpoints of a cluster are gateways in front of this service.
    pub fn behind(mut self, gateway: &ClusterName) -> Self {
        self.config.gateways.push(gateway.clone());
        self
    }

    pub fn outbound(mut self, hosts: &[&str], cluster: &ClusterName) -> Self {
        self.config.outbound.push(OutboundRoute {
            hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
            cluster: cluster.clone(),
        });
        self
    }

    /// A gateway's port without routes; [`Self::route`] adds to the last one.
    pub fn listener(mut self, port: u16) -> Self {
        let name = format!("p{}", self.config.listeners.len());
        let kind = ListenerKind::Gateway { routes: Vec::new() };
        self.config.listeners.push(Listener { name, port, kind });
        self
    }

    /// A declared route, or the one of a service if `path` is its name.
    pub fn route(mut self, origin: Origin, path: &str, methods: &[&str], cluster: &ClusterName) -> Self {
        let by_service = origin == Origin::ByService;
        let route = Route {
            name: format!(
                "shop/{}{}",
                cluster.microservice,
                if by_service { "" } else { path }
            ),
            origin,
            path: path.to_owned(),
            methods: methods.iter().map(|method| (*method).to_owned()).collect(),
            rewrite: if by_service {
                Rewrite::StripPrefix
            } else {
                Rewrite::None
            },
            cluster: cluster.clone(),
        };
        match &mut self.config.listeners.last_mut().unwrap().kind {
            ListenerKind::Gateway { routes } => routes.push(route),
            ListenerKind::Inbound(_) => panic!("the last listener is not a gateway's"),
        }
        self
    }

    pub fn build(self) -> Document {
        Document::new(self.version, self.config)
    }
}
