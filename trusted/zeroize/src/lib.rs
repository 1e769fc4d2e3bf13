//! Wiping secrets: the interface of the crates.io package of this name, in the place of which cargo
//! puts this crate, under every cryptographic library that wipes. Below it is libsodium's
//! `sodium_memzero` and nothing else (docs/adr/0012-wiping-by-libsodium.md).
//!
//! What that package documents holds here, where the libraries in use ask for it; what none of them
//! uses is not there (serde, vector registers, atomics).
#![no_std]
#![deny(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(clippy::panic, clippy::indexing_slicing, clippy::arithmetic_side_effects)
)]

#[cfg(feature = "alloc")]
extern crate alloc;
// Derived code names the crate.
#[cfg(test)]
extern crate self as zeroize;

mod wipe;
mod zeroizing;

#[cfg(test)]
mod tests;

use core::{
    marker::{PhantomData, PhantomPinned},
    mem::MaybeUninit,
    num::{self, Wrapping},
    slice::IterMut,
};

#[cfg(feature = "alloc")]
use alloc::{boxed::Box, ffi::CString, string::String, vec::Vec};

#[cfg(feature = "zeroize_derive")]
pub use zeroize_derive::{Zeroize, ZeroizeOnDrop};

pub use wipe::{WipingAllocator, zeroize_flat_type};
pub use zeroizing::Zeroizing;

/// What can be wiped in place, and is a valid value afterwards.
pub trait Zeroize {
    fn zeroize(&mut self);

    /// One wipe for all of them, where that is the same.
    #[doc(hidden)]
    fn zeroize_all(values: &mut [Self])
    where
        Self: Sized,
    {
        values.iter_mut().for_each(Self::zeroize);
    }
}

/// What may not always be wiped.
pub trait TryZeroize {
    /// Whether it was.
    #[must_use]
    fn try_zeroize(&mut self) -> bool;
}

/// A promise: dropping it wipes it.
pub trait ZeroizeOnDrop {}

/// A promise: it owns no other memory, so that its own bytes are all there is to wipe.
pub trait DefaultIsZeroes: Copy + Default {}

impl<Z: DefaultIsZeroes> Zeroize for Z {
    fn zeroize(&mut self) {
        wipe::overwrite(self, Z::default());
    }

    fn zeroize_all(values: &mut [Z]) {
        wipe::overwrite_all(values, Z::default());
    }
}

macro_rules! default_is_zeroes {
    ($($type:ty)*) => { $(impl DefaultIsZeroes for $type {})* };
}

default_is_zeroes! { u8 u16 u32 u64 u128 usize i8 i16 i32 i64 i128 isize f32 f64 bool char }

impl<Z: DefaultIsZeroes> DefaultIsZeroes for Wrapping<Z> {}

macro_rules! non_zero {
    ($($type:ident)*) => { $(
        /// 1 is what is nearest to nothing.
        impl Zeroize for num::$type {
            fn zeroize(&mut self) {
                if let Some(one) = num::$type::new(1) {
                    wipe::overwrite(self, one);
                }
            }
        }
    )* };
}

non_zero! {
    NonZeroU8 NonZeroU16 NonZeroU32 NonZeroU64 NonZeroU128 NonZeroUsize
    NonZeroI8 NonZeroI16 NonZeroI32 NonZeroI64 NonZeroI128 NonZeroIsize
}

impl<Z: DefaultIsZeroes> Zeroize for [Z] {
    fn zeroize(&mut self) {
        Z::zeroize_all(self);
    }
}

impl<Z: Zeroize, const N: usize> Zeroize for [Z; N] {
    fn zeroize(&mut self) {
        Z::zeroize_all(self);
    }
}

impl<Z: Zeroize> Zeroize for IterMut<'_, Z> {
    fn zeroize(&mut self) {
        self.for_each(Z::zeroize);
    }
}

impl<Z> Zeroize for [MaybeUninit<Z>] {
    fn zeroize(&mut self) {
        wipe::wipe_uninit(self);
    }
}

impl<Z> Zeroize for MaybeUninit<Z> {
    fn zeroize(&mut self) {
        wipe::wipe_uninit(core::slice::from_mut(self));
    }
}

impl Zeroize for str {
    fn zeroize(&mut self) {
        wipe::wipe_str(self);
    }
}

