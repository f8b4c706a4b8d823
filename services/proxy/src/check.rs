//! The verb `check`: what a proxy would say to a document, without running it.

use std::{fs, process::ExitCode};

use anyhow::Context;
use trellis_proxy_config::ValidDocument;

use crate::{
    args::Check,
    snapshot::{Snapshot, Source},
};

/// Exit code for a bad document: `EX_DATAERR` of sysexits.h.
const BAD: u8 = 65;

/// Prints every fault, or what the document is.
pub(crate) fn check(args: &Check) -> anyhow::Result<ExitCode> {
    let path = args.config.display();
    let json = fs::read(&args.config).with_context(|| format!("failed to read {path}"))?;
    let faults = match ValidDocument::parse(&json) {
        Err(faults) => faults.iter().map(ToString::to_string).collect(),
        Ok(valid) => match Snapshot::compile(&valid, Source::File, None, |_| None) {
            Err(faults) => faults,
            Ok(snapshot) => {
                let document = &snapshot.document;
                println!(
                    "{path}: valid, version {}, digest {}",
                    document.version, document.digest
                );
                return Ok(ExitCode::SUCCESS);
            }
        },
    };
    for fault in faults {
        eprintln!("{path}: {fault}");
    }
    Ok(ExitCode::from(BAD))
}
