//! The composition root of `larder serve`: the only place that opens engines and stores, and the
//! only one that knows which parts there are.
//!
//! Order of start: metadata, then the chunk store that the metadata says must be there, then the
//! file store over both, then the doors; nobody is let in before everything is open. Order of
//! end: doors drain, jobs stop, engines close.
//!
//! Prints, on standard output, the password of the first user if it made one, and then one line
//! `larder ready http=ADDRESS s3=ADDRESS` once requests are served (`https=ADDRESS` with a
//! certificate, no `s3` if that door is off).
//!
//! Not here: settings (`config`), what the parts do (their crates).

use std::{io::Write as _, num::NonZeroU32, path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context as _;
use larder_base::{Env, Memory, failpoint};
use larder_chunk::{
    BufferPool, ChunkStore,
    local::{Expect, LocalOptions, LocalStore},
    observe::Observed,
};
use larder_core::{FirstUser, Larder, Stores, WorkSettings};
use larder_http::{Limits, LimitsOptions, Patience, ServeOptions, Server, Status, Tls, TlsOptions};
use larder_meta::{
    MetaStore,
    engine::embedded::{EmbeddedOptions, EmbeddedStore},
    observe::ObservedStore,
};
use larder_rest::{MoreMetrics, Rest, RestOptions};
use larder_s3::{S3Door, S3Options, StaticPair};
use tokio::signal::unix::{SignalKind, signal};
use zeroize::Zeroizing;

use crate::{
    config::{
        Config,
        value::{ByteRate, Listener},
    },
    master_key,
    metrics::Engines,
};

/// The least memory budget: a few buffers and connections.
const MEMORY_MIN: usize = 8 << 20;

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
    let mut hangup = signal(SignalKind::hangup()).context("listen for SIGHUP")?;

    // First, because nothing else goes wrong so often.
    let tls = open_tls(&config)?;
    let meta = open_metadata(&config, &env)?;
    let mut engines = Engines { meta, stores: Vec::new(), tls: tls.clone() };
    let (larder, made) = open_larder(&config, &mut engines, &env).await?;
    let status = Status::default();
    let limits = limits(&config, &env);
    let options = RestOptions {
        file_bytes_max: config.limits_file_bytes_max.map(|size| size.bytes()),
        body_patience: patience(&config),
        limits: Some(limits.clone()),
        metrics_token: config.metrics_token.as_ref().map(|token| token.reveal().to_owned()),
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
        stall_timeout: config.http_stall_timeout,
        min_rate: config.http_min_rate.map(ByteRate::per_second),
        header_bytes_max: usize::try_from(config.http_header_bytes_max.bytes())
            .context("http.header_bytes_max")?,
        headers_max: config.http_headers_max,
        tls: tls.clone(),
        limits: Some(limits),
        memory: larder.memory().clone(),
    };
    // Before anything else that can fail: this password is told once.
    if let Some(password) = made {
        say(&format!("larder first start: user={} password={password}", config.root_user))?;
    }
    let server = Server::start(&options, rest, &env, &status)?;
    let s3 = start_s3(&config, options, &larder, &env, &status)?;
    let address = server.addresses().first().context("no listener")?;
    let s3_address = s3.as_ref().and_then(|server| server.addresses().first());
    let scheme = if tls.is_some() { "https" } else { "http" };
    let more = s3_address.map(|address| format!(" s3={address}")).unwrap_or_default();
    say(&format!("larder ready {scheme}={address}{more}"))?;
    tracing::info!(%address, scheme, s3 = ?s3_address, instance = %larder.instance(), "serving");
    let watch = tls.clone().map(|tls| {
        env.spawn("watch the certificate", tls.watch(config.tls_reload_interval, env.clone()))
    });

    loop {
        tokio::select! {
            _ = terminate.recv() => {
                tracing::info!("told to stop by SIGTERM");
                break;
            }
            _ = interrupt.recv() => {
                tracing::info!("told to stop by SIGINT");
                break;
            }
            _ = hangup.recv() => look_again(tls.as_ref()).await,
        }
    }
    if let Some(watch) = watch {
        watch.abort();
    }
    // Together: each waits for the connections of all.
    let end_s3 = async {
        if let Some(s3) = s3 {
            s3.shutdown().await;
        }
    };
    tokio::join!(server.shutdown(), end_s3);
    larder.shutdown().await.context("close the store")?;
    tracing::info!("stopped");
    Ok(())
}

