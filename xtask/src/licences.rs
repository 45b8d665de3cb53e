//! Licences of all dependencies, and crates that must not be among them.
//!
//! Promises: the lists are those of `deny.toml`, so that `cargo deny` and this agree.
//! Not here: advisories (`cargo deny check`, where it is installed).

use std::{fs, path::Path};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::{
    edges::{list, text},
    tidy::Finding,
};

/// What `deny.toml` says.
#[derive(Debug)]
pub(crate) struct Policy {
    allowed: Vec<String>,
    banned: Vec<String>,
}

impl Policy {
    /// Reads `deny.toml` at the top of the repository.
    pub(crate) fn read(root: &Path) -> Result<Self> {
        let toml = fs::read_to_string(root.join("deny.toml")).context("read deny.toml")?;
        Ok(Self { allowed: strings(&toml, "allow")?, banned: strings(&toml, "deny")? })
    }

    /// Whether an SPDX expression can be met with allowed licences alone.
    fn permits(&self, expression: &str) -> bool {
        // `A AND B OR C`: AND binds closer; `/` is the old way to write OR. Parentheses are
        // taken away from the inside out, each replaced by what it comes to.
        let mut rest = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
        while let Some(open) = rest.rfind('(') {
            let Some(close) = rest[open..].find(')').map(|at| open + at) else { return false };
            let inner = if self.permits_flat(&rest[open + 1..close]) { YES } else { "no" };
            rest.replace_range(open..=close, inner);
        }
        self.permits_flat(&rest)
    }

    fn permits_flat(&self, expression: &str) -> bool {
        let words = expression.split_whitespace().collect::<Vec<_>>().join(" ");
        words.split(" OR ").any(|choice| {
            choice.split(" AND ").all(|one| one == YES || self.allowed.iter().any(|ok| ok == one))
        })
    }
}

/// Stands for a parenthesis that is permitted; no licence is called so.
const YES: &str = "+";

/// The strings of the first list called `key`.
fn strings(toml: &str, key: &str) -> Result<Vec<String>> {
    let opening = format!("{key} = [");
    let list = toml
        .lines()
        .skip_while(|line| line.trim() != opening)
        .skip(1)
        .take_while(|line| line.trim() != "]");
    let list: Vec<String> =
        list.map(|line| line.trim().trim_end_matches(',').trim_matches('"').to_owned()).collect();
    if list.is_empty() {
        bail!("deny.toml has no list that begins with `{opening}`");
    }
    Ok(list)
}

/// Every dependency that is banned or has no permissive licence.
pub(crate) fn check(metadata: &Value, policy: &Policy) -> Vec<Finding> {
    let mut found = Vec::new();
    for package in list(metadata, "packages") {
        let (name, licence) = (text(package, "name"), text(package, "license"));
        if policy.banned.iter().any(|banned| banned == name) {
            found.push(Finding::new("Cargo.lock", 0, format!("{name} is banned by deny.toml")));
        }
        if !policy.permits(licence) {
            let what = format!("licence `{licence}` of {name} is not allowed by deny.toml");
            found.push(Finding::new("Cargo.lock", 0, what));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn policy() -> Policy {
        let own = |list: &[&str]| list.iter().map(|one| (*one).to_owned()).collect();
        Policy { allowed: own(&["MIT", "Apache-2.0"]), banned: own(&["openssl-sys"]) }
    }

    #[test]
    fn only_what_can_be_met_with_allowed_licences_passes() {
        for ok in ["MIT", "MIT/Apache-2.0", "GPL-3.0 OR MIT", "(MIT OR GPL-3.0) AND Apache-2.0"] {
            assert!(policy().permits(ok), "{ok}");
        }
        for bad in [
            "",
            "GPL-3.0",
            "MIT AND GPL-3.0",
            "(MIT OR Apache-2.0) AND GPL-3.0",
            "(GPL-3.0 AND MIT) OR AGPL-3.0",
            "(MIT",
        ] {
            assert!(!policy().permits(bad), "{bad}");
        }
    }

    #[test]
    fn a_banned_crate_and_a_foreign_licence_are_refused() {
        let packages = json!({"packages": [
            {"name": "openssl-sys", "license": "MIT"},
            {"name": "copyleft", "license": "GPL-3.0"},
            {"name": "fine", "license": "MIT OR GPL-3.0"},
        ]});
        let found: Vec<_> = check(&packages, &policy()).into_iter().map(|f| f.what).collect();
        assert_eq!(
            found,
            [
                "openssl-sys is banned by deny.toml",
                "licence `GPL-3.0` of copyleft is not allowed by deny.toml"
            ]
        );
    }
}
