//! What must hold for a change to be made, judged on what it changes (RFC 9110 section 13).
//!
//! Not here: when they are judged (each operation, on the state that its commit replaces), how a
//! request says them (the doors).

use larder_base::{ErrorKind, Timestamp, id::NodeId};

use crate::{
    entry::{Conditions, EtagSet},
    error::{Error, Result},
    schema::FileState,
};

/// The detail of an error that says: an etag was demanded where there is nothing.
pub const NOTHING_MATCHES: &str = "there is nothing here that could have the etag demanded";

impl Conditions {
    /// Judges the conditions on a file, by the server's etag and by the one that S3 shows.
    pub(crate) fn check_file(&self, current: Option<(NodeId, &FileState)>) -> Result<()> {
        if self.is_empty() {
            return Ok(());
        }
        let Some((node, state)) = current else { return self.check(None) };
        let etags = [state.etag(node).to_string(), state.object_etag(node)];
        self.check(Some((&etags, state.modified)))
    }

    /// Judges the conditions on etags and a time of last change; `None` is nothing there.
    pub(crate) fn check(&self, current: Option<(&[String], Timestamp)>) -> Result<()> {
        let matches = |set: &EtagSet| match (set, current) {
            (_, None) => false,
            (EtagSet::Any, Some(_)) => true,
            (EtagSet::These(tags), Some((etags, _))) => tags.iter().any(|tag| etags.contains(tag)),
        };
        let fails = |detail: &'static str| Err(Error::new(ErrorKind::Precondition, detail));
        if self.if_match.as_ref().is_some_and(|set| !matches(set)) {
            return match current {
                Some(_) => fails("the current etag is not the one demanded"),
                None => fails(NOTHING_MATCHES),
            };
        }
        if self.if_none_match.as_ref().is_some_and(matches) {
            return fails("there is such an entry already");
        }
        if let (Some(since), Some((_, modified))) = (self.if_unmodified_since, current)
            && modified.millis().div_euclid(1000) > since.millis().div_euclid(1000)
        {
            return fails("the content has changed since");
        }
        Ok(())
    }
}
