//! Bringing the node up, or what is missing of it.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::components::{self, Component, Health};
use super::snapshot::Snapshot;
use super::{BEGAN, NAME, Node, RUN, SNAPSHOT, certificates, configuration, network, ports, runtime, sweep};
use crate::command::{output_with_input, tail_of};
use crate::digest;
use crate::image::Image;
use crate::poll;
use crate::privilege;
use crate::progress::{self, Step};
use crate::secret_file;
use crate::space;

/// How long a component may take to work: the API server of a loaded two-core machine is the slowest.
const PATIENCE: Duration = Duration::from_secs(120);
/// A component that was just killed may still be closing its sockets.
const CLOSING: Duration = Duration::from_secs(3);
/// What a component gets to end before it is started differently. The API server would wait a minute for its watches; all of
/// them are made to be killed.
const RESTART_GRACE: Duration = Duration::from_secs(5);
/// Volumes for StatefulSets; PostgreSQL takes one. A volume is an empty folder until a claim takes it, and is given only once.
const VOLUMES: usize = 16;
/// The owner of the volumes' folders: PostgreSQL's user in its image.
const VOLUME_OWNER: u32 = 999;

/// Starts what does not run, restarts what was started differently, leaves the rest alone.
pub fn start(node: &Node, pause: &Image) -> Result<()> {
    space::ensure(&node.state)?;
    let step = progress::step("starting Kubernetes");
    for folder in [
        "processes",
        "log/pods",
        "config",
        "kubeconfig",
        "pki",
        "applied",
        "etcd",
    ] {
        let folder = node.at(folder);
        fs::create_dir_all(&folder).with_context(|| format!("failed to create {}", folder.display()))?;
    }
    fs::set_permissions(node.at("etcd"), fs::Permissions::from_mode(0o700))
        .context("failed to close the folder of etcd")?;
    let before = Snapshot::of_before(&node.at(SNAPSHOT))?;
    let reference = pause.reference()?;
    configuration::write(node, &reference)?;
    step.detail("certificates");
    certificates::ensure(node).context("failed to make the cluster's certificates")?;

    let all = components::all(node);
    ensure_ports(node, &all)?;
    if sweep::is_needed(node) {
        step.detail("clearing what the last run left behind");
        let processes = node.processes();
        processes.stop("kubelet", Duration::from_secs(5))?;
        processes.stop("containerd", Duration::from_secs(5))?;
        sweep::sweep(node, &before).context("failed to clear what the last run left behind")?;
    }
    network::ensure().context("failed to make the pods' network")?;
    begin()?;

    let mut started = Vec::new();
    for name in ["containerd", "etcd", "kube-apiserver"] {
        let component = all
            .iter()
            .find(|component| component.name == name)
            .context("unknown component")?;
        if launch(node, component, &step)? {
            started.push(name);
        }
        if name != "containerd" {
            wait(node, component, &step)?;
        }
    }
    let kubectl = node.kubectl();
    apply_once(node, "addons", configuration::ADDONS)
        .context("failed to set up the cluster's own objects")?;
    wait(node, &all[0], &step)?;
    if !runtime::images()?.contains(&reference) {
        let archive = node.at("pause.tar");
        pause.write(&archive, &reference)?;
        runtime::import(&archive)?;
        fs::remove_file(&archive).context("failed to remove an archive")?;
    }
    let rest = &all[3..];
    for component in rest {
        if launch(node, component, &step)? {
            started.push(component.name);
        }
    }
    for component in rest {
        wait(node, component, &step)?;
    }
    volumes(node).context("failed to make the cluster's volumes")?;
    step.detail("waiting for the node");
    kubectl
        .output(&[
            "wait",
            &format!("node/{NAME}"),
            "--for=condition=Ready",
            "--timeout=90s",
        ])
        .with_context(|| {
            format!(
                "the node does not get ready; last lines of the kubelet's log:\n{}",
                tail_of(&node.log("kubelet"), 8)
            )
        })?;
    hand_over(node)?;
    step.done(&if started.is_empty() {
        "everything ran already".to_owned()
    } else {
        format!("started {}", started.join(", "))
    });
    Ok(())
}

/// Notes when this life of the node began, if it is a new one.
fn begin() -> Result<()> {
    let file = Path::new(RUN).join(BEGAN);
    if file.exists() {
        return Ok(());
    }
    fs::create_dir_all(RUN).context("failed to create the runtime folder")?;
    let now = jiff::Timestamp::from_second(jiff::Timestamp::now().as_second())?;
    fs::write(&file, now.to_string()).context("failed to note when the node began")
}

fn ensure_ports(node: &Node, all: &[Component]) -> Result<()> {
    let processes = node.processes();
    for component in all
        .iter()
        .filter(|component| processes.alive(component.name).is_none())
    {
        for (address, port) in &component.listens {
            ports::ensure_free(component.name, address, *port, CLOSING)?;
        }
    }
    Ok(())
}

