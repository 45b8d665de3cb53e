//! `larder load`: loads a dump into a server.
//!
//! Promises: nothing of it can be seen before all of it has arrived and been verified there; a
//! load that is interrupted leaves nothing.
//!
//! Not here: what is loaded, and where that is possible (core).

use std::path::Path;

use http::Method;
use serde_json::Value;

use super::Context;
use crate::{
    args::LoadArgs,
    client::{
        Call, Repeat,
        body::{Moved, Payload},
        error::{ClientError, Result},
    },
};

/// Runs `larder load`.
pub(crate) async fn run(context: &Context, args: &LoadArgs) -> Result<()> {
    let mut call = Call::new(Method::POST, "/v1/admin/load".to_owned());
    call.payload = if args.file == Path::new("-") {
        Payload::Stdin
    } else {
        let metadata = std::fs::metadata(&args.file);
        let length = metadata.map_err(|error| ClientError::local(&args.file, error))?.len();
        Payload::File(args.file.clone(), length)
    };
    // A repetition could meet its own work.
    call.repeat = Repeat::Refused;
    // Between the last byte and the answer everything is made visible.
    call.unhurried = true;
    let bar = context.out.progress();
    if let Payload::File(_, length) = &call.payload {
        bar.set_length(*length);
    }
    call.moved = Moved::new(bar.clone());
    let report = context.client.json(&call).await;
    bar.finish_and_clear();
    let report = report?;
    context.out.record(&report)?;
    if report.get("space").is_some_and(Value::is_null) {
        context.out.note("the users of the dump have taken the place of this one");
    }
    if report.get("owner_replaced") == Some(&Value::Bool(true)) {
        context.out.note("the owner of the space is not known there: it is yours now");
    }
    if report.get("secrets_readable") == Some(&Value::Bool(false)) {
        context.out.note(
            "the server has another master key than the dumped one had: S3 key pairs do not work, \
             and links cannot be shown, until it is started with that key",
        );
    }
    Ok(())
}
