//! The tree: names, directories, and where they are.
//!
//! Promises (docs/semantics.md section 3; the checker re-proves them):
//! - I-TREE-1 one winner per name: a name in a directory stands for at most one node;
//! - I-TREE-2 every node but roots and trash-roots has exactly one entry, which agrees with it;
//! - I-TREE-3 no cycles: every chain of parents ends at a root or in the trash;
//! - I-TREE-4 sizes and counts of a directory equal the sums over its entries, in every commit;
//! - I-TREE-5 nothing is acknowledged into a directory that is not attached.
//!
//! They follow from one rule (docs/transactions.md section 4): every change below a directory
//! compares the authority records of the whole chain up to the root, and whoever moves or trashes a
//! directory writes its authority record.
//!
//! Not here: contents of files (`upload`, `download`, `revision`), the trash (`trash`), moves
//! and copies (`relocate`, `copy`).

pub(crate) mod create;
pub(crate) mod list;
pub(crate) mod lookup;
