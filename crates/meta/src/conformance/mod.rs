//! The suite that each engine and each decorator must pass.
