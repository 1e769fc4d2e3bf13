//! Secrets: on the heap, 64-byte aligned, wiped when dropped, never printed.
//!
//! The alignment is a mark. What runs the enclave as a process keeps every allocation that is so
//! aligned in locked memory; an SGX enclave's heap needs no such distinction.

use alloc::boxed::Box;
use core::fmt;

use zeroize::Zeroize;

#[repr(C, align(64))]
struct Aligned<T>(T);

/// `N` secret bytes.
pub struct Secret<const N: usize>(Box<Aligned<[u8; N]>>);

impl<const N: usize> Secret<N> {
    /// Zeros, to be filled in place: a secret is never built on the stack and moved.
    pub fn zeroed() -> Self {
        Self(Box::new(Aligned([0; N])))
    }

    /// Fills a new secret in place.
    pub fn filled(fill: impl FnOnce(&mut [u8; N])) -> Self {
        let mut secret = Self::zeroed();
        fill(&mut secret.0.0);
        secret
    }

    pub fn bytes(&self) -> &[u8; N] {
        &self.0.0
    }

    pub fn bytes_mut(&mut self) -> &mut [u8; N] {
        &mut self.0.0
    }
}

impl<const N: usize> Drop for Secret<N> {
    fn drop(&mut self) {
        self.0.0.zeroize();
    }
}

impl<const N: usize> fmt::Debug for Secret<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({N} bytes)")
    }
}

/// A key that wipes itself, kept where secrets are kept.
pub(crate) struct Guarded<T>(Box<Aligned<T>>);

impl<T: zeroize::ZeroizeOnDrop> Guarded<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(Box::new(Aligned(value)))
    }
}

impl<T> core::ops::Deref for Guarded<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0.0
    }
}

impl<T> fmt::Debug for Guarded<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Guarded")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;

    #[test]
    fn secrets_are_aligned_and_silent() {
        let secret = Secret::<32>::filled(|bytes| bytes.fill(7));
        assert_eq!(secret.bytes().as_ptr().addr() % 64, 0);
        assert_eq!(format!("{secret:?}"), "Secret(32 bytes)");
    }
}
