use std::marker::PhantomData;
use std::ptr::null_mut;

use tenon_sys as sys;

use crate::error::{c_text, check, take};
use crate::view::Parts;
use crate::{Attention, AttentionConfig, Context, Dtype, Element, Error, Json, Optimizer, Param, Quantizer, Result, View, ViewMut};

/// What memory is counted under.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Category {
    Weights,
    Gradients,
    OptimizerState,
    Adapter,
    Activations,
    Workspace,
    Codec,
}

impl Category {
    fn code(self) -> u32 {
        match self {
            Category::Weights => sys::TN_MEMORY_WEIGHTS,
            Category::Gradients => sys::TN_MEMORY_GRADIENTS,
            Category::OptimizerState => sys::TN_MEMORY_OPTIMIZER_STATE,
            Category::Adapter => sys::TN_MEMORY_ADAPTER,
            Category::Activations => sys::TN_MEMORY_ACTIVATIONS,
            Category::Workspace => sys::TN_MEMORY_WORKSPACE,
            Category::Codec => sys::TN_MEMORY_CODEC,
        }
    }
}

/// An opened device with a stream and counted memory. It may move to another thread, and serves one at a time.
pub struct Session<'c> {
    pub(crate) raw: *mut sys::tn_session,
    context: PhantomData<&'c Context>,
}

// What is made on a session borrows it, so a session that moves has nothing left behind. Not Sync: one call at a time.
unsafe impl Send for Session<'_> {}

impl<'c> Session<'c> {
    pub(crate) fn open(context: &'c Context, device: &str, memory_limit: u64) -> Result<Session<'c>> {
        let device = c_text(device)?;
        let mut raw = null_mut();
        let (owner, _turn) = context.lock();
        check(unsafe { sys::tn_session_open(owner, device.as_ptr(), memory_limit, &mut raw) })?;
        Ok(Session { raw, context: PhantomData })
    }

    /// {"backend", "name", "arch", "total_bytes", "live_bytes", "peak_bytes", "categories", …}
    pub fn info(&self) -> Result<Json> {
        Json::parse(&take(|out| check(unsafe { sys::tn_session_info(self.raw, out) }))?)
    }

    /// Blocks until all work is done.
    pub fn wait(&self) -> Result<()> {
        check(unsafe { sys::tn_session_wait(self.raw) })
    }

    /// A dense tensor of zeros on the device.
    pub fn tensor(&self, category: Category, dtype: Dtype, shape: &[usize]) -> Result<Tensor<'_>> {
        let sizes = shape
            .iter()
            .map(|&s| i64::try_from(s).map_err(|_| Error::argument(format!("the shape {:?} makes no tensor", shape))))
            .collect::<Result<Vec<_>>>()?;
        let mut raw = null_mut();
        check(unsafe { sys::tn_tensor_alloc(self.raw, category.code(), &dtype.raw(), sizes.len() as i32, sizes.as_ptr(), &mut raw) })?;
        Ok(Tensor { raw, session: self })
    }

    /// An instance of an optimizer for all these parameters; its states are allocated.
    pub fn optimizer(&self, spec: &str, params: &[Param]) -> Result<Optimizer<'_>> {
        Optimizer::new(self, spec, params)
    }

    /// An instance of a quantizer.
    pub fn quantizer(&self, spec: &str) -> Result<Quantizer<'_>> {
        Quantizer::new(self, spec)
    }

    /// An attention for one layer.
    pub fn attention(&self, spec: &str, config: &AttentionConfig) -> Result<Attention<'_>> {
        Attention::new(self, spec, config)
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        unsafe { sys::tn_session_close(self.raw) }
    }
}

/// A dense row-major tensor in the session's memory.
pub struct Tensor<'s> {
    raw: *mut sys::tn_tensor,
    session: &'s Session<'s>,
}

impl Tensor<'_> {
    fn parts(&self) -> Parts {
        Parts::of_tensor(unsafe { &*self.raw })
    }
    /// To be read by a technique.
    pub fn view(&self) -> View<'_> {
        View { parts: self.parts(), borrowed: PhantomData }
    }
    /// To be written by a technique.
    pub fn view_mut(&mut self) -> ViewMut<'_> {
        ViewMut { parts: self.parts(), borrowed: PhantomData }
    }
    fn same_type<T: Element>(&self) -> Result<()> {
        let (ours, theirs) = (unsafe { (*self.raw).dtype }, T::DTYPE.raw());
        if (ours.code, ours.bits) == (theirs.code, theirs.bits) {
            return Ok(());
        }
        Err(Error::argument(format!("elements of the type {:?} do not fit this tensor", T::DTYPE)))
    }
    /// Copies the whole tensor in.
    pub fn write<T: Element>(&mut self, values: &[T]) -> Result<()> {
        self.same_type::<T>()?;
        check(unsafe { sys::tn_tensor_write(self.session.raw, self.raw, values.as_ptr().cast(), std::mem::size_of_val(values) as u64) })
    }
    /// Copies the whole tensor out.
    pub fn read<T: Element>(&self, values: &mut [T]) -> Result<()> {
        self.same_type::<T>()?;
        check(unsafe { sys::tn_tensor_read(self.session.raw, self.raw, values.as_mut_ptr().cast(), std::mem::size_of_val(values) as u64) })
    }
}

impl Drop for Tensor<'_> {
    fn drop(&mut self) {
        unsafe { sys::tn_tensor_free(self.session.raw, self.raw) }
    }
}
