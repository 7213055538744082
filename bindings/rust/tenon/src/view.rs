use std::marker::PhantomData;

use tenon_sys as sys;

use crate::{Error, Result};

/// The type of a tensor's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Dtype {
    F64,
    F32,
    F16,
    Bf16,
    I8,
    I16,
    I32,
    I64,
    U8,
    U16,
    U32,
    U64,
}

impl Dtype {
    pub(crate) fn raw(self) -> sys::tn_dtype {
        let (code, bits) = match self {
            Dtype::F64 => (sys::TN_FLOAT, 64),
            Dtype::F32 => (sys::TN_FLOAT, 32),
            Dtype::F16 => (sys::TN_FLOAT, 16),
            Dtype::Bf16 => (sys::TN_BFLOAT, 16),
            Dtype::I8 => (sys::TN_INT, 8),
            Dtype::I16 => (sys::TN_INT, 16),
            Dtype::I32 => (sys::TN_INT, 32),
            Dtype::I64 => (sys::TN_INT, 64),
            Dtype::U8 => (sys::TN_UINT, 8),
            Dtype::U16 => (sys::TN_UINT, 16),
            Dtype::U32 => (sys::TN_UINT, 32),
            Dtype::U64 => (sys::TN_UINT, 64),
        };
        sys::tn_dtype { code: code as u8, bits, lanes: 1 }
    }
}

mod sealed {
    pub trait Sealed {}
}

/// A type that tensors hold. Any bit pattern is a value of it.
pub trait Element: Copy + sealed::Sealed {
    /// Its name in the library.
    const DTYPE: Dtype;
}

/// The bits of an IEEE half-precision number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct F16(pub u16);

/// The bits of a bfloat16 number: the upper half of an f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Bf16(pub u16);

macro_rules! elements {
    ($($type:ty => $dtype:ident),*) => {$(
        impl sealed::Sealed for $type {}
        impl Element for $type {
            const DTYPE: Dtype = Dtype::$dtype;
        }
    )*};
}
elements!(f64 => F64, f32 => F32, F16 => F16, Bf16 => Bf16, i8 => I8, i16 => I16, i32 => I32, i64 => I64, u8 => U8, u16 => U16, u32 => U32, u64 => U64);

#[derive(Clone)]
pub(crate) struct Parts {
    data: *mut std::ffi::c_void,
    device: sys::tn_device_id,
    ndim: usize,
    dtype: sys::tn_dtype,
    shape: [i64; 4],
    strides: [i64; 4],
}

impl Parts {
    /// `strides` in elements, as far as a slice of `len` elements reaches; None = dense row-major over all of it.
    fn new<T: Element>(data: *mut T, len: usize, shape: &[usize], strides: Option<&[usize]>) -> Result<Parts> {
        if shape.len() > 4 {
            return Err(Error::argument(format!("a view of {} dimensions was asked for; 0 to 4 are possible", shape.len())));
        }
        let too_large = || Error::argument(format!("the shape {:?} does not fit a slice of {} elements", shape, len));
        let count = shape.iter().try_fold(1usize, |n, &s| n.checked_mul(s)).ok_or_else(too_large)?;
        let mut parts = Parts {
            data: data.cast(),
            device: sys::tn_device_id { r#type: sys::TN_CPU as i32, index: 0 },
            ndim: shape.len(),
            dtype: T::DTYPE.raw(),
            shape: [0; 4],
            strides: [0; 4],
        };
        let mut dense = 1;
        let mut reach = 0usize;
        for i in (0..shape.len()).rev() {
            let stride = match strides {
                None => dense,
                Some(s) if s.len() == shape.len() => s[i],
                Some(s) => return Err(Error::argument(format!("{} strides were given for {} dimensions", s.len(), shape.len()))),
            };
            dense = dense.saturating_mul(shape[i].max(1));
            reach = shape[i].saturating_sub(1).checked_mul(stride).and_then(|r| reach.checked_add(r)).ok_or_else(too_large)?;
            parts.shape[i] = i64::try_from(shape[i]).map_err(|_| too_large())?;
            parts.strides[i] = i64::try_from(stride).map_err(|_| too_large())?;
        }
        let fits = if strides.is_none() { count == len } else { count == 0 || reach < len };
        if fits {
            Ok(parts)
        } else {
            Err(too_large())
        }
    }

    pub(crate) fn of_tensor(tensor: &sys::tn_tensor) -> Parts {
        let ndim = tensor.ndim as usize;
        let mut parts = Parts { data: tensor.data, device: tensor.device, ndim, dtype: tensor.dtype, shape: [0; 4], strides: [0; 4] };
        for i in 0..ndim {
            unsafe {
                parts.shape[i] = *tensor.shape.add(i);
                parts.strides[i] = *tensor.strides.add(i);
            }
        }
        parts
    }

    pub(crate) fn shape(&self) -> &[i64] {
        &self.shape[..self.ndim]
    }
    pub(crate) fn dtype(&self) -> sys::tn_dtype {
        self.dtype
    }

    /// The library's form, which points into `self`: valid as long as it stays where it is.
    pub(crate) fn raw(&self) -> sys::tn_tensor {
        sys::tn_tensor {
            data: self.data,
            device: self.device,
            ndim: self.ndim as i32,
            dtype: self.dtype,
            shape: self.shape.as_ptr() as *mut i64,
            strides: self.strides.as_ptr() as *mut i64,
            byte_offset: 0,
        }
    }
}

/// A tensor over borrowed memory, to be read.
#[derive(Clone)]
pub struct View<'a> {
    pub(crate) parts: Parts,
    pub(crate) borrowed: PhantomData<&'a [u8]>,
}

impl<'a> View<'a> {
    /// The whole slice as a dense row-major tensor of this shape.
    pub fn new<T: Element>(data: &'a [T], shape: &[usize]) -> Result<View<'a>> {
        Ok(View { parts: Parts::new(data.as_ptr() as *mut T, data.len(), shape, None)?, borrowed: PhantomData })
    }
    /// Part of a slice, with strides in elements.
    pub fn strided<T: Element>(data: &'a [T], shape: &[usize], strides: &[usize]) -> Result<View<'a>> {
        Ok(View { parts: Parts::new(data.as_ptr() as *mut T, data.len(), shape, Some(strides))?, borrowed: PhantomData })
    }
    /// The sizes.
    pub fn shape(&self) -> &[i64] {
        self.parts.shape()
    }
}

/// A tensor over mutably borrowed memory, to be written.
pub struct ViewMut<'a> {
    pub(crate) parts: Parts,
    pub(crate) borrowed: PhantomData<&'a mut [u8]>,
}

impl<'a> ViewMut<'a> {
    /// The whole slice as a dense row-major tensor of this shape.
    pub fn new<T: Element>(data: &'a mut [T], shape: &[usize]) -> Result<ViewMut<'a>> {
        Ok(ViewMut { parts: Parts::new(data.as_mut_ptr(), data.len(), shape, None)?, borrowed: PhantomData })
    }
    /// Part of a slice, with strides in elements.
    pub fn strided<T: Element>(data: &'a mut [T], shape: &[usize], strides: &[usize]) -> Result<ViewMut<'a>> {
        Ok(ViewMut { parts: Parts::new(data.as_mut_ptr(), data.len(), shape, Some(strides))?, borrowed: PhantomData })
    }
    /// The sizes.
    pub fn shape(&self) -> &[i64] {
        self.parts.shape()
    }
}