/// Reads certificate and key, if there are to be any.
fn open_tls(config: &Config) -> anyhow::Result<Option<Tls>> {
    let (Some(cert_file), Some(key_file)) = (&config.tls_cert_file, &config.tls_key_file) else {
        return Ok(None);
    };
    let options = TlsOptions { cert_file: cert_file.clone(), key_file: key_file.clone() };
    Ok(Some(Tls::load(options).context("open the certificate")?))
}

/// What SIGHUP asks for.
async fn look_again(tls: Option<&Tls>) {
    let Some(tls) = tls.cloned() else {
        tracing::info!("told by SIGHUP to look for a new certificate, but there is none");
        return;
    };
    let outcome = tokio::task::spawn_blocking(move || tls.reload()).await;
    tracing::info!(?outcome, "told by SIGHUP to look for a new certificate");
}

/// How slowly bodies may come.
fn patience(config: &Config) -> Patience {
    match config.http_min_rate {
        Some(rate) => Patience::with_rate(
            config.http_idle_timeout,
            config.http_stall_timeout,
            rate.per_second(),
        ),
        None => Patience::of(config.http_idle_timeout),
    }
}

/// Opens the S3 door, unless it is off. The first user's name and password are a key pair there,
/// as long as they are the user's.
fn start_s3(
    config: &Config,
    options: ServeOptions,
    larder: &Larder,
    env: &Env,
    status: &Status,
) -> anyhow::Result<Option<Server>> {
    let Listener(Some(address)) = config.s3_address else { return Ok(None) };
    let pair = config.root_password.as_ref().map(|password| StaticPair {
        name: config.root_user.clone(),
        password: Zeroizing::new(password.reveal().to_owned()),
    });
    let door = S3Options {
        region: config.s3_region.clone(),
        domain: config.s3_domain.clone(),
        file_bytes_max: config.limits_file_bytes_max.map(|size| size.bytes()),
        body_patience: patience(config),
        limits: options.limits.clone(),
        tls: options.tls.is_some(),
        pair,
    };
    let door = S3Door::new(larder.clone(), env, status, door);
    let options = ServeOptions { addresses: vec![address], ..options };
    Ok(Some(Server::start(&options, door, env, status)?))
}

/// Who may ask, how often and how fast.
fn limits(config: &Config, env: &Env) -> Limits {
    let options = LimitsOptions {
        allow: config.net_allow.clone(),
        deny: config.net_deny.clone(),
        trusted_proxies: config.net_trusted_proxies.clone(),
        forwarded_header: config.net_forwarded_header,
        connections_per_address: config.http_max_connections_per_address,
        requests_per_address: config.rate_requests_per_address,
        requests_per_user: config.rate_requests_per_user,
        requests_per_key: config.rate_requests_per_key,
        bytes_per_address: config.rate_bytes_per_address.map(|rate| rate.0),
        bytes_per_user: config.rate_bytes_per_user.map(|rate| rate.0),
        bytes_per_key: config.rate_bytes_per_key.map(|rate| rate.0),
    };
    Limits::new(options, env)
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
    let memory = Memory::new(budget.max(MEMORY_MIN));
    let pool = BufferPool::of(memory.clone());
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
    let default = || master_key::default_path(&config.data_dir);
    let path = config.master_key_file.clone().unwrap_or_else(default);
    let replace = config.master_key_replace;
    let master_key = master_key::open(&path, bootstrap.master_key, replace, env)?;
    let first_user = FirstUser {
        name: config.root_user.clone(),
        password: config.root_password.as_ref().map(|secret| secret.reveal().to_owned()),
    };
    let settings = larder_core::Config {
        trash_retention: config.trash_retention,
        revisions_keep: config.revisions_keep,
        revisions_retention: config.revisions_retention,
        feed_retention: config.feed_retention,
        feed_entries_max: config.feed_entries_max as u64,
        collect_interval: config.collect_interval,
        lifecycle_interval: config.lifecycle_interval,
        lifecycle_day: config.lifecycle_day,
        idempotency_retention: config.idempotency_retention,
        idempotency_keys_max: config.idempotency_keys_max as u64,
        scrub_interval: config.scrub_interval,
        upload_session_ttl: config.upload_session_ttl,
        multipart_ttl: config.upload_multipart_ttl,
        upload_sweep_interval: config.upload_sweep_interval,
        upload_sessions_per_user_max: config.upload_sessions_per_user_max,
        upload_result_retention: config.upload_result_retention,
        lease_ttl: config.lease_ttl,
        memory,
        work: WorkSettings {
            slots: config.work_slots,
            upload_percent: config.work_upload_percent,
            queue_max: config.work_queue_max,
        },
        master_key: Some(master_key),
        master_key_replace: config.master_key_replace,
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
