//! What a dump does with each record family, and why.
//!
//! Promises: every family of the schema stands in [`FAMILIES`] (a test reads the schema's source);
//! what is not carried over says why.
//!
//! Not here: the records.

/// What a dump does with a family.
#[derive(Debug)]
pub(crate) struct Family {
    pub(crate) name: [u8; 2],
    /// The form of its values, as far as a dump looks at them.
    pub(crate) form: Form,
    /// How its records are found when one space is dumped.
    pub(crate) of_space: OfSpace,
    /// Why so, where that does not go without saying.
    #[cfg_attr(not(test), expect(dead_code, reason = "read by people, and by a test"))]
    pub(crate) why: &'static str,
}

/// The form of the values of a family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// Not in dumps.
    Never,
    /// A format byte and what follows it, carried over as it is.
    Plain,
    /// Counters, carried over as they are.
    Counters,
    /// The meters of a space: what is reserved for uploads is not carried over.
    Meters,
    /// A directory entry: a file's blob gets another id.
    Dirent,
    /// A revision: its blob gets another id.
    Revision,
    /// A trash item: a file's blob gets another id.
    Trashed,
}

/// How the records of one space are found, and what a load of one space does with them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OfSpace {
    /// They are not in a dump of one space.
    No,
    /// Their keys begin with the family and the space.
    Prefix,
    /// The record of the space itself: written last.
    Space,
    /// Each belongs to a node of the space.
    Node,
    /// Each belongs to a share of the space: written after the space.
    Share,
    /// Each says in its value which space it belongs to: written after the space.
    Job,
}

impl Family {
    /// Whether it must be empty in an instance that a whole dump is loaded into: all that dumps
    /// have, but the one user, and jobs, which are about nothing there.
    pub(crate) fn must_be_empty(&self) -> bool {
        self.form != Form::Never
            && self.of_space != OfSpace::Job
            && !matches!(&self.name, b"us" | b"un")
    }
}

const fn family(name: [u8; 2], form: Form, of_space: OfSpace, why: &'static str) -> Family {
    Family { name, form, of_space, why }
}

