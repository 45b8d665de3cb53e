//! `larder uploads`: unfinished uploads.
//!
//! Not here: going on with one, which `larder put` does ([`super::resume`]).

use super::{Context, list_all};
use crate::{args::UploadsVerb, client::error::Result, output::Failures};

/// Runs `larder uploads`.
pub(crate) async fn run(context: &Context, verb: &UploadsVerb) -> Result<()> {
    match verb {
        UploadsVerb::List => {
            let columns = ["id", "state", "offset", "length", "expires", "path"];
            list_all(context, "/v1/uploads", &columns).await
        }
        UploadsVerb::Abort { uploads } => {
            let mut failures = Failures::default();
            for upload in uploads {
                if let Err(error) = context.client.abort_upload(upload).await {
                    failures.add(&context.out, &error.about(upload));
                }
            }
            failures.finish()
        }
    }
}
