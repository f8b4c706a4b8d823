//! `cargo xtask up`: from a checkout to a running shop, or from almost there to there.
//!
//! Every part is "is it so? else make it so"; what is done already costs a look, so a second run takes seconds.

use std::time::Instant;

use anyhow::{Context, Result};

use crate::image::{Image, service};
use crate::install;
use crate::install::manifests::ImageNames;
use crate::kubectl::Kubectl;
use crate::lock::{self, Lock};
use crate::paths::Paths;
use crate::provider::{self, Name, Options, Provider};

/// What the user may say.
#[derive(Clone, Debug, Default)]
pub struct Wishes {
    /// Which provider; else the last one.
    pub provider: Option<Name>,
    /// Delete the cluster's data first.
    pub fresh: bool,
    /// Compile for speed.
    pub release: bool,
    /// See [`Options`].
    pub options: Options,
}

/// Brings everything up.
pub fn up(paths: &Paths, wishes: &Wishes) -> Result<()> {
    up_locked(paths, wishes, &lock::take(&paths.state)?)
}

/// As [`up`], for who has the lock already.
pub fn up_locked(paths: &Paths, wishes: &Wishes, _lock: &Lock) -> Result<()> {
    let began = Instant::now();
    let provider = provider::choose(paths, wishes.provider, &wishes.options)?;
    let provider = provider.as_ref();
    provider.prepare().context("failed to prepare the cluster")?;
    if wishes.fresh {
        provider.stop()?;
        provider.wipe()?;
        install::forget_passwords(paths, provider.name())?;
    }
    let ours = service::build(paths, wishes.release).context("failed to build the images")?;
    let substitutes = provider.substitutes().context("failed to build the images")?;
    provider.start().context("failed to start the cluster")?;
    provider::remember(paths, provider.name(), &wishes.options)?;
    let names = load(provider, &ours, &substitutes)?;
    install::install(paths, provider, &names)?;
    print(provider, began);
    Ok(())
}

/// Makes the images known and returns their names in manifests with those in the cluster.
fn load(provider: &dyn Provider, ours: &[Image], substitutes: &[(String, Image)]) -> Result<ImageNames> {
    let all: Vec<Image> = ours
        .iter()
        .chain(substitutes.iter().map(|(_, image)| image))
        .cloned()
        .collect();
    provider
        .load(&all)
        .context("failed to load the images into the cluster")?;
    let ours = ours.iter().map(|image| (image.name.clone(), image));
    ours.chain(substitutes.iter().map(|(name, image)| (name.clone(), image)))
        .map(|(name, image)| Ok((name, provider.reference(image)?)))
        .collect()
}

/// What a shell needs so that `kubectl` talks to this cluster.
pub fn environment(kubectl: &Kubectl) -> Vec<String> {
    let file = kubectl
        .kubeconfig()
        .map(|file| format!("export KUBECONFIG={}", file.display()));
    let folder = kubectl.program().parent().filter(|folder| folder.is_absolute());
    file.into_iter()
        .chain(folder.map(|folder| format!("export PATH={}:$PATH", folder.display())))
        .collect()
}

/// What to type next.
fn print(provider: &dyn Provider, began: Instant) {
    println!("\nup after {:.1} s\n", began.elapsed().as_secs_f64());
    environment(&provider.kubectl())
        .iter()
        .for_each(|line| println!("{line}"));
    let gateway = provider.gateway().unwrap_or_else(|| {
        println!("kubectl port-forward -n shop service/gateway 8080:80");
        "http://127.0.0.1:8080".to_owned()
    });
    println!("\nthe gateway is {gateway}; three things to try:\n");
    println!(
        "curl -i {gateway}/user/users/ -H 'content-type: application/json' -d '{{\"username\": \"ada\"}}'"
    );
    println!(
        "curl -i {gateway}/order/orders/ -H 'content-type: application/json' -d '{{\"order_id\": 1, \"username\": \"ada\", \"amount\": 12.50}}'"
    );
    println!("curl -i {gateway}/order/orders/1");
}