/// Every family, in the order in which a dump has them.
pub(crate) const FAMILIES: &[Family] = &[
    family(*b"sp", Form::Plain, OfSpace::Space, "first, so that a load can refuse at once"),
    family(*b"us", Form::Plain, OfSpace::No, "another instance has users of its own"),
    family(*b"un", Form::Plain, OfSpace::No, "as `us`"),
    family(*b"ak", Form::Plain, OfSpace::No, "as `us`"),
    family(*b"uk", Form::Plain, OfSpace::No, "as `us`"),
    family(*b"gr", Form::Plain, OfSpace::No, "as `us`"),
    family(*b"gn", Form::Plain, OfSpace::No, "as `us`"),
    family(*b"gm", Form::Plain, OfSpace::No, "as `us`"),
    family(*b"ug", Form::Plain, OfSpace::No, "as `us`"),
    family(*b"ks", Form::Plain, OfSpace::No, "as `us`; what is sealed needs the master key"),
    family(*b"kn", Form::Plain, OfSpace::No, "as `us`"),
    family(*b"ku", Form::Plain, OfSpace::No, "as `us`"),
    family(*b"ut", Form::Plain, OfSpace::No, "as `us`"),
    family(*b"sn", Form::Plain, OfSpace::No, "made from `sp`"),
    family(*b"ho", Form::Plain, OfSpace::No, "made from `sp`, if its owner is there"),
    family(*b"au", Form::Plain, OfSpace::Prefix, ""),
    family(*b"to", Form::Plain, OfSpace::Prefix, ""),
    family(*b"de", Form::Dirent, OfSpace::Prefix, ""),
    family(*b"tr", Form::Trashed, OfSpace::Prefix, ""),
    family(*b"no", Form::Plain, OfSpace::Node, "after `au`, `de` and `tr`, which lead to it"),
    family(*b"rv", Form::Revision, OfSpace::Prefix, ""),
    family(*b"st", Form::Counters, OfSpace::Prefix, "exact in the snapshot"),
    family(*b"ht", Form::Counters, OfSpace::Prefix, "exact in the snapshot"),
    family(*b"qs", Form::Meters, OfSpace::Prefix, "exact in the snapshot, but for sessions"),
    family(*b"lc", Form::Plain, OfSpace::Prefix, ""),
    family(*b"bs", Form::Plain, OfSpace::Prefix, ""),
    family(*b"en", Form::Plain, OfSpace::Node, ""),
    family(*b"ex", Form::Plain, OfSpace::No, "made from `en`"),
    family(*b"sh", Form::Plain, OfSpace::Share, ""),
    family(*b"sg", Form::Plain, OfSpace::Share, ""),
    family(*b"lk", Form::Plain, OfSpace::Share, ""),
    family(*b"ld", Form::Counters, OfSpace::Share, ""),
    family(*b"lt", Form::Plain, OfSpace::No, "made from `lk`"),
    family(*b"si", Form::Plain, OfSpace::No, "made from `sh`"),
    family(*b"sy", Form::Plain, OfSpace::No, "made from `sh`"),
    family(*b"jb", Form::Plain, OfSpace::Job, "work that is left: it goes on, looks do not"),
    family(*b"jx", Form::Plain, OfSpace::Job, "as `jb`"),
    family(*b"jc", Form::Plain, OfSpace::Job, "as `jb`"),
    family(*b"jd", Form::Never, OfSpace::No, "a log of what the dumped instance has done"),
    family(*b"bl", Form::Never, OfSpace::No, "blobs have frames of their own"),
    family(*b"gq", Form::Never, OfSpace::No, "condemned blobs are not carried over"),
    family(*b"in", Form::Never, OfSpace::No, "every installation has its own"),
    family(*b"gw", Form::Never, OfSpace::No, "belongs to a process"),
    family(*b"op", Form::Never, OfSpace::No, "belongs to requests of the dumped instance"),
    family(*b"le", Form::Never, OfSpace::No, "belongs to a process"),
    family(*b"ri", Form::Never, OfSpace::No, "belongs to a process and its chunks"),
    family(*b"rt", Form::Never, OfSpace::No, "a pace, kept by the clock of one machine"),
    family(*b"cf", Form::Never, OfSpace::No, "its keys are commits of one engine: cursors end"),
    family(*b"cb", Form::Never, OfSpace::No, "a loaded space has a feed that begins anew"),
    family(*b"lw", Form::Never, OfSpace::No, "a pace, kept by the clock of one machine"),
    family(*b"se", Form::Never, OfSpace::No, "unfinished uploads go on where they are"),
    family(*b"su", Form::Never, OfSpace::No, "as `se`"),
    family(*b"mu", Form::Never, OfSpace::No, "as `se`"),
    family(*b"sc", Form::Never, OfSpace::No, "as `se`"),
    family(*b"sd", Form::Never, OfSpace::No, "as `se`"),
    family(*b"up", Form::Never, OfSpace::No, "as `se`"),
    family(*b"uq", Form::Never, OfSpace::No, "as `se`"),
    family(
        *b"ow",
        Form::Never,
        OfSpace::No,
        "loaded chunks are staged under the ids of their blobs",
    ),
    family(*b"ox", Form::Never, OfSpace::No, "belongs to requests of the dumped instance"),
    family(*b"oc", Form::Never, OfSpace::No, "as `ox`"),
    family(*b"mk", Form::Never, OfSpace::No, "every installation has its own; the header has it"),
    family(*b"lo", Form::Never, OfSpace::No, "a load that is under way"),
    family(*b"lx", Form::Never, OfSpace::No, "a load that is under way"),
];

/// The family of a key.
pub(crate) fn of(key: &[u8]) -> Option<&'static Family> {
    FAMILIES.iter().find(|family| key.starts_with(&family.name))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// The families that the sources of the schema and of the engines make keys of.
    fn of_sources() -> BTreeSet<String> {
        let manifest = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        let folder = std::fs::read_dir(manifest.join("src/schema")).expect("the schema");
        let mut files: Vec<_> = folder.map(|entry| entry.expect("an entry").path()).collect();
        files.push(manifest.join("../meta/src/spec.rs"));
        let mut found = BTreeSet::new();
        for file in files {
            let text = std::fs::read_to_string(&file).expect("a source");
            for (start, end) in [("key(*b\"", "\""), ("let mut key = b\"", "\".to_vec()")] {
                for part in text.split(start).skip(1) {
                    let name = part.split(end).next().unwrap_or_default();
                    if name.len() == 2 {
                        found.insert(name.to_owned());
                    }
                }
            }
        }
        found
    }

    #[test]
    fn every_family_of_the_schema_is_dumped_or_says_why_not() {
        let sources = of_sources();
        assert!(sources.len() > 25, "the schema has more families than {sources:?}");
        let mut listed = BTreeSet::new();
        for family in FAMILIES {
            let name = std::str::from_utf8(&family.name).expect("ASCII").to_owned();
            assert!(family.form != Form::Never || !family.why.is_empty(), "{name}: say why");
            assert!(listed.insert(name.clone()), "{name} stands here twice");
        }
        let missing: Vec<_> = sources.difference(&listed).collect();
        assert!(missing.is_empty(), "say here what a dump does with {missing:?}");
        let gone: Vec<_> = listed.difference(&sources).collect();
        assert!(gone.is_empty(), "no such family any more: {gone:?}");
    }
}
