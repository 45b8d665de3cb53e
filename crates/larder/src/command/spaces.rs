//! `larder spaces`: trees with a quota and a policy of their own.
//!
//! Not here: what is in them (`larder ls SPACE:/`).

use http::Method;
use serde_json::{Map, Value, json};

use super::{Context, list_all, path};
use crate::{
    args::{SpaceSettings, SpacesVerb, Split, Unset},
    client::{
        Call,
        api::segment,
        error::{ClientError, Result},
    },
};

/// Runs `larder spaces`.
pub(crate) async fn run(context: &Context, verb: &SpacesVerb) -> Result<()> {
    let url = |space: &str| -> Result<String> {
        Ok(format!("/v1/spaces/{}", segment(path::space(space)?)))
    };
    let (space, call) = match verb {
        SpacesVerb::Ls => return list(context).await,
        SpacesVerb::Create { name, kind, settings } => {
            let mut body = settings.body();
            body.insert("name".to_owned(), name.as_str().into());
            body.insert("kind".to_owned(), kind.as_str().into());
            let call = Call::new(Method::POST, "/v1/spaces".to_owned()).json(&body.into());
            (name, call)
        }
        SpacesVerb::Show { space } => (space, Call::new(Method::GET, url(space)?)),
        SpacesVerb::Set { space, settings } => {
            let body = settings.body();
            if body.is_empty() {
                return Err(ClientError::usage("nothing to set; see `larder spaces set --help`"));
            }
            let mut call = Call::new(Method::PATCH, url(space)?).json(&body.into());
            call.repeat = crate::client::Repeat::Harmless;
            (space, call)
        }
        SpacesVerb::Rm { space } => {
            let call = Call::new(Method::DELETE, url(space)?);
            return context.client.done(&call).await.map_err(|error| error.about(space));
        }
    };
    let value = context.client.json(&call).await.map_err(|error| error.about(space))?;
    context.out.record(&value)
}

/// Lists all spaces the caller can see.
pub(crate) async fn list(context: &Context) -> Result<()> {
    list_all(context, "/v1/spaces", &["name", "kind", "id"]).await
}

impl SpaceSettings {
    /// `limits` and `policy`, with only what was given.
    fn body(&self) -> Map<String, Value> {
        let value = |setting: Option<Unset<u64>>| {
            setting.map(|setting| match setting {
                Unset::None => Value::Null,
                Unset::Some(number) => number.into(),
            })
        };
        let versions = object([("keep", value(self.keep)), ("days", value(self.days))]);
        let copies = self
            .copies
            .as_deref()
            .map(|copies| copies.parse::<u64>().map_or_else(|_| Value::from(copies), Value::from));
        let split = self.split.map(|split| match split {
            Split::Whole => Value::from("whole"),
            Split::Fixed(bytes) => json!({ "fixed": bytes }),
            Split::Stripe(count) => json!({ "stripe": count }),
        });
        let policy = object([
            ("split", split),
            ("copies", copies),
            ("ack", self.ack.map(Value::from)),
            ("versions", versions),
            ("trash_days", value(self.trash_days)),
        ]);
        let limits = object([("live", value(self.live)), ("retained", value(self.retained))]);
        match object([("limits", limits), ("policy", policy)]) {
            Some(Value::Object(body)) => body,
            _ => Map::new(),
        }
    }
}

/// An object of those fields that have a value; `None` if none has.
fn object<const N: usize>(fields: [(&str, Option<Value>); N]) -> Option<Value> {
    let fields = fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    let fields: Map<String, Value> = fields.collect();
    (!fields.is_empty()).then(|| json!(fields))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_given_is_sent_and_none_is_null() {
        assert!(SpaceSettings::default().body().is_empty());
        let settings = SpaceSettings {
            live: Some(Unset::Some(10)),
            keep: Some(Unset::None),
            copies: Some("all".to_owned()),
            ack: Some(1),
            split: Some(Split::Stripe(6)),
            ..SpaceSettings::default()
        };
        assert_eq!(
            Value::from(settings.body()),
            json!({
                "limits": { "live": 10 },
                "policy": {
                    "split": { "stripe": 6 }, "copies": "all", "ack": 1,
                    "versions": { "keep": null }
                }
            })
        );
    }
}