/// `None` afterwards; the bytes of what was there are wiped too.
impl<Z: Zeroize> Zeroize for Option<Z> {
    fn zeroize(&mut self) {
        if let Some(value) = self {
            value.zeroize();
        }
        drop(self.take());
        wipe::overwrite(self, None);
    }
}

impl<Z: ?Sized> Zeroize for PhantomData<Z> {
    fn zeroize(&mut self) {}
}

impl Zeroize for PhantomPinned {
    fn zeroize(&mut self) {}
}

macro_rules! tuples {
    ($($name:ident)+, $($rest:tt)+) => {
        tuples!($($name)+);
        tuples!($($rest)+);
    };
    ($($name:ident)+) => {
        impl<$($name: Zeroize),+> Zeroize for ($($name,)+) {
            fn zeroize(&mut self) {
                #[allow(non_snake_case, reason = "the names of types serve as those of fields")]
                let ($($name,)+) = self;
                $($name.zeroize();)+
            }
        }

        impl<$($name: ZeroizeOnDrop),+> ZeroizeOnDrop for ($($name,)+) {}
    };
}

tuples!(A, A B, A B C, A B C D, A B C D E, A B C D E F);

impl Zeroize for () {
    fn zeroize(&mut self) {}
}

impl ZeroizeOnDrop for () {}
impl ZeroizeOnDrop for PhantomPinned {}
impl<Z: ?Sized> ZeroizeOnDrop for PhantomData<Z> {}
impl<Z: ZeroizeOnDrop, const N: usize> ZeroizeOnDrop for [Z; N] {}
impl<Z: ZeroizeOnDrop> ZeroizeOnDrop for Option<Z> {}

/// Empty afterwards, its whole capacity wiped. What it had before it grew is wiped by the allocator.
#[cfg(feature = "alloc")]
impl<Z: Zeroize> Zeroize for Vec<Z> {
    fn zeroize(&mut self) {
        Z::zeroize_all(self);
        self.clear();
        self.spare_capacity_mut().zeroize();
    }
}

#[cfg(feature = "alloc")]
impl<Z: ZeroizeOnDrop> ZeroizeOnDrop for Vec<Z> {}

#[cfg(feature = "alloc")]
impl<Z: Zeroize> Zeroize for Box<[Z]> {
    fn zeroize(&mut self) {
        Z::zeroize_all(self);
    }
}

#[cfg(feature = "alloc")]
impl<Z: ZeroizeOnDrop> ZeroizeOnDrop for Box<[Z]> {}

#[cfg(feature = "alloc")]
impl Zeroize for Box<str> {
    fn zeroize(&mut self) {
        self.as_mut().zeroize();
    }
}

/// Empty afterwards, with the same memory.
#[cfg(feature = "alloc")]
impl Zeroize for String {
    fn zeroize(&mut self) {
        let mut bytes = core::mem::take(self).into_bytes();
        bytes.zeroize();
        *self = Self::from_utf8(bytes).unwrap_or_default();
    }
}

/// Empty afterwards.
#[cfg(feature = "alloc")]
impl Zeroize for CString {
    fn zeroize(&mut self) {
        core::mem::take(self).into_bytes_with_nul().zeroize();
    }
}

/// Wipes bytes.
pub fn zeroize_bytes(bytes: &mut [u8]) {
    bytes.zeroize();
}

/// Makes the compiler take the value to be read here.
pub fn optimization_barrier<T: ?Sized>(value: &T) {
    core::hint::black_box(value);
}

/// What code that `derive(ZeroizeOnDrop)` wrote calls: on a field's reference, method lookup finds
/// the promise first, and the wipe where there is none.
#[doc(hidden)]
pub mod __internal {
    use super::{Zeroize, ZeroizeOnDrop};

    pub trait AssertZeroizeOnDrop {
        fn zeroize_or_on_drop(self);
    }

    impl<T: ZeroizeOnDrop + ?Sized> AssertZeroizeOnDrop for &&mut T {
        fn zeroize_or_on_drop(self) {}
    }

    pub trait AssertZeroize {
        fn zeroize_or_on_drop(&mut self);
    }

    impl<T: Zeroize + ?Sized> AssertZeroize for T {
        fn zeroize_or_on_drop(&mut self) {
            self.zeroize();
        }
    }
}