/// Starts a component if it does not run as it should; says whether it did.
fn launch(node: &Node, component: &Component, step: &Step) -> Result<bool> {
    let processes = node.processes();
    let fingerprint = component.fingerprint()?;
    if let Some(record) = processes.alive(component.name) {
        if record.fingerprint == fingerprint {
            return Ok(false);
        }
        step.detail(format!("restarting {}", component.name));
        processes.stop(component.name, RESTART_GRACE)?;
    }
    let log = node.log(component.name);
    // One older log is kept: a crash is explained there.
    let _ = fs::rename(&log, log.with_extension("log.1"));
    processes.start(
        component.name,
        &component.program,
        &component.arguments,
        &log,
        &fingerprint,
    )?;
    Ok(true)
}

/// Waits until a component works; an error shows its last lines.
fn wait(node: &Node, component: &Component, step: &Step) -> Result<()> {
    step.detail(format!("waiting for {}", component.name));
    let verdict = poll::until(PATIENCE, Duration::from_millis(100), || {
        if is_healthy(node, component) {
            return Ok(Some(true));
        }
        Ok(node.processes().alive(component.name).is_none().then_some(false))
    })?;
    let what = match verdict {
        Some(true) => return Ok(()),
        Some(false) => "ended",
        None => "does not answer",
    };
    let log = node.log(component.name);
    bail!(
        "{} {what}; last lines of {}:\n{}\n  fix: the cause is in those lines; `cargo xtask up` then goes on from here, \
         `cargo xtask up --fresh` begins again",
        component.name,
        log.display(),
        tail_of(&log, 12)
    );
}

fn is_healthy(node: &Node, component: &Component) -> bool {
    match &component.health {
        Health::Http(address, port, path) => answers(address, *port, path),
        Health::Api => node
            .kubectl()
            .succeeds(&["get", "--raw", "/readyz", "--request-timeout=5s"]),
        Health::Port(address, port) => connect(address, *port).is_some(),
        Health::Socket(path) => UnixStream::connect(path).is_ok(),
    }
}

fn connect(address: &str, port: u16) -> Option<TcpStream> {
    let address: SocketAddr = format!("{address}:{port}").parse().ok()?;
    let stream = TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
    Some(stream)
}

fn answers(address: &str, port: u16, path: &str) -> bool {
    let Some(mut stream) = connect(address, port) else {
        return false;
    };
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    let mut answer = [0; 12];
    stream.write_all(request.as_bytes()).is_ok()
        && stream.read_exact(&mut answer).is_ok()
        && &answer[9..] == b"200"
}

/// Applies objects with all rights, unless the same were applied before.
fn apply_once(node: &Node, name: &str, objects: &str) -> Result<()> {
    let marker = node.at(&format!("applied/{name}"));
    let digest = digest::sha256(objects.as_bytes());
    if fs::read_to_string(&marker).is_ok_and(|known| known == digest) {
        return Ok(());
    }
    let kubeconfig = node.at("kubeconfig/super-admin.conf");
    let mut kubectl = node.kubectl().command([
        "apply",
        "--server-side",
        "--force-conflicts",
        "--field-manager=trellis.dev/xtask",
        "-f",
        "-",
    ]);
    // A fresh API server is ready a moment before all its groups are.
    let mut last = None;
    let done = poll::until(
        Duration::from_secs(30),
        Duration::from_millis(500),
        || match output_with_input(kubectl.env("KUBECONFIG", &kubeconfig), objects) {
            Ok(_) => Ok(Some(())),
            Err(error) => {
                last = Some(error);
                Ok(None)
            }
        },
    )?;
    if let (None, Some(error)) = (done, last) {
        return Err(error);
    }
    fs::write(&marker, digest).context("failed to note what was applied")
}

/// A few volumes on this machine, for claims of the storage class `standard`.
fn volumes(node: &Node) -> Result<()> {
    let mut objects = String::new();
    for number in 0..VOLUMES {
        let folder = node.at(&format!("volumes/{number}"));
        if !folder.exists() {
            fs::create_dir_all(&folder).with_context(|| format!("failed to create {}", folder.display()))?;
            fs::set_permissions(&folder, fs::Permissions::from_mode(0o700))?;
            chown(&folder, Some(VOLUME_OWNER), Some(VOLUME_OWNER))
                .context("failed to set the owner of a volume")?;
        }
        objects.push_str(&format!(
            "---\napiVersion: v1\nkind: PersistentVolume\nmetadata: {{name: local-{number}}}\nspec:\n  \
             capacity: {{storage: 10Gi}}\n  accessModes: [ReadWriteOnce]\n  storageClassName: standard\n  \
             persistentVolumeReclaimPolicy: Retain\n  hostPath: {{path: \"{}\", type: Directory}}\n",
            folder.display()
        ));
    }
    apply_once(node, "volumes", &objects)
}

/// Gives the administrator's file to the user who called.
fn hand_over(node: &Node) -> Result<()> {
    let mine = node
        .state
        .parent()
        .map_or_else(|| node.at("kubeconfig.user"), |folder| folder.join("kubeconfig"));
    let admin = fs::read(node.at("kubeconfig/admin.conf"))
        .context("failed to read the administrator's kubeconfig")?;
    if fs::read(&mine).is_ok_and(|known| known == admin) {
        return Ok(());
    }
    secret_file::write(&mine, &admin)?;
    privilege::give_back(&mine)
}
