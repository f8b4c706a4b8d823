//! Container images without a container engine: archives in the format of `docker save`, written by hand.
//!
//! The same inputs give the same digest (fixed times and owners), and the digest is the tag: an image that did not change
//! keeps its name, is not imported again, and rolls nothing.

pub mod archive;
pub mod base;
pub mod custom;
pub mod layer;
pub mod pause;
pub mod postgres;
pub mod service;

pub use archive::{Image, Run};
pub use layer::Layer;
