//! What every plugin in Rust needs: failures as `Result`, panics stopped at the border, tensors as checked slices.
#![allow(dead_code)]
#[allow(non_camel_case_types, non_upper_case_globals, dead_code, unused_imports)]
pub mod abi {
    include!(env!("TENON_ABI_RS"));
}
use abi::*;
use std::ffi::{CStr, CString};
use std::os::raw::c_char;
use std::panic::{catch_unwind, AssertUnwindSafe};

/// Why a call is refused: a status and one sentence for the user.
pub struct Failure(pub i32, pub String);
pub type Result<T = ()> = std::result::Result<T, Failure>;

pub fn fail<T>(status: i32, sentence: impl Into<String>) -> Result<T> {
    Err(Failure(status, sentence.into()))
}

/// The status of a call into the host, which has reported its sentence already.
pub fn check(status: i32) -> Result {
    if status < 0 {
        fail(status, "")
    } else {
        Ok(())
    }
}

/// Runs `body` and answers its status; no panic leaves.
pub fn guard(host: *const tn_host, body: impl FnOnce() -> Result) -> i32 {
    let Failure(status, sentence) = match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => return TN_OK,
        Ok(Err(failure)) => failure,
        Err(_) => Failure(
            TN_E_INTERNAL,
            "a panic was stopped at the plugin's border; please report it".into(),
        ),
    };
    if let (false, Ok(text)) = (sentence.is_empty(), CString::new(sentence)) {
        if let Some(error) = unsafe { (*host).error } {
            unsafe { error(host, status, text.as_ptr()) }
        }
    }
    status
}

/// Constants that hold pointers and are shared by all threads, as descriptors and tables are.
pub struct Constant<T>(pub T);
unsafe impl<T> Sync for Constant<T> {}

/// The size that a struct states. Every struct here ends with a pointer, so nothing pads its end.
pub const fn size_of<T>() -> u32 {
    std::mem::size_of::<T>() as u32
}

/// To the nearest whole number, ties to even; |x| < 2^22.
pub fn nearest(x: f32) -> f32 {
    const SHIFT: f32 = 12_582_912.0; // 1.5 * 2^23: the sum has no fraction left
    (x + SHIFT) - SHIFT
}

/// A C string literal.
#[macro_export]
macro_rules! c {
    ($text:literal) => {
        concat!($text, "\0").as_ptr() as *const std::os::raw::c_char
    };
}

pub const F32: tn_dtype = tn_dtype {
    code: TN_FLOAT as u8,
    bits: 32,
    lanes: 1,
};
pub const F16: tn_dtype = tn_dtype {
    code: TN_FLOAT as u8,
    bits: 16,
    lanes: 1,
};
pub const BF16: tn_dtype = tn_dtype {
    code: TN_BFLOAT as u8,
    bits: 16,
    lanes: 1,
};
pub const I8: tn_dtype = tn_dtype {
    code: TN_INT as u8,
    bits: 8,
    lanes: 1,
};

pub fn same(a: tn_dtype, b: tn_dtype) -> bool {
    a.code == b.code && a.bits == b.bits && a.lanes == b.lanes
}

/// A text of the host's, for messages; null is "the tensor".
pub unsafe fn text<'a>(name: *const c_char) -> std::borrow::Cow<'a, str> {
    if name.is_null() {
        "the tensor".into()
    } else {
        CStr::from_ptr(name).to_string_lossy()
    }
}

/// Elements of a shape; negative or too large ones are refused.
pub fn elements(shape: &[i64]) -> Result<usize> {
    let mut n: i64 = 1;
    for &d in shape {
        n = match n.checked_mul(d) {
            Some(n) if d >= 0 && n < 1 << 60 => n,
            _ => return fail(TN_E_ARGUMENT, "the shape of a tensor is negative or too large"),
        };
    }
    Ok(n as usize)
}

