//! Base layers from Debian packages, by mmdebstrap: extracted, trimmed, with fixed times.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tar::Archive;

use super::{Layer, layer};
use crate::command::output;
use crate::digest;
use crate::privilege;

/// The release that the packages are of: the same as the machine that the binaries are linked on.
const SUITE: &str = "bookworm";
/// Raise when the way of making a layer changes: cached ones are then made again.
const REVISION: &str = "1";
/// What no server reads.
const EXCLUDED: [&str; 9] = [
    "usr/share/doc/",
    "usr/share/doc-base/",
    "usr/share/man/",
    "usr/share/info/",
    "usr/share/locale/",
    "usr/share/lintian/",
    "usr/share/bash-completion/",
    "var/lib/apt/",
    "var/cache/",
];

/// What a base layer is made of.
pub struct Base<'a> {
    /// Name of the cached layer.
    pub name: &'a str,
    /// Packages; what they depend on comes with them.
    pub packages: &'a [&'a str],
    /// More paths to leave out, by prefix.
    pub excluded: &'a [&'a str],
    /// Files to add: path, mode, text.
    pub files: &'a [(&'a str, u32, &'a str)],
    /// Folders to add: path, mode, owner.
    pub folders: &'a [(&'a str, u32, u64)],
}

/// The layer under every service: the C library, certificates, time zones; what a distroless image holds.
pub fn of_services(folder: &Path) -> Result<Layer> {
    let base = Base {
        name: "base",
        packages: &["libc6", "libgcc-s1", "ca-certificates", "tzdata"],
        excluded: &["usr/bin/perl", "usr/lib/x86_64-linux-gnu/perl", "usr/share/perl"],
        files: &[
            (
                "etc/passwd",
                0o644,
                "root:x:0:0:root:/root:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/:/sbin/nologin\n",
            ),
            ("etc/group", 0o644, "root:x:0:\nnonroot:x:65532:\n"),
            (
                "etc/nsswitch.conf",
                0o644,
                "passwd: files\ngroup: files\nhosts: files dns\n",
            ),
        ],
        folders: &[("tmp", 0o1777, 0)],
    };
    build(folder, &base)
}

/// Makes a base layer, or finds it in the cache.
pub fn build(folder: &Path, base: &Base<'_>) -> Result<Layer> {
    let source = digest::sha256(
        format!(
            "{REVISION} {SUITE} {:?} {:?} {:?} {:?}",
            base.packages, base.excluded, base.files, base.folders
        )
        .as_bytes(),
    );
    layer::cached(folder, base.name, &source, |mut writer| {
        let raw = folder.join(format!("{}.raw.tar", base.name));
        debootstrap(base.packages, &raw)?;
        let mut certificates = String::new();
        let mut tar = Archive::new(File::open(&raw).context("failed to open what mmdebstrap made")?);
        for entry in tar.entries()? {
            let mut entry = entry?;
            let path = entry
                .path()?
                .components()
                .filter(|part| matches!(part, std::path::Component::Normal(_)))
                .collect::<PathBuf>();
            let text = path.display().to_string();
            let is_added = base.files.iter().any(|(added, ..)| *added == text)
                || base.folders.iter().any(|(added, ..)| *added == text);
            if text.is_empty() || is_added || is_excluded(&text, base.excluded) {
                continue;
            }
            if text.starts_with("usr/share/ca-certificates/mozilla/") && entry.header().entry_type().is_file()
            {
                // The package's own script, which is not run, would join them to one file.
                entry.read_to_string(&mut certificates)?;
            } else {
                writer.entry(&path, &mut entry)?;
            }
        }
        if !certificates.is_empty() {
            writer.text("etc/ssl/certs/ca-certificates.crt", 0o644, &certificates)?;
        }
        for (path, mode, text) in base.files {
            writer.text(path, *mode, text)?;
        }
        for (path, mode, owner) in base.folders {
            writer.folder(path, *mode, *owner)?;
        }
        fs::remove_file(&raw).context("failed to remove what mmdebstrap made")?;
        writer.finish()
    })
}

fn is_excluded(path: &str, more: &[&str]) -> bool {
    EXCLUDED.iter().chain(more).any(|prefix| path.starts_with(prefix)) || path.starts_with("dev/")
}

/// Extracts packages into a tar without running their scripts.
fn debootstrap(packages: &[&str], out: &Path) -> Result<()> {
    let include = format!("--include={}", packages.join(","));
    let mut command = privilege::command("mmdebstrap");
    command
        .args(["--quiet", "--variant=extract", &include, SUITE])
        .arg(out);
    output(&mut command).map(drop).with_context(|| {
        format!(
            "failed to fetch {} from Debian\n  fix: check the network and /etc/apt/sources.list*",
            packages.join(", ")
        )
    })?;
    privilege::give_back(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documentation_and_named_prefixes_are_left_out() {
        assert!(is_excluded("usr/share/doc/libc6/copyright", &[]));
        assert!(is_excluded("usr/bin/perl", &["usr/bin/perl"]));
        assert!(!is_excluded("usr/lib/libc.so.6", &["usr/bin/perl"]));
    }
}
