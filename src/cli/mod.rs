//! cli

pub mod device;
