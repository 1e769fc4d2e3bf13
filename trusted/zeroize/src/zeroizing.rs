//! A wrapper that wipes what it holds when it is dropped.

use core::{
    fmt,
    ops::{Deref, DerefMut},
};

use crate::{Zeroize, ZeroizeOnDrop};

/// Wipes `Z` when it is dropped.
#[derive(Default, Eq, PartialEq)]
#[repr(transparent)]
pub struct Zeroizing<Z: Zeroize + ?Sized>(Z);

impl<Z: Zeroize> Zeroizing<Z> {
    /// What the caller's copy leaves where it stood is not wiped.
    pub fn new(value: Z) -> Self {
        Self(value)
    }
}

impl<Z: Zeroize + ?Sized> Drop for Zeroizing<Z> {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl<Z: Zeroize + ?Sized> ZeroizeOnDrop for Zeroizing<Z> {}

impl<Z: Zeroize + ?Sized> Zeroize for Zeroizing<Z> {
    fn zeroize(&mut self) {
        self.0.zeroize();
    }
}

/// Says nothing of what it holds.
impl<Z: Zeroize + ?Sized> fmt::Debug for Zeroizing<Z> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Zeroizing(..)")
    }
}

impl<Z: Zeroize + Clone> Clone for Zeroizing<Z> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<Z: Zeroize> From<Z> for Zeroizing<Z> {
    fn from(value: Z) -> Self {
        Self(value)
    }
}

impl<Z: Zeroize + ?Sized> Deref for Zeroizing<Z> {
    type Target = Z;

    fn deref(&self) -> &Z {
        &self.0
    }
}

impl<Z: Zeroize + ?Sized> DerefMut for Zeroizing<Z> {
    fn deref_mut(&mut self) -> &mut Z {
        &mut self.0
    }
}

impl<T: ?Sized, Z: Zeroize + AsRef<T> + ?Sized> AsRef<T> for Zeroizing<Z> {
    fn as_ref(&self) -> &T {
        self.0.as_ref()
    }
}

impl<T: ?Sized, Z: Zeroize + AsMut<T> + ?Sized> AsMut<T> for Zeroizing<Z> {
    fn as_mut(&mut self) -> &mut T {
        self.0.as_mut()
    }
}
