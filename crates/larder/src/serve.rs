//! The composition root of `larder serve`: the only place that opens engines and stores, and the
//! only one that knows which parts there are.
//!
//! Order of start: metadata, then the chunk store that the metadata says must be there, then the
//! file store over both, then the doors; nobody is let in before everything is open. Order of
//! end: doors drain, jobs stop, engines close.
//!
//! Prints, on standard output, the password of the first user if it made one, and then one line
//! `larder ready http=ADDRESS` once requests are served.
//!
//! Not here: settings (`config`), what the parts do (their crates).

use std::{io::Write as _, num::NonZeroU32, path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context as _;
use larder_base::{Env, failpoint};
use larder_chunk::{
    BufferPool, ChunkStore,
    local::{Expect, LocalOptions, LocalStore},
    observe::Observed,
};
use larder_core::{FirstUser, Larder, Stores};
use larder_http::{ServeOptions, Server, Status};
use larder_meta::{
    MetaStore,
    engine::embedded::{EmbeddedOptions, EmbeddedStore},
    observe::ObservedStore,
};
use larder_rest::{MoreMetrics, Rest, RestOptions};
use tokio::signal::unix::{SignalKind, signal};

use crate::{config::Config, metrics::Engines};

/// Calls of the metadata engine that take so long are logged.
const SLOW_FROM: Duration = Duration::from_secs(1);

/// Of how many snapshots one is measured: then the measuring costs nothing to speak of.
const READS_EVERY: NonZeroU32 = NonZeroU32::new(32).expect("32 is not 0");

/// Runs a server until it is told to stop by SIGTERM or SIGINT.
pub(crate) async fn run(config: Config) -> anyhow::Result<()> {
    arm_failpoint()?;
    let env = Env::system();
    // Asked for before anything is open, so that no signal falls between.
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;

    let meta = open_metadata(&config, &env)?;
    let mut engines = Engines { meta, stores: Vec::new() };
    let (larder, made) = open_larder(&config, &mut engines, &env).await?;
    let status = Status::default();
    let options = RestOptions {
        file_bytes_max: config.limits_file_bytes_max.map(|size| size.bytes()),
        body_idle_timeout: config.http_idle_timeout,
        more_metrics: MoreMetrics::new(move || engines.render()),
        ..RestOptions::default()
    };
    let rest = Rest::new(larder.clone(), &env, &status, options);
    let options = ServeOptions {
        addresses: vec![config.http_address],
        workers: config.http_workers.unwrap_or(0),
        connections_max: config.http_max_connections,
        header_timeout: config.http_header_timeout,
        idle_timeout: config.http_idle_timeout,
        drain_timeout: config.http_drain_timeout,
        ..ServeOptions::default()
    };
    // Before anything else that can fail: this password is told once.
    if let Some(password) = made {
        say(&format!("larder first start: user={} password={password}", config.root_user))?;
    }
    let server = Server::start(&options, rest, &env, &status)?;
    let address = server.addresses().first().context("no listener")?;
    say(&format!("larder ready http={address}"))?;
    tracing::info!(%address, instance = %larder.instance(), "serving");

    tokio::select! {
        _ = terminate.recv() => tracing::info!("told to stop by SIGTERM"),
        _ = interrupt.recv() => tracing::info!("told to stop by SIGINT"),
    }
    server.shutdown().await;
    larder.shutdown().await.context("close the store")?;
    tracing::info!("stopped");
    Ok(())
}

fn open_metadata(config: &Config, env: &Env) -> anyhow::Result<Arc<ObservedStore>> {
    let directory = config.data_dir.join("meta");
    let options = EmbeddedOptions {
        cache_bytes: config.meta_cache_bytes.bytes(),
        ..EmbeddedOptions::default()
    };
    let store = EmbeddedStore::open(&directory, options, env).context("open the metadata")?;
    let store = ObservedStore::new(Arc::new(store), env.clone(), SLOW_FROM);
    Ok(Arc::new(store.with_reads_every(READS_EVERY)))
}

/// Opens the chunk stores, which it adds to `engines`, and the file store over all engines.
async fn open_larder(
    config: &Config,
    engines: &mut Engines,
    env: &Env,
) -> anyhow::Result<(Larder, Option<String>)> {
    let meta: Arc<dyn MetaStore> = engines.meta.clone();
    let bootstrap = Larder::bootstrap(&*meta, env).await.context("read the metadata")?;
    let budget =
        usize::try_from(config.memory_budget_bytes.bytes()).context("memory.budget_bytes")?;
    let pool = BufferPool::new(budget);
    let stores = &mut engines.stores;
    for url in &config.store_urls {
        let directory = match url.strip_prefix("local:") {
            Some("") => config.data_dir.join("store"),
            Some(path) => PathBuf::from(path),
            None => anyhow::bail!("store.urls: {url:?} is not supported by this version"),
        };
        let expect = if bootstrap.new { Expect::New } else { Expect::Existing(None) };
        let options = LocalOptions::new(pool.clone(), bootstrap.instance, expect);
        let store = LocalStore::open(&directory, options, env)?;
        if !bootstrap.new && !bootstrap.servers.contains(&store.server()) {
            anyhow::bail!("{} holds another store than the metadata know", directory.display());
        }
        stores.push(Observed::new(Arc::new(store), env.clone()));
    }
    if let Some(missing) = bootstrap
        .servers
        .iter()
        .find(|server| !stores.iter().any(|store| store.server() == **server))
    {
        anyhow::bail!("store.urls lacks the store {missing}, which holds chunks");
    }
    let first_user = FirstUser {
        name: config.root_user.clone(),
        password: config.root_password.as_ref().map(|secret| secret.reveal().to_owned()),
    };
    let settings = larder_core::Config {
        trash_retention: config.trash_retention,
        revisions_keep: config.revisions_keep,
        revisions_retention: config.revisions_retention,
        collect_interval: config.collect_interval,
        scrub_interval: config.scrub_interval,
        lease_ttl: config.lease_ttl,
    };
    let stores = stores.iter().map(|store| Arc::new(store.clone()) as Arc<dyn ChunkStore>);
    let stores = Stores::new(stores.collect())?;
    Larder::open(settings, meta, stores, first_user, env.clone())
        .await
        .context("open the file store")
}

fn say(line: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).context("write to standard output")
}

/// Debug builds end themselves at the step that `LARDER_FAIL` names; see `base::failpoint`.
#[expect(clippy::disallowed_methods, reason = "for tests of debug builds only; no setting")]
fn arm_failpoint() -> anyhow::Result<()> {
    match std::env::var("LARDER_FAIL") {
        Ok(step) if cfg!(debug_assertions) => Ok(failpoint::arm(&step)?),
        _ => Ok(()),
    }
}
