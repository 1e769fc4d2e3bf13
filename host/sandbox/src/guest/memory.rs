//! What fits into a guest's memory. A container's class is a limit and no reservation: one that is
//! larger than all memory there is would end the guest before it ended the container.

use toani_protocol::instance::RootFileSystems;

use crate::{
    driver::{Driver, Kind, PrepareError, Size},
    share::Share,
};

/// A driver that is not asked for what does not fit.
#[derive(Debug)]
pub struct Fits<D> {
    driver: D,
    memory_mib_max: u32,
}

/// This guest holds not even the usual class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the guest has {0} MiB for a container, and the usual class {usual}: --guest-memory gives it more",
    usual = Size::default().memory_mib
)]
pub struct TooSmall(u32);

impl<D: Driver> Fits<D> {
    /// On a machine whose memory is not the plane's alone everything is tried.
    pub fn anything(driver: D) -> Self {
        Self { driver, memory_mib_max: u32::MAX }
    }

    /// In a guest, whose memory is for its containers.
    ///
    /// # Errors
    /// See [`TooSmall`].
    pub fn in_guest(self) -> Result<Self, TooSmall> {
        Self::within(self.driver, Share::default())
    }

    /// All containers together have no more; the rest is the initrd's files and the supervisor.
    fn within(driver: D, share: Share) -> Result<Self, TooSmall> {
        let memory_mib_max = u32::try_from(share.memory_bytes() >> 20).unwrap_or(u32::MAX);
        match memory_mib_max >= Size::default().memory_mib {
            true => Ok(Self { driver, memory_mib_max }),
            false => Err(TooSmall(memory_mib_max)),
        }
    }
}

impl<D: Driver> Driver for Fits<D> {
    type Parked = D::Parked;

    fn root_file_systems(&self) -> RootFileSystems {
        self.driver.root_file_systems()
    }

    async fn prepare(&self, kind: Kind) -> Result<D::Parked, PrepareError> {
        let size = kind.size;
        if size.memory_mib > self.memory_mib_max {
            return Err(PrepareError(format!(
                "a class of {} MiB does not fit into this guest, which has {} MiB for it: toani serve \
                 --guest-memory gives it more",
                size.memory_mib, self.memory_mib_max
            )));
        }
        self.driver.prepare(kind).await
    }
}

#[cfg(test)]
mod tests {
    use toani_protocol::job::JobOutcome;

    use super::*;
    use crate::{
        driver::{Parked, Used},
        execution::Work,
    };

    struct Any;

    #[derive(Debug)]
    struct Never;

    impl Parked for Never {
        fn is_sound(&self) -> bool {
            true
        }

        async fn run(self, _: Work) -> (JobOutcome, Used) {
            unreachable!("no job")
        }
    }

    impl Driver for Any {
        type Parked = Never;

        fn root_file_systems(&self) -> RootFileSystems {
            unreachable!("no job")
        }

        async fn prepare(&self, _: Kind) -> Result<Never, PrepareError> {
            Ok(Never)
        }
    }

    #[tokio::test]
    async fn what_does_not_fit_is_refused_before_it_is_tried() {
        let guest = Fits::within(Any, Share::of_mib(896)).unwrap();
        let of =
            |memory_mib| Kind { size: Size { memory_mib, ..Size::default() }, ..Kind::default() };
        assert!(guest.prepare(of(896)).await.is_ok());
        let error = guest.prepare(of(897)).await.unwrap_err();
        assert!(error.0.contains("897 MiB") && error.0.contains("--guest-memory"), "{error}");
        assert!(Fits::anything(Any).prepare(of(8192)).await.is_ok());
    }

    #[test]
    fn a_guest_too_small_for_the_usual_class_says_so() {
        let usual = Size::default().memory_mib;
        assert!(Fits::within(Any, Share::of_mib(usual)).is_ok());
        let error = Fits::within(Any, Share::of_mib(usual - 1)).err().unwrap();
        assert!(error.to_string().contains("--guest-memory"), "{error}");
        assert!(Fits::within(Any, Share::of_mib(0)).is_err());
    }
}
