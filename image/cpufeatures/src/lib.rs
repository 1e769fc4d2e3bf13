//! The interface of the crate `cpufeatures`, answered when the image is built.
//!
//! CPUID traps in an enclave (SDM vol. 3D, 36.6.1), and its answer would be the host's word. So a
//! feature is there if the image is compiled for it, and otherwise it is not.
#![no_std]
#![forbid(unsafe_code)]

/// Makes a module that answers whether all named target features are there.
#[macro_export]
macro_rules! new {
    ($module:ident, $($feature:tt),+ $(,)?) => {
        mod $module {
            /// Nothing has to be initialised.
            #[derive(Copy, Clone, Debug)]
            pub struct InitToken(());

            #[allow(dead_code, reason = "each user takes a part of this")]
            impl InitToken {
                #[inline(always)]
                pub fn init() -> Self {
                    Self(())
                }

                #[inline(always)]
                pub fn init_get() -> (Self, bool) {
                    (Self(()), get())
                }

                #[inline(always)]
                pub fn get(&self) -> bool {
                    get()
                }
            }

            #[allow(dead_code, reason = "each user takes a part of this")]
            #[inline(always)]
            pub fn init_get() -> (InitToken, bool) {
                (InitToken(()), get())
            }

            #[allow(dead_code, reason = "each user takes a part of this")]
            #[inline(always)]
            pub fn init() -> InitToken {
                InitToken(())
            }

            #[inline(always)]
            pub fn get() -> bool {
                cfg!(all($(target_feature = $feature),+))
            }
        }
    };
}
