//! The verbs and their arguments.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

use crate::bench::{self, Bench};
use crate::image::custom::Recipe;
use crate::image::pause;
use crate::node::{self, Node, binary, runtime};
use crate::paths::Paths;
use crate::provider::{self, Name, Options};
use crate::up::{self, Wishes};
use crate::{demo, down, generated, layers, lifecycle, logs, new_service, sizes, soak, status, test};

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    about = "Development verbs of Trellis",
    version
)]
pub struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Build what is missing, start Kubernetes, install the operator and the shop, wait until all is ready
    Up {
        /// Where the cluster comes from [default: the last one; else kind if it works, else local]
        #[arg(long)]
        provider: Option<Name>,
        /// Delete the cluster's data first
        #[arg(long)]
        fresh: bool,
        /// Compile what runs in it for speed, as for measuring; takes minutes the first time
        #[arg(long)]
        release: bool,
        /// Registry and path before image names, for `current`
        #[arg(long)]
        image_prefix: Option<String>,
        /// Go on although the current cluster is not on this machine
        #[arg(long)]
        yes: bool,
    },
    /// Stop the cluster and leave the machine as it was; data is kept, but for kind's
    Down,
    /// Print provider, kubeconfig, gateway and every Microservice
    Status {
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// Print the log of a node component or of a workload; without a name, the names
    Logs {
        /// A component (`kubelet`), `operator`, `quota`, `saga`, a Deployment of the shop (`order`), or `kind/name`
        target: Option<String>,
        /// Go on as it grows
        #[arg(long, short)]
        follow: bool,
        /// How many of the last lines
        #[arg(long, short = 'n', default_value_t = 200)]
        lines: u32,
    },
    /// Print what a shell needs for kubectl: eval "$(cargo xtask env)"
    Env,
    /// Run kubectl on the cluster: `cargo xtask kubectl -- get pods -A`
    Kubectl {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Build or load an image, without a container engine
    #[command(subcommand)]
    Image(ImageVerb),
    /// Run every check: format, lints, generated files, layers, sizes, tests, and the end-to-end tests on the cluster
    Test {
        /// Leave out what needs a cluster
        #[arg(long)]
        no_e2e: bool,
        /// Begin the end-to-end tests with an empty cluster
        #[arg(long)]
        fresh: bool,
    },
    /// Measure side by side with peers: a table, and a file for programs. `-- --help` for what can be set
    Bench {
        bench: Bench,
        /// Given to the bench
        #[arg(last = true)]
        options: Vec<String>,
    },
    /// Try what `up` and `down` promise, and print the times: kills components, cuts the power, takes the cluster down and up
    CheckCluster,
    /// Tell what sagas are for: a good order, a declined one, one that is stuck and mended, a cancellation; on the running cluster
    Demo,
    /// Long runs, and what they found: `drops`, `orders` and `quota` on the cluster, `crashes` and `rest` without one; `cargo xtask soak drops --help`
    #[command(disable_help_flag = true)]
    Soak {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Write another service of the shop, ready to test and to bring up: package, manifest, database
    NewService {
        /// Its name, of a-z, 0-9 and '-': `shipping`
        name: String,
    },
    /// Fail if a package depends on one that it must not know
    CheckLayers,
    /// Warn about long files, fail on very long ones
    CheckSizes,
    /// Write crds/*.yaml from the code
    Crds {
        /// Write nothing; fail if a file differs
        #[arg(long)]
        check: bool,
    },
    /// Write manifests/crds.yaml and manifests/install.yaml
    Manifests {
        /// Write nothing; fail if a file differs
        #[arg(long)]
        check: bool,
    },
    /// Parts of the local cluster that need root; run by the other verbs
    #[command(hide = true)]
    Node {
        #[command(subcommand)]
        verb: NodeVerb,
        #[arg(long, global = true)]
        state: Option<PathBuf>,
        #[arg(long, global = true)]
        cache: Option<PathBuf>,
    },
}

#[derive(Subcommand)]
enum ImageVerb {
    /// Make an image of files of this machine; the last line printed is its name in the cluster
    Build {
        #[command(flatten)]
        recipe: Recipe,
        /// Load it into the cluster
        #[arg(long)]
        load: bool,
        /// Write the archive here, as `docker save` would
        #[arg(long)]
        output: Option<PathBuf>,
    },
    /// Load an archive of `docker save` into the cluster
    Load { file: PathBuf },
}

#[derive(Subcommand)]
enum NodeVerb {
    /// Start the node
    Up,
    /// Stop the node
    Down,
    /// Delete the node's data
    Wipe,
    /// Import archives
    Import { files: Vec<PathBuf> },
    /// List images
    Images,
}

impl Arguments {
    /// Does what was asked for.
    pub fn run(self) -> Result<()> {
        let mut paths = Paths::discover()?;
        match self.verb {
            Verb::Up {
                provider,
                fresh,
                release,
                image_prefix,
                yes,
            } => up::up(
                &paths,
                &Wishes {
                    provider,
                    fresh,
                    release,
                    options: Options { image_prefix, yes },
                },
            ),
            Verb::Down => down::down(&paths),
            Verb::Status { json } => status::print(&paths, json),
            Verb::Logs {
                target,
                follow,
                lines,
            } => logs::print(&paths, target.as_deref(), follow, lines),
            Verb::Env => {
                up::environment(&provider::choose(&paths, None, &Options::default())?.kubectl())
                    .iter()
                    .for_each(|line| println!("{line}"));
                Ok(())
            }
            Verb::Kubectl { arguments } => {
                let kubectl = provider::choose(&paths, None, &Options::default())?.kubectl();
                Err(kubectl.command(arguments).exec())
                    .context("failed to start kubectl; `cargo xtask up` makes it")
            }
            Verb::Image(verb) => image(&paths, verb),
            Verb::Test { no_e2e, fresh } => test::run(&paths, !no_e2e, fresh),
            Verb::Bench { bench, options } => bench::run(&paths, bench, &options),
            Verb::CheckCluster => lifecycle::check(&paths),
            Verb::Demo => demo::run(&paths),
            Verb::Soak { arguments } => match soak::run(&paths, &arguments)? {},
            Verb::NewService { name } => new_service::run(&paths.repository, &name),
            Verb::CheckLayers => layers::check(&paths.repository),
            Verb::CheckSizes => sizes::check(&paths.repository),
            Verb::Crds { check } => generated::crds(&paths, check),
            Verb::Manifests { check } => generated::manifests(&paths, check),
            Verb::Node { verb, state, cache } => {
                paths.state = state.unwrap_or(paths.state);
                paths.cache = cache.unwrap_or(paths.cache);
                node(&paths, verb)
            }
        }
    }
}

fn image(paths: &Paths, verb: ImageVerb) -> Result<()> {
    let provider = provider::choose(paths, None, &Options::default())?;
    match verb {
        ImageVerb::Build { recipe, load, output } => {
            let folder = std::env::temp_dir().join(format!("trellis-image-{}", std::process::id()));
            let image = recipe.build(paths, &folder)?;
            let reference = provider.reference(&image)?;
            let archive = output.unwrap_or_else(|| folder.join("image.tar"));
            image.write(&archive, &reference)?;
            if load {
                provider.load_archive(&archive)?;
            }
            std::fs::remove_dir_all(&folder).context("failed to remove a temporary folder")?;
            println!("{reference}");
            Ok(())
        }
        ImageVerb::Load { file } => provider.load_archive(&file),
    }
}

fn node(paths: &Paths, verb: NodeVerb) -> Result<()> {
    let node = Node {
        state: paths.state.join("node"),
        programs: binary::ensure(&paths.cluster_sources(), &paths.cache)?,
    };
    match verb {
        NodeVerb::Up => node::start(&node, &pause::build(&paths.layers())?),
        NodeVerb::Down => {
            down::report(&node::stop(&node)?);
            Ok(())
        }
        NodeVerb::Wipe => node::wipe(&node),
        NodeVerb::Import { files } => files.iter().try_for_each(|file| runtime::import(file)),
        NodeVerb::Images => {
            runtime::images()?
                .iter()
                .for_each(|reference| println!("{reference}"));
            Ok(())
        }
    }
}
