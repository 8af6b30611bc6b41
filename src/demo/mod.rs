//! The main job, to look at: a cloud on this machine.

pub mod cloud;
