//! Many users at once, and records as older versions wrote them.
//!
//! Not here: users one by one ([`Fixture::user`]).

use larder_base::id::{KeyId, UserId};
use larder_meta::TxnSpec;

use super::Fixture;
use crate::{
    identity::key,
    schema::{self, ApiKey, User},
    txn,
};

/// Users written by one commit: each is two records.
const BATCH: usize = 50;

impl Fixture {
    /// Makes `count` users named `crowd-0`, `crowd-1` ... with the password of the fixture, past
    /// the hashing, which would take hours.
    pub async fn crowd(&self, count: usize) {
        let snapshot = self.meta.snapshot().await.expect("snapshot");
        let root = txn::get::<User>(&*snapshot, &schema::user_key(self.root.user)).await;
        let root = root.expect("read").expect("root").value;
        drop(snapshot);
        for from in (0..count).step_by(BATCH) {
            let mut spec = TxnSpec::default();
            for i in from..count.min(from + BATCH) {
                let id = UserId::new(&self.env);
                let name = format!("crowd-{i}");
                let name_key = schema::user_name_key(&name);
                let user = User { name, admin: false, ..root.clone() };
                spec.put.push((name_key, schema::encode(&id)));
                spec.put.push((schema::user_key(id), schema::encode(&user)));
            }
            self.meta.commit(spec).await.expect("commit");
        }
    }

    /// A key of the root user as the first version stored it: its id and its text.
    pub async fn old_key(&self) -> (KeyId, String) {
        let id = KeyId::new(&self.env);
        let (text, secret) = key::draw_token(&self.env, key::API_PREFIX, id);
        let schema::StoredSecret::Digest(digest) = secret else { panic!("a digest is stored") };
        let (user, created) = (self.root.user, self.env.now());
        let old = ApiKey { user, name: "old".to_owned(), digest, created, expires: None };
        let mut spec = TxnSpec::default();
        spec.put.push((schema::api_key_key(id), schema::encode(&old)));
        spec.put.push((schema::user_api_key_key(user, id), schema::encode(&())));
        self.meta.commit(spec).await.expect("commit");
        (id, text.to_string())
    }

    /// The families of all records that hold these bytes in key or value, but those of jobs.
    pub async fn families_with(&self, bytes: &[u8]) -> Vec<String> {
        let snapshot = self.meta.snapshot().await.expect("snapshot");
        let mut found = Vec::new();
        let mut start = vec![0];
        loop {
            let page = snapshot.scan(&start, &[0xff], 1000).await.expect("scan");
            let Some((last, _)) = page.last() else { return found };
            start = [last, &[0][..]].concat();
            for (key, record) in &page {
                let has = |text: &[u8]| text.windows(bytes.len()).any(|window| window == bytes);
                if key[0] != b'j' && (has(key) || has(&record.value)) {
                    found.push(String::from_utf8_lossy(&key[..2]).into_owned());
                }
            }
        }
    }
}
