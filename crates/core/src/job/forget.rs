//! Removing what is left of users and groups that are no more.
//!
//! Every part that keeps records for a user or group has a step here. A step removes some of them
//! in one bounded transaction and answers whether there were any; the job goes on with it until
//! there are none. Nothing depends on how far it is (`identity::forget` says why), so it may be
//! broken off and begun again anywhere.
//!
//! Not here: the steps (the parts), the removal itself (`identity`).

use larder_base::id::{GroupId, UserId};

use crate::{Larder, access::Principal, board::Running, error::Result, schema::JobEnd};

impl Larder {
    /// Removes all that there is of a user who was deleted, but the home, which has a job of its
    /// own.
    pub(crate) async fn forget_user(&self, job: &Running, user: UserId) -> Result<()> {
        while self.forget_keys(user).await? {
            step(job)?;
        }
        while self.forget_memberships(user).await? {
            step(job)?;
        }
        self.forget_shares_with(Principal::User(user)).await?;
        self.forget_links_by(user).await?;
        self.end_sessions_of(user).await?;
        self.end_job(job, JobEnd::Done, String::new()).await
    }

    /// Removes all that there is of a group that was deleted.
    pub(crate) async fn forget_group(&self, job: &Running, group: GroupId) -> Result<()> {
        while self.forget_members(group).await? {
            step(job)?;
        }
        self.forget_shares_with(Principal::Group(group)).await?;
        self.end_job(job, JobEnd::Done, String::new()).await
    }
}

fn step(job: &Running) -> Result<()> {
    job.live.advance(1);
    job.go_on()
}
