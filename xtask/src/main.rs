//! `cargo xtask <verb>`: everything that is done with the checkout, as one program that needs only Rust.
//!
//! Each verb is a module; `arguments` is the list of them.

mod arguments;
mod bench;
mod command;
mod demo;
mod digest;
mod down;
mod generated;
mod image;
mod install;
mod kubectl;
mod layers;
mod lifecycle;
mod lock;
mod logs;
mod new_service;
mod node;
mod packages;
mod paths;
mod poll;
mod privilege;
mod process;
mod progress;
mod provider;
mod secret_file;
mod sizes;
mod soak;
mod space;
mod status;
mod test;
mod up;
mod workspace;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    match arguments::Arguments::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
