//! The host processes of a node: command lines, what they listen on, and how to tell that they work.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use super::{ADDRESS, NAME, Node, RUN, configuration};

/// One process.
pub struct Component {
    /// Name of the process, its record and its log.
    pub name: &'static str,
    pub program: PathBuf,
    pub arguments: Vec<String>,
    /// Files whose change asks for a restart.
    pub inputs: Vec<PathBuf>,
    /// Addresses it listens on: checked to be free before the first start.
    pub listens: Vec<(&'static str, u16)>,
    pub health: Health,
}

/// How to tell that a component works.
pub enum Health {
    /// A plain GET answers 200.
    Http(&'static str, u16, &'static str),
    /// The API server says that it is ready.
    Api,
    /// Something accepts connections.
    Port(&'static str, u16),
    /// A socket accepts connections.
    Socket(PathBuf),
}

impl Component {
    /// A digest of everything that the process was started with.
    pub fn fingerprint(&self) -> Result<String> {
        let mut digest = Sha256::new();
        digest.update(
            fs::canonicalize(&self.program)
                .unwrap_or_else(|_| self.program.clone())
                .as_os_str()
                .as_encoded_bytes(),
        );
        for argument in &self.arguments {
            digest.update([0]);
            digest.update(argument);
        }
        for input in &self.inputs {
            digest.update([1]);
            digest.update(fs::read(input).with_context(|| format!("failed to read {}", input.display()))?);
        }
        Ok(crate::digest::hex(&digest.finalize()))
    }
}

/// Where containerd listens.
pub fn containerd_socket() -> PathBuf {
    Path::new(RUN).join("containerd/containerd.sock")
}

/// The container runtime: the only component that is a package of the machine.
pub fn containerd(node: &Node) -> Component {
    let config = configuration::folder(node).join("containerd.toml");
    Component {
        name: "containerd",
        program: "/usr/bin/containerd".into(),
        arguments: vec!["--config".to_owned(), config.display().to_string()],
        inputs: vec![config],
        listens: vec![],
        health: Health::Socket(containerd_socket()),
    }
}

/// The store. fsync stays on: losing power is part of the tests.
pub fn etcd(node: &Node) -> Component {
    let pki = |file: &str| node.at(&format!("pki/{file}")).display().to_string();
    let data = node.at("etcd").display().to_string();
    of_node(
        node,
        "etcd",
        Health::Http("127.0.0.1", 2381, "/health"),
        &[("127.0.0.1", 2379), ("127.0.0.1", 2380), ("127.0.0.1", 2381)],
        &["etcd/server.crt"],
        [
            ("name", NAME),
            ("data-dir", &data),
            ("listen-client-urls", "https://127.0.0.1:2379"),
            ("advertise-client-urls", "https://127.0.0.1:2379"),
            ("listen-peer-urls", "https://127.0.0.1:2380"),
            ("initial-advertise-peer-urls", "https://127.0.0.1:2380"),
            ("initial-cluster", "trellis=https://127.0.0.1:2380"),
            ("listen-metrics-urls", "http://127.0.0.1:2381"),
            ("cert-file", &pki("etcd/server.crt")),
            ("key-file", &pki("etcd/server.key")),
            ("trusted-ca-file", &pki("etcd/ca.crt")),
            ("client-cert-auth", "true"),
            ("peer-cert-file", &pki("etcd/peer.crt")),
            ("peer-key-file", &pki("etcd/peer.key")),
            ("peer-trusted-ca-file", &pki("etcd/ca.crt")),
            ("peer-client-cert-auth", "true"),
            ("auto-compaction-retention", "1h"),
            ("snapshot-count", "10000"),
            ("logger", "zap"),
            ("log-level", "warn"),
        ],
    )
}

/// The API server, with the flags that kubeadm would give it.
pub fn apiserver(node: &Node) -> Component {
    let pki = |file: &str| node.at(&format!("pki/{file}")).display().to_string();
    of_node(
        node,
        "kube-apiserver",
        Health::Api,
        &[(ADDRESS, 6443)],
        &["apiserver.crt"],
        [
            ("bind-address", ADDRESS),
            ("advertise-address", ADDRESS),
            ("secure-port", "6443"),
            ("etcd-servers", "https://127.0.0.1:2379"),
            ("etcd-cafile", &pki("etcd/ca.crt")),
            ("etcd-certfile", &pki("apiserver-etcd-client.crt")),
            ("etcd-keyfile", &pki("apiserver-etcd-client.key")),
            ("client-ca-file", &pki("ca.crt")),
            ("tls-cert-file", &pki("apiserver.crt")),
            ("tls-private-key-file", &pki("apiserver.key")),
            ("kubelet-client-certificate", &pki("apiserver-kubelet-client.crt")),
            ("kubelet-client-key", &pki("apiserver-kubelet-client.key")),
            // Without it logs and exec fail: the node's name is in no DNS.
            ("kubelet-preferred-address-types", "InternalIP,Hostname"),
            (
                "service-account-issuer",
                "https://kubernetes.default.svc.cluster.local",
            ),
            ("service-account-key-file", &pki("sa.pub")),
            ("service-account-signing-key-file", &pki("sa.key")),
            ("service-cluster-ip-range", "10.96.0.0/16"),
            ("requestheader-allowed-names", "front-proxy-client"),
            ("requestheader-client-ca-file", &pki("front-proxy-ca.crt")),
            ("requestheader-extra-headers-prefix", "X-Remote-Extra-"),
            ("requestheader-group-headers", "X-Remote-Group"),
            ("requestheader-username-headers", "X-Remote-User"),
            ("proxy-client-cert-file", &pki("front-proxy-client.crt")),
            ("proxy-client-key-file", &pki("front-proxy-client.key")),
            ("enable-aggregator-routing", "true"),
            ("authorization-mode", "Node,RBAC"),
            ("enable-admission-plugins", "NodeRestriction"),
            ("allow-privileged", "true"),
            ("profiling", "false"),
        ],
    )
}

/// The controllers. Autoscaling looks every 5 s, so that a test of it does not take minutes.
pub fn controller_manager(node: &Node) -> Component {
    let pki = |file: &str| node.at(&format!("pki/{file}")).display().to_string();
    let kubeconfig = node
        .at("kubeconfig/controller-manager.conf")
        .display()
        .to_string();
    of_node(
        node,
        "kube-controller-manager",
        Health::Port("127.0.0.1", 10257),
        &[("127.0.0.1", 10257)],
        &["ca.crt"],
        [
            ("kubeconfig", &*kubeconfig),
            ("authentication-kubeconfig", &kubeconfig),
            ("authorization-kubeconfig", &kubeconfig),
            ("bind-address", "127.0.0.1"),
            ("leader-elect", "false"),
            ("use-service-account-credentials", "true"),
            ("controllers", "*"),
            ("root-ca-file", &pki("ca.crt")),
            ("client-ca-file", &pki("ca.crt")),
            ("requestheader-client-ca-file", &pki("front-proxy-ca.crt")),
            ("cluster-signing-cert-file", &pki("ca.crt")),
            ("cluster-signing-key-file", &pki("ca.key")),
            ("service-account-private-key-file", &pki("sa.key")),
            ("horizontal-pod-autoscaler-sync-period", "5s"),
            ("horizontal-pod-autoscaler-initial-readiness-delay", "10s"),
            ("horizontal-pod-autoscaler-cpu-initialization-period", "30s"),
            ("horizontal-pod-autoscaler-downscale-stabilization", "60s"),
            ("profiling", "false"),
        ],
    )
}

/// The scheduler.
pub fn scheduler(node: &Node) -> Component {
    let kubeconfig = node.at("kubeconfig/scheduler.conf").display().to_string();
    of_node(
        node,
        "kube-scheduler",
        Health::Port("127.0.0.1", 10259),
        &[("127.0.0.1", 10259)],
        &["ca.crt"],
        [
            ("kubeconfig", &*kubeconfig),
            ("authentication-kubeconfig", &kubeconfig),
            ("authorization-kubeconfig", &kubeconfig),
            ("bind-address", "127.0.0.1"),
            ("leader-elect", "false"),
            ("profiling", "false"),
        ],
    )
}

/// The agent that runs pods.
pub fn kubelet(node: &Node) -> Component {
    let config = configuration::folder(node)
        .join("kubelet.yaml")
        .display()
        .to_string();
    let root = node.at("kubelet").display().to_string();
    let kubeconfig = node.at("kubeconfig/kubelet.conf").display().to_string();
    let listens = [(ADDRESS, 10250), ("127.0.0.1", 10248)];
    let mut component = of_node(
        node,
        "kubelet",
        Health::Http("127.0.0.1", 10248, "/healthz"),
        &listens,
        &["ca.crt"],
        [
            ("config", &*config),
            ("root-dir", &root),
            ("cert-dir", &node.at("kubelet-pki").display().to_string()),
            ("kubeconfig", &kubeconfig),
            ("hostname-override", NAME),
            ("node-ip", ADDRESS),
        ],
    );
    component.inputs.push(config.into());
    component
        .inputs
        .push(configuration::folder(node).join("resolv.conf"));
    component
}

/// Service addresses and node ports.
pub fn kube_proxy(node: &Node) -> Component {
    let config = configuration::folder(node)
        .join("kube-proxy.yaml")
        .display()
        .to_string();
    // The last is the node port of the shop's gateway.
    let listens = [("127.0.0.1", 10256), ("127.0.0.1", 10249), ("127.0.0.1", 30080)];
    let mut component = of_node(
        node,
        "kube-proxy",
        Health::Http("127.0.0.1", 10256, "/healthz"),
        &listens,
        &["ca.crt"],
        [("config", &*config)],
    );
    component.inputs.push(config.into());
    component
}

/// Names of Services.
pub fn coredns(node: &Node) -> Component {
    let config = configuration::folder(node).join("Corefile");
    Component {
        name: "coredns",
        program: node.programs.join("coredns"),
        arguments: vec!["-conf".to_owned(), config.display().to_string()],
        inputs: vec![config, node.at("kubeconfig/coredns.conf")],
        listens: vec![(ADDRESS, 53), ("127.0.0.1", 18181)],
        health: Health::Http("127.0.0.1", 18181, "/ready"),
    }
}

/// CPU and memory of pods, for `kubectl top` and autoscaling.
pub fn metrics_server(node: &Node) -> Component {
    let kubeconfig = node.at("kubeconfig/metrics-server.conf").display().to_string();
    let certificates = node.at("metrics-server").display().to_string();
    of_node(
        node,
        "metrics-server",
        Health::Port(ADDRESS, 10443),
        &[(ADDRESS, 10443)],
        &["ca.crt"],
        [
            ("kubeconfig", &*kubeconfig),
            ("authentication-kubeconfig", &kubeconfig),
            ("authorization-kubeconfig", &kubeconfig),
            ("cert-dir", &certificates),
            ("bind-address", ADDRESS),
            ("secure-port", "10443"),
            ("kubelet-insecure-tls", "true"),
            ("kubelet-preferred-address-types", "InternalIP"),
            // The resolution has to be longer than one request may take.
            ("kubelet-request-timeout", "5s"),
            ("metric-resolution", "10s"),
        ],
    )
}

/// Every component, in the order of starting.
pub fn all(node: &Node) -> Vec<Component> {
    vec![
        containerd(node),
        etcd(node),
        apiserver(node),
        controller_manager(node),
        scheduler(node),
        kubelet(node),
        kube_proxy(node),
        coredns(node),
        metrics_server(node),
    ]
}

/// A component of the node binary whose flags are all `--name=value`; `certificates` are files whose renewal restarts it.
fn of_node<const N: usize>(
    node: &Node,
    name: &'static str,
    health: Health,
    listens: &[(&'static str, u16)],
    certificates: &[&str],
    flags: [(&str, &str); N],
) -> Component {
    let credentials = flags
        .iter()
        .filter(|(flag, _)| *flag == "kubeconfig")
        .map(|(_, file)| PathBuf::from(file));
    let inputs = certificates
        .iter()
        .map(|file| node.at(&format!("pki/{file}")))
        .chain(credentials)
        .collect();
    Component {
        name,
        program: node.programs.join(name),
        arguments: flags
            .iter()
            .map(|(flag, value)| format!("--{flag}={value}"))
            .collect(),
        inputs,
        listens: listens.to_vec(),
        health,
    }
}
