//! All unsafe code of the wipe. Each way ends in libsodium's `sodium_memzero`.
#![allow(unsafe_code, reason = "the one file that has it; each block says why it holds")]

use core::{
    alloc::{GlobalAlloc, Layout},
    mem::MaybeUninit,
};

#[cfg(not(target_family = "wasm"))]
unsafe extern "C" {
    /// libsodium, `src/libsodium/sodium/utils.c`: writes `bytes` zeros at `at`, whether or not they
    /// are ever read.
    fn sodium_memzero(at: *mut core::ffi::c_void, bytes: usize);
}

/// # Safety
/// `bytes` bytes at `at` are valid for writes.
unsafe fn zero(at: *mut u8, bytes: usize) {
    #[cfg(not(target_family = "wasm"))]
    // SAFETY: the caller's promise; C's size_t is usize, and it takes no memory for 0 bytes.
    unsafe {
        sodium_memzero(at.cast(), bytes);
    }
    // WebAssembly has no C compiler here. What runs there verifies, and holds no secret.
    #[cfg(target_family = "wasm")]
    for offset in 0..bytes {
        // SAFETY: within the caller's bytes.
        unsafe { at.wrapping_add(offset).write_volatile(0) };
    }
}

/// Wipes a place, padding too, and puts `value` there. What was there is not dropped.
pub(crate) fn overwrite<T>(place: &mut T, value: T) {
    let place: *mut T = place;
    // SAFETY: borrowed for writing; nobody sees the zeros as a `T`, for the next line comes first.
    unsafe { zero(place.cast(), size_of::<T>()) };
    // SAFETY: as above. `write` does not drop what it takes the zeros for.
    unsafe { place.write(value) };
}

/// As [`overwrite`], for many at once: one wipe.
pub(crate) fn overwrite_all<T: Copy>(places: &mut [T], value: T) {
    let start = places.as_mut_ptr();
    // SAFETY: borrowed for writing; nobody sees the zeros as `T`s, for the loop comes first.
    unsafe { zero(start.cast(), size_of_val(places)) };
    for index in 0..places.len() {
        // SAFETY: within the slice.
        unsafe { start.add(index).write(value) };
    }
}

/// Wipes memory that holds nothing.
pub(crate) fn wipe_uninit<T>(places: &mut [MaybeUninit<T>]) {
    // SAFETY: borrowed for writing, and any bytes are a valid `MaybeUninit`.
    unsafe { zero(places.as_mut_ptr().cast(), size_of_val(places)) }
}

/// Wipes a text: zeros are UTF-8.
pub(crate) fn wipe_str(text: &mut str) {
    // SAFETY: borrowed for writing.
    unsafe { zero(text.as_mut_ptr(), text.len()) }
}

/// Wipes a value where it stands, padding too.
///
/// # Safety
/// `value` is valid for writes and owns nothing elsewhere; zeros are a valid `T`, or it is not used
/// any more.
pub unsafe fn zeroize_flat_type<T>(value: *mut T) {
    // SAFETY: the caller's promise.
    unsafe { zero(value.cast(), size_of::<T>()) }
}

/// An allocator that wipes every block when it is freed. The crates.io package has no such thing.
#[derive(Debug)]
pub struct WipingAllocator<A>(pub A);

// SAFETY: all is handed on as it is; a block is wiped before it is given back. `realloc` is the
// trait's own, which takes a new block and frees the old one, so that it is wiped as well.
unsafe impl<A: GlobalAlloc> GlobalAlloc for WipingAllocator<A> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        unsafe { self.0.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        unsafe { self.0.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller gives up `layout.size()` bytes at `at`.
        unsafe { zero(at, layout.size()) };
        // SAFETY: the caller's promise.
        unsafe { self.0.dealloc(at, layout) }
    }
}
