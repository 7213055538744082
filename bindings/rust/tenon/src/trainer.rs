use std::any::Any;
use std::ffi::c_void;
use std::os::raw::c_char;
use std::panic::{catch_unwind, resume_unwind, AssertUnwindSafe};
use std::ptr::{null, null_mut};
use std::sync::Arc;

use sys::size_to;
use tenon_sys as sys;

use crate::error::{c_text, check_trainer, take, text_of, Texts};
use crate::{Json, Result};

/// What a recipe may say: a list of {"name", "default", "switch", "repeats", "doc"}.
pub fn recipe_keys() -> Result<Json> {
    Json::parse(&take(|out| check_trainer(unsafe { sys::tn_trainer_recipe_keys(out) }))?)
}

/// The flags of `tenon train`, without dashes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Recipe {
    fields: Vec<(String, Json)>,
}

impl Recipe {
    /// An empty one.
    pub fn new() -> Recipe {
        Recipe::default()
    }
    /// A flag with a text: ("optimizer", "galore:rank=64").
    pub fn text(mut self, key: &str, value: &str) -> Recipe {
        self.fields.push((key.into(), Json::Text(value.into())));
        self
    }
    /// A flag with a number.
    pub fn number(mut self, key: &str, value: f64) -> Recipe {
        self.fields.push((key.into(), Json::Number(value)));
        self
    }
    /// A switch.
    pub fn switch(mut self, key: &str, on: bool) -> Recipe {
        self.fields.push((key.into(), Json::Bool(on)));
        self
    }
    /// A flag that is given several times.
    pub fn list(mut self, key: &str, values: &[&str]) -> Recipe {
        self.fields.push((key.into(), Json::List(values.iter().map(|v| Json::Text((*v).into())).collect())));
        self
    }
}

impl std::fmt::Display for Recipe {
    /// As JSON.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        Json::Object(self.fields.clone()).fmt(f)
    }
}

/// One optimizer step that is done.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct Step {
    pub step: i64,
    pub total_steps: i64,
    pub tokens: i64,
    pub loss: f64,
    pub lr: f64,
    pub grad_norm: f64,
    pub tokens_per_second: f64,
    pub live_bytes: u64,
    pub peak_bytes: u64,
    pub skipped: bool,
    pub degraded: bool,
}

/// Whether the run goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    /// It does.
    Continue,
    /// It ends after this step, with a checkpoint for "resume".
    Stop,
}

/// Who is told what happens, on the thread that runs. A panic in one of them ends the run first and goes on in `run`.
#[derive(Default)]
#[allow(clippy::type_complexity)]
pub struct Events<'a> {
    /// After each step.
    pub step: Option<Box<dyn FnMut(&Step) -> Control + 'a>>,
    /// Held-out loss and perplexity after so many steps.
    pub evaluated: Option<Box<dyn FnMut(i64, f64, f64) + 'a>>,
    /// One sentence for the user.
    pub note: Option<Box<dyn FnMut(&str) + 'a>>,
}

struct Handle(*mut sys::tn_trainer);

// tn_trainer_stop may come from any thread, everything else takes &mut Trainer.
unsafe impl Send for Handle {}
unsafe impl Sync for Handle {}

impl Drop for Handle {
    fn drop(&mut self) {
        unsafe { sys::tn_trainer_destroy(self.0) }
    }
}

/// Ends a run from any thread.
#[derive(Clone)]
pub struct Stopper(Arc<Handle>);

impl Stopper {
    /// Ends the run in progress, or the next one, after the step that it is in.
    pub fn stop(&self) {
        unsafe { sys::tn_trainer_stop(self.0 .0) }
    }
}

/// A recipe, checked against what is installed.
pub struct Trainer {
    handle: Arc<Handle>,
}

struct Told<'e, 'a> {
    events: &'e mut Events<'a>,
    panic: Option<Box<dyn Any + Send>>,
    stopper: Stopper,
}