/// What can be in a tensor of floats.
pub trait Float: Copy {
    fn to_f32(self) -> f32;
    fn from_f32(x: f32) -> Self;
}
impl Float for f32 {
    fn to_f32(self) -> f32 {
        self
    }
    fn from_f32(x: f32) -> f32 {
        x
    }
}
#[derive(Clone, Copy)]
pub struct Bf16(u16);
impl Float for Bf16 {
    fn to_f32(self) -> f32 {
        f32::from_bits((self.0 as u32) << 16)
    }
    /// To nearest, ties to even.
    fn from_f32(x: f32) -> Bf16 {
        let u = x.to_bits();
        if x.is_nan() {
            Bf16((u >> 16) as u16 | 0x40)
        } else {
            Bf16((u.wrapping_add(0x7fff + (u >> 16 & 1)) >> 16) as u16)
        }
    }
}
#[derive(Clone, Copy)]
pub struct Half(u16);
impl Float for Half {
    fn to_f32(self) -> f32 {
        let (sign, e, m) = (
            (self.0 as u32 & 0x8000) << 16,
            self.0 as u32 >> 10 & 31,
            self.0 as u32 & 0x3ff,
        );
        match e {
            0 => f32::from_bits(sign | (m as f32 * 2f32.powi(-24)).to_bits()),
            31 => f32::from_bits(sign | 0x7f80_0000 | m << 13),
            _ => f32::from_bits(sign | (e + 112) << 23 | m << 13),
        }
    }
    /// To nearest, ties to even.
    fn from_f32(x: f32) -> Half {
        let (sign, a) = ((x.to_bits() >> 16 & 0x8000) as u16, x.abs());
        if x.is_nan() {
            Half(sign | 0x7e00)
        } else if a < 2f32.powi(-14) {
            Half(sign | nearest(a * 2f32.powi(24)) as u16)
        } else {
            let u = a.to_bits() + 0xfff + (a.to_bits() >> 13 & 1) - (112 << 23);
            Half(sign | if u >= 0x0f80_0000 { 0x7c00 } else { (u >> 13) as u16 })
        }
    }
}

fn is_dense(t: &tn_tensor) -> bool {
    let mut expected = 1;
    (0..t.ndim as usize).rev().all(|k| unsafe {
        let ok = *t.shape.add(k) <= 1 || *t.strides.add(k) == expected;
        expected *= (*t.shape.add(k)).max(1);
        ok
    })
}

/// A dense tensor of `n` elements of `dtype` as a slice that lives as long as the call.
pub unsafe fn slice<'a, T>(t: *mut tn_tensor, dtype: tn_dtype, n: usize, what: &str) -> Result<&'a mut [T]> {
    let t = &*t;
    let shape = if t.ndim > 0 {
        std::slice::from_raw_parts(t.shape, t.ndim as usize)
    } else {
        &[]
    };
    if !same(t.dtype, dtype) || elements(shape)? != n {
        return fail(
            TN_E_ARGUMENT,
            format!("{what} has another type or size than was declared"),
        );
    }
    let data = (t.data as *mut u8).wrapping_add(t.byte_offset as usize) as *mut T;
    if n == 0 {
        return Ok(&mut []);
    }
    if !is_dense(t) || data as usize % std::mem::align_of::<T>() != 0 {
        return fail(TN_E_UNSUPPORTED, format!("{what} must be contiguous and aligned"));
    }
    Ok(std::slice::from_raw_parts_mut(data, n))
}

/// Calls `$body` with `$x` as a slice of whichever float type the tensor holds.
#[macro_export]
macro_rules! with_floats {
    ($tensor:expr, $n:expr, $what:expr, |$x:ident| $body:expr) => {{
        let dtype = unsafe { (*$tensor).dtype };
        if $crate::plugin::same(dtype, $crate::plugin::F32) {
            let $x = unsafe { $crate::plugin::slice::<f32>($tensor, dtype, $n, $what)? };
            $body
        } else if $crate::plugin::same(dtype, $crate::plugin::BF16) {
            let $x = unsafe { $crate::plugin::slice::<$crate::plugin::Bf16>($tensor, dtype, $n, $what)? };
            $body
        } else if $crate::plugin::same(dtype, $crate::plugin::F16) {
            let $x = unsafe { $crate::plugin::slice::<$crate::plugin::Half>($tensor, dtype, $n, $what)? };
            $body
        } else {
            return $crate::plugin::fail(
                $crate::plugin::abi::TN_E_UNSUPPORTED,
                format!("{} must be f32, bf16 or f16", $what),
            );
        }
    }};
}

/// The answer to a host: the descriptor, or a refusal in words.
pub unsafe fn enter(
    major: u32,
    minor: u32,
    host: *const tn_host,
    plugin: &'static tn_plugin,
    out: *mut *const tn_plugin,
) -> i32 {
    guard(host, || {
        if major != plugin.abi_major || minor < plugin.abi_minor {
            return fail(
                TN_E_VERSION,
                format!(
                    "{} speaks ABI {}.{} but the host offers {major}.{minor}; install a matching version",
                    unsafe { text(plugin.id) },
                    plugin.abi_major,
                    plugin.abi_minor
                ),
            );
        }
        unsafe { *out = plugin };
        Ok(())
    })
}

pub unsafe extern "C" fn no_init(_: *const tn_host) -> i32 {
    TN_OK
}
pub unsafe extern "C" fn no_deinit() {}
pub unsafe extern "C" fn no_extension(_: *const c_char) -> *const std::os::raw::c_void {
    std::ptr::null()
}
