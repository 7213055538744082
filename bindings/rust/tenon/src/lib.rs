//! Memory-efficient LLM training techniques as plugins, from Rust.
//!
//! A [`Context`] knows what is installed and what mixes; a [`Session`] is an opened device with counted memory; an [`Optimizer`], a
//! [`Quantizer`] and an [`Attention`] are made on a session and work on borrowed slices ([`View`], [`ViewMut`]) without copies. A
//! [`Trainer`] runs whole training sessions from a recipe.
//!
//! What the library may not be asked does not compile: nothing outlives what it was made from,
//!
//! ```compile_fail
//! let context = tenon::Context::open(&[]).unwrap();
//! let session = context.session("auto", 0).unwrap();
//! let nf4 = session.quantizer("nf4").unwrap();
//! drop(session);
//! nf4.spec().unwrap();
//! ```
//!
//! an optimizer writes only what is borrowed for writing,
//!
//! ```compile_fail
//! let weights = [0f32; 4];
//! let view = tenon::ViewMut::new(&weights, &[4]).unwrap();
//! ```
//!
//! and a session serves one thread at a time, while sessions may move to threads of their own:
//!
//! ```compile_fail
//! fn needs_sync<T: Sync>() {}
//! needs_sync::<tenon::Session>();
//! ```
//! ```
//! fn needs_send<T: Send>() {}
//! fn needs_both<T: Send + Sync>() {}
//! needs_send::<tenon::Session>();
//! needs_send::<tenon::Trainer>();
//! needs_both::<tenon::Context>();
//! needs_both::<tenon::Stopper>();
//! ```
#![warn(missing_docs)]

mod context;
mod error;
mod json;
mod session;
mod techniques;
mod trainer;
mod view;

pub use context::{Context, Kind, Mix};
pub use error::{abi_version, set_log, version, Error, Result, Status};
pub use json::Json;
pub use session::{Category, Session, Tensor};
pub use techniques::{Attention, AttentionConfig, Coded, Optimizer, Param, Quantizer, Role, Update};
pub use trainer::{recipe_keys, Control, Events, Recipe, Step, Stopper, Trainer};
pub use view::{Bf16, Dtype, Element, View, ViewMut, F16};
