//! The functions, structs and constants of `tenon/tenon.h` and `tenon/trainer.h` as they are in C. The crate `tenon` is the safe way to
//! use them; the headers say what everything means.
#![allow(non_camel_case_types)]

#[rustfmt::skip]
mod generated;
pub use generated::*;

/// `struct_size` of a struct that ends with this field: padding at the tail never counts.
#[macro_export]
macro_rules! size_to {
    ($type:ty, $field:ident) => {{
        fn width<S, F>(_: impl Fn(*const S) -> *const F) -> usize {
            std::mem::size_of::<F>()
        }
        let memory = std::mem::MaybeUninit::<$type>::uninit();
        let start = memory.as_ptr();
        let field = unsafe { std::ptr::addr_of!((*start).$field) } as usize - start as usize;
        (field + width(|p: *const $type| unsafe { std::ptr::addr_of!((*p).$field) })) as u32
    }};
}
