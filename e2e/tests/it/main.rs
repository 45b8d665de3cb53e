//! Black-box tests of the real binary, in one test program.
//!
//! Not here: the server, the client and the oracles (`larder_e2e`); what each knob of the
//! environment does (`e2e/README.md`).
#![allow(
    clippy::disallowed_methods,
    reason = "tests wait for another process, race threads and damage files"
)]
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod acceptance;
mod attacks;
mod attacks_after;
mod attacks_floods;
mod attacks_reach;
mod attacks_wire;
mod badinput;
mod cli;
mod contract;
mod crash;
mod cuts;
mod damage;
mod diskfull;
mod downloads;
mod dump;
mod feed;
mod idempotency;
mod identity;
mod jobs;
mod lifecycle;
mod limits;
mod load;
mod openapi;
mod order;
mod power;
mod quota;
mod races;
mod resume;
mod revisions;
mod s3clients;
mod sessions;
mod sessionsteps;
mod shares;
mod slow;
mod smoke;
mod steps;
mod tls;
mod trash;
mod tus;
mod tusclients;
mod work;

/// Every file of this folder is part of this program.
#[test]
fn no_file_is_forgotten() {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it");
    let main = std::fs::read_to_string(format!("{dir}/main.rs")).unwrap();
    for entry in std::fs::read_dir(dir).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let module = name.strip_suffix(".rs").expect("only Rust files are here");
        let known = module == "main" || main.contains(&format!("\nmod {module};\n"));
        assert!(known, "{name} is not in main.rs");
    }
}
