//! The composition root of `larder serve`.
//!
//! Not here: settings (`config`), what the parts do (their crates).

use crate::config::Config;

/// Runs a server until it is told to stop.
#[expect(clippy::unused_async, reason = "the parts that are awaited are still to be put together")]
pub(crate) async fn run(config: Config) -> anyhow::Result<()> {
    anyhow::bail!("serve from {}: not available yet", config.data_dir.display())
}
