//! The command line of a domain service: it has one verb, to serve, and one question, `--check-config`.
//!
//! Settings come from the environment (see `config`), because that is what a pod template carries.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Arg, ArgAction, Command};

/// Exit code of a wrong command line or configuration: `EX_USAGE` of sysexits.h.
pub const EXIT_USAGE: u8 = 64;

/// What the command line asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Args {
    /// Only read and validate the configuration, print it and exit.
    pub check_config: bool,
}

impl Args {
    /// Parses the command line of the process.
    ///
    /// # Errors
    /// The exit code, after help, version or the fault has been printed.
    pub fn parse(name: &'static str) -> Result<Self, ExitCode> {
        Self::parse_from(name, std::env::args_os())
    }

    fn parse_from(name: &'static str, args: impl IntoIterator<Item = OsString>) -> Result<Self, ExitCode> {
        let check_config = Arg::new("check-config")
            .long("check-config")
            .action(ArgAction::SetTrue)
            .help("Read and validate the configuration, print it and exit");
        let command = Command::new(name)
            .version(env!("CARGO_PKG_VERSION"))
            .arg(check_config);
        match command.try_get_matches_from(args) {
            Ok(matches) => Ok(Self {
                check_config: matches.get_flag("check-config"),
            }),
            Err(error) => {
                // A closed stdout is no reason to report something else than the fault.
                let _ = error.print();
                Err(match error.kind() {
                    ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::SUCCESS,
                    _ => ExitCode::from(EXIT_USAGE),
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Args, ExitCode> {
        Args::parse_from("user", args.iter().map(OsString::from))
    }

    #[test]
    fn serving_is_the_default_and_unknown_words_are_refused() {
        assert_eq!(parse(&["user"]).unwrap(), Args { check_config: false });
        assert_eq!(
            parse(&["user", "--check-config"]).unwrap(),
            Args { check_config: true }
        );
        assert_eq!(
            parse(&["user", "--port=1"]).unwrap_err(),
            ExitCode::from(EXIT_USAGE)
        );
    }
}
