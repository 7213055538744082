use std::ptr::{null, null_mut};
use std::sync::{Mutex, MutexGuard};

use tenon_sys as sys;

use crate::error::{c_text, check, take, Texts};
use crate::{Json, Result, Session};

/// A kind of plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Kind {
    Device,
    Optimizer,
    Adapter,
    Quantizer,
    Attention,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Device => "device",
            Kind::Optimizer => "optimizer",
            Kind::Adapter => "adapter",
            Kind::Quantizer => "quantizer",
            Kind::Attention => "attention",
        }
    }
    pub(crate) fn code(self) -> u32 {
        match self {
            Kind::Device => sys::TN_KIND_DEVICE,
            Kind::Optimizer => sys::TN_KIND_OPTIMIZER,
            Kind::Adapter => sys::TN_KIND_ADAPTER,
            Kind::Quantizer => sys::TN_KIND_QUANTIZER,
            Kind::Attention => sys::TN_KIND_ATTENTION,
        }
    }
}

/// Whether techniques mix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mix {
    /// They do.
    pub possible: bool,
    /// Why not: one sentence each, which begins with the plugin that minds.
    pub reasons: Vec<String>,
    /// The specs with every value.
    pub techniques: Vec<String>,
}

/// The plugins of some stores.
pub struct Context {
    raw: *mut sys::tn_context,
    turn: Mutex<()>,
}

// The library wants one call at a time, which `turn` sees to; sessions use the catalog below, which locks for itself.
unsafe impl Send for Context {}
unsafe impl Sync for Context {}

impl Context {
    /// Stores (folders) in order of precedence; none: the user's store, then the one that came with the library.
    pub fn open(stores: &[&str]) -> Result<Context> {
        let stores = Texts::new(stores)?;
        let mut raw = null_mut();
        check(unsafe { sys::tn_context_open(stores.as_ptr(), stores.len(), &mut raw) })?;
        Ok(Context { raw, turn: Mutex::new(()) })
    }

    pub(crate) fn lock(&self) -> (*mut sys::tn_context, MutexGuard<'_, ()>) {
        (self.raw, self.turn.lock().unwrap_or_else(|e| e.into_inner()))
    }

    fn json(&self, call: impl FnOnce(*mut sys::tn_context, *mut *mut std::os::raw::c_char) -> i32) -> Result<Json> {
        let (raw, _turn) = self.lock();
        Json::parse(&take(|out| check(call(raw, out)))?)
    }

    /// A list of {"id", "kind", "version", "name", "summary", "backends", "store"}.
    pub fn plugins(&self, kind: Option<Kind>) -> Result<Json> {
        let name = kind.map(|k| c_text(k.name())).transpose()?;
        self.json(|raw, out| unsafe { sys::tn_plugin_list(raw, name.as_ref().map_or(null(), |n| n.as_ptr()), out) })
    }

    /// The manifest, with the schema of the hyper-parameters.
    pub fn info(&self, plugin: &str) -> Result<Json> {
        let id = c_text(plugin)?;
        self.json(|raw, out| unsafe { sys::tn_plugin_info(raw, id.as_ptr(), out) })
    }

    /// Installs the plugin in a folder into the first store.
    pub fn install(&self, folder: &str) -> Result<Json> {
        let folder = c_text(folder)?;
        self.json(|raw, out| unsafe { sys::tn_plugin_install(raw, folder.as_ptr(), out) })
    }

    /// Removes a plugin from the first store.
    pub fn remove(&self, plugin: &str) -> Result<()> {
        let id = c_text(plugin)?;
        let (raw, _turn) = self.lock();
        check(unsafe { sys::tn_plugin_remove(raw, id.as_ptr()) })
    }

    /// {"plugins", "problems"} over all stores.
    pub fn verify(&self) -> Result<Json> {
        self.json(|raw, out| unsafe { sys::tn_plugin_verify(raw, out) })
    }

    /// Whether specs such as (Kind::Optimizer, "galore:rank=128") mix; tags beyond the usual ones: "device:cuda", "run:accumulate".
    pub fn check(&self, specs: &[(Kind, &str)], tags: &[&str]) -> Result<Mix> {
        let kinds: Vec<u32> = specs.iter().map(|(kind, _)| kind.code()).collect();
        let specs = Texts::new(&specs.iter().map(|(_, spec)| *spec).collect::<Vec<_>>())?;
        let tags = Texts::new(tags)?;
        let answer =
            self.json(|raw, out| unsafe { sys::tn_check(raw, kinds.as_ptr(), specs.as_ptr(), specs.len(), tags.as_ptr(), tags.len(), out) })?;
        let texts = |key: &str, of: fn(&Json) -> Option<&str>| -> Vec<String> {
            answer.get(key).map_or(&[][..], Json::items).iter().filter_map(of).map(String::from).collect()
        };
        Ok(Mix {
            possible: answer.get("possible").and_then(Json::as_bool).unwrap_or(false),
            reasons: texts("reasons", |reason| reason.get("sentence").and_then(Json::as_str)),
            techniques: texts("techniques", Json::as_str),
        })
    }

    /// Opens a device: "auto", "onednn", "cuda", "hip", "cuda:1". memory_limit in bytes, 0 = none.
    pub fn session(&self, device: &str, memory_limit: u64) -> Result<Session<'_>> {
        Session::open(self, device, memory_limit)
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        unsafe { sys::tn_context_close(self.raw) }
    }
}
