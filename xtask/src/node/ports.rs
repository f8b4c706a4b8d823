//! Whether the ports of the node are free, and who has them if not.
//!
//! Read from the kernel's table of sockets instead of tried: the address of the bridge cannot be bound before there is one.

use std::fs;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::poll;

/// Fails if somebody listens where the component would and goes on to for longer than `patience`, naming the process.
pub fn ensure_free(component: &str, address: &str, port: u16, patience: Duration) -> Result<()> {
    let address: Ipv4Addr = address.parse()?;
    let free = poll::until(patience, Duration::from_millis(100), || {
        Ok(listeners(address, port).is_empty().then_some(()))
    })?;
    if free.is_some() {
        return Ok(());
    }
    let holder = holder(&listeners(address, port)).map_or_else(
        || "another process".to_owned(),
        |(pid, name)| format!("process {pid} ({name})"),
    );
    bail!(
        "port {port}, which {component} needs, is taken by {holder}\n  fix: end that process, then run this again"
    )
}

/// Inodes of the sockets that listen on the port at this address or at all.
fn listeners(address: Ipv4Addr, port: u16) -> Vec<String> {
    ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .flat_map(|table| listening(&fs::read_to_string(table).unwrap_or_default(), address, port))
        .collect()
}

/// The lines of one table that are listeners (proc_net(5): local address in field 2, state 0A, inode in field 10). Addresses
/// are hexadecimal in the machine's byte order.
fn listening(table: &str, address: Ipv4Addr, port: u16) -> Vec<String> {
    let own = format!("{:08X}", u32::from_ne_bytes(address.octets()));
    let port = format!("{port:04X}");
    let inode = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (at, its_port) = fields.get(1)?.split_once(':')?;
        let is_here = its_port == port && (at == own || at.bytes().all(|digit| digit == b'0'));
        (is_here && *fields.get(3)? == "0A").then(|| fields.get(9).map(|inode| (*inode).to_owned()))?
    };
    table.lines().skip(1).filter_map(inode).collect()
}

/// The process that has one of the sockets open.
fn holder(inodes: &[String]) -> Option<(i32, String)> {
    let links: Vec<String> = inodes.iter().map(|inode| format!("socket:[{inode}]")).collect();
    for entry in fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<i32>().ok())
        else {
            continue;
        };
        let files = fs::read_dir(entry.path().join("fd"))
            .into_iter()
            .flatten()
            .flatten();
        let mut open = files.filter_map(|file| fs::read_link(file.path()).ok());
        if open.any(|link| links.iter().any(|known| link.as_os_str() == known.as_str())) {
            let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            return Some((pid, name.trim().to_owned()));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_taken_port_names_its_holder() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let error = ensure_free("test", "127.0.0.1", port, Duration::ZERO)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains(&format!("process {}", std::process::id())),
            "{error}"
        );
        ensure_free("test", "127.0.0.2", port, Duration::ZERO).unwrap();
    }

    #[test]
    fn a_listener_on_every_address_is_in_the_way_of_each() {
        let table = "head\n0: 00000000:0035 00000000:0000 0A 0:0 0:0 0 0 0 77 1\n1: 3500007F:0036 00000000:0000 0A 0:0 0:0 0 0 0 78 1\n";
        assert_eq!(listening(table, Ipv4Addr::new(10, 244, 0, 1), 0x35), ["77"]);
        assert_eq!(
            listening(table, Ipv4Addr::new(10, 244, 0, 1), 0x36),
            Vec::<String>::new()
        );
    }
}
