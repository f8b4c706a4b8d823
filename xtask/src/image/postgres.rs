//! PostgreSQL for the local provider, with the environment contract of the official image.
//!
//! The StatefulSet in `manifests/samples/shop` says `postgres:17`; on a machine without a registry this image takes its
//! place. The user is 999, as in the official image, so the same security context fits both.

use std::path::Path;

use anyhow::Result;

use super::base::{self, Base};
use super::{Image, Run};

const ENTRYPOINT: &str = include_str!("../../../dev/cluster/postgres/entrypoint.sh");

/// Makes the image.
pub fn build(folder: &Path) -> Result<Image> {
    let base = Base {
        name: "postgres",
        packages: &[
            "postgresql-15",
            "postgresql-client-15",
            "bash",
            "coreutils",
            "dash",
            "libc-bin",
            "tzdata",
        ],
        // Perl and its wrappers serve clusters of /etc, LLVM the just-in-time compiler: the server works without.
        excluded: &[
            "usr/bin/perl",
            "usr/share/perl",
            "usr/lib/x86_64-linux-gnu/perl",
            "usr/lib/x86_64-linux-gnu/libperl",
            "usr/lib/x86_64-linux-gnu/libLLVM",
            "usr/lib/llvm",
            "usr/lib/postgresql/15/lib/llvmjit",
            "usr/lib/postgresql/15/lib/bitcode/",
            "usr/lib/x86_64-linux-gnu/libz3",
            "usr/share/postgresql-common/",
            "usr/share/python",
        ],
        files: &[
            (
                "etc/passwd",
                0o644,
                "root:x:0:0:root:/root:/bin/bash\npostgres:x:999:999:PostgreSQL:/var/lib/postgresql:/bin/bash\n",
            ),
            ("etc/group", 0o644, "root:x:0:\npostgres:x:999:\n"),
            (
                "etc/nsswitch.conf",
                0o644,
                "passwd: files\ngroup: files\nhosts: files dns\n",
            ),
            ("usr/local/bin/docker-entrypoint.sh", 0o755, ENTRYPOINT),
        ],
        folders: &[
            ("docker-entrypoint-initdb.d", 0o755, 0),
            ("tmp", 0o1777, 0),
            ("var/lib/postgresql", 0o755, 999),
            ("var/lib/postgresql/data", 0o777, 999),
            ("var/run/postgresql", 0o3777, 999),
        ],
    };
    let layer = base::build(folder, &base)?;
    let run = Run {
        entrypoint: vec!["docker-entrypoint.sh".to_owned()],
        user: "999:999".to_owned(),
        environment: vec![
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/usr/lib/postgresql/15/bin"
                .to_owned(),
            "LANG=C.UTF-8".to_owned(),
            "PGDATA=/var/lib/postgresql/data".to_owned(),
        ],
    };
    Ok(Image {
        name: "postgres".to_owned(),
        layers: vec![layer],
        run,
    })
}