impl Told<'_, '_> {
    unsafe fn guarded<R>(told: *mut c_void, fallback: R, action: impl FnOnce(&mut Events) -> R) -> R {
        let told = &mut *(told as *mut Told);
        match catch_unwind(AssertUnwindSafe(|| action(told.events))) {
            Ok(answer) => answer,
            Err(panic) => {
                told.panic.get_or_insert(panic);
                told.stopper.stop();
                fallback
            }
        }
    }
}

unsafe extern "C" fn on_step(told: *mut c_void, s: *const sys::tn_trainer_step) -> i32 {
    let s = &*s;
    let step = Step {
        step: s.step,
        total_steps: s.total_steps,
        tokens: s.tokens,
        loss: s.loss,
        lr: s.lr,
        grad_norm: s.grad_norm,
        tokens_per_second: s.tokens_per_second,
        live_bytes: s.live_bytes,
        peak_bytes: s.peak_bytes,
        skipped: s.flags & sys::TN_TRAINER_SKIPPED != 0,
        degraded: s.flags & sys::TN_TRAINER_DEGRADED != 0,
    };
    let control = Told::guarded(told, Control::Stop, |events| events.step.as_mut().map_or(Control::Continue, |f| f(&step)));
    (control == Control::Stop) as i32
}

unsafe extern "C" fn on_evaluated(told: *mut c_void, step: i64, loss: f64, perplexity: f64) {
    Told::guarded(told, (), |events| {
        if let Some(f) = events.evaluated.as_mut() {
            f(step, loss, perplexity)
        }
    });
}

unsafe extern "C" fn on_note(told: *mut c_void, sentence: *const c_char) {
    let sentence = text_of(sentence);
    Told::guarded(told, (), |events| {
        if let Some(f) = events.note.as_mut() {
            f(&sentence)
        }
    });
}

impl Trainer {
    /// Checks recipe and mix and opens the device; stores as in [`crate::Context::open`].
    pub fn new(stores: &[&str], recipe: &Recipe) -> Result<Trainer> {
        Trainer::from_json(stores, &recipe.to_string())
    }

    /// The same from a JSON text.
    pub fn from_json(stores: &[&str], recipe: &str) -> Result<Trainer> {
        let stores = Texts::new(stores)?;
        let recipe = c_text(recipe)?;
        let mut raw = null_mut();
        check_trainer(unsafe { sys::tn_trainer_create(stores.as_ptr(), stores.len(), recipe.as_ptr(), &mut raw) })?;
        Ok(Trainer { handle: Arc::new(Handle(raw)) })
    }

    /// Bytes by category before the run, whether they fit "memory-limit", and what would fit.
    pub fn plan(&mut self) -> Result<Json> {
        Json::parse(&take(|out| check_trainer(unsafe { sys::tn_trainer_plan(self.handle.0, out) }))?)
    }

    /// Trains to the end or until stopped. Answers {"steps", "loss", "stopped", "final", "peak_bytes", …}.
    pub fn run(&mut self, events: &mut Events) -> Result<Json> {
        let has = (events.step.is_some(), events.evaluated.is_some(), events.note.is_some());
        let mut told = Told { events, panic: None, stopper: self.stopper() };
        let table = sys::tn_trainer_events {
            struct_size: size_to!(sys::tn_trainer_events, note),
            reserved: 0,
            self_: &mut told as *mut Told as *mut c_void,
            step: if has.0 { Some(on_step) } else { None },
            evaluated: if has.1 { Some(on_evaluated) } else { None },
            note: if has.2 { Some(on_note) } else { None },
        };
        let answer = take(|out| check_trainer(unsafe { sys::tn_trainer_run(self.handle.0, &table, out) }));
        if let Some(panic) = told.panic {
            resume_unwind(panic);
        }
        Json::parse(&answer?)
    }

    /// Ends runs from other threads.
    pub fn stopper(&self) -> Stopper {
        Stopper(self.handle.clone())
    }

    /// Without callbacks.
    pub fn run_quietly(&mut self) -> Result<Json> {
        take(|out| check_trainer(unsafe { sys::tn_trainer_run(self.handle.0, null(), out) })).and_then(|text| Json::parse(&text))
    }
}
