//! Every upper bound that more than one crate relies on, each with its reason.
//!
//! Not here: settings that an operator may change (the binary's `config`), and bounds that only
//! one module knows (declared in that module).

/// Longest key of an entry of a bucket, in bytes; what S3 allows.
pub const OBJECT_KEY_BYTES_MAX: usize = 1024;

/// Longest name of an entry in a tree, in bytes after NFC; what file systems allow
/// (docs/semantics.md T5).
pub const NAME_BYTES_MAX: usize = 255;

/// Longest whole path in a tree, in bytes (docs/semantics.md T5).
pub const PATH_BYTES_MAX: usize = 4096;

/// Most names in one path: bounds every walk to a root, so that none needs recursion (T5).
pub const PATH_DEPTH_MAX: usize = 256;

/// Most entries in one page of any listing; what S3 clients expect.
pub const PAGE_ENTRIES_MAX: usize = 1000;

/// Largest body of a file that rides in the commit itself on the embedded engine.
///
/// Measured: up to here one log record is cheaper than a file of its own with its two syncs.
pub const INLINE_BYTES_MAX: usize = 128 << 10;

/// Most items in any list of one transaction; etcd's default is 128 per list (E01).
pub const TXN_ITEMS_MAX: usize = 110;

/// Most bytes of keys and values in one transaction; etcd's request limit is 1.5 MiB (E01).
pub const TXN_BYTES_MAX: usize = 1 << 20;

/// Longest key of a record, in bytes: family, two ids and the longest name with room to spare.
pub const KEY_BYTES_MAX: usize = 1536;

const _: () = assert!(INLINE_BYTES_MAX < TXN_BYTES_MAX, "a body must fit into its commit");
const _: () = assert!(OBJECT_KEY_BYTES_MAX + 64 < KEY_BYTES_MAX, "a name must fit into a key");
