//! Containers in a virtual machine of their own. This side starts it and carries bytes: what it
//! carries is TLS between enclave and guest, and nothing of it is kept.
//!
//! ```text
//! gateway ── fd 0 ──▶ this process ── port toani.channel ──▶ guest: supervisor, containers
//!                      │  chip  ◀───── port toani.report ──── guest
//!                      └── QEMU: kernel, initrd, command line, as they were measured
//! ```

mod certificates;
mod console;
mod image;
mod measurement;
mod options;
mod paths;
mod privileges;
mod qemu;
mod snp;
mod vsock;

use std::{process::ExitStatus, sync::Arc, time::Duration};

use toani_protocol::{evidence::ReportData, instance::LaunchDigest};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy},
    net::UnixStream,
    sync::oneshot,
    time::timeout,
};

pub use self::{
    image::{GuestImage, ImageError},
    measurement::Parts,
    options::{MEMORY_MIB_MAX, MEMORY_MIB_MIN, Options, OptionsError, PROCESSORS_MAX, USAGE},
    paths::VmPaths,
    privileges::DeviceError,
    qemu::{Accelerator, LAUNCHER_MODE, Machine, Protection, launcher},
    snp::FirmwareError,
};
use crate::{
    evidence::{EvidenceError, EvidenceSource, SimulatedChip},
    guest::{REPORT_BYTES, answer},
    messages::{self, FrameError, FromSupervisor},
    supervisor::log,
};

use self::{
    certificates::ChipCertificates,
    console::Console,
    qemu::{Channel, Running},
    vsock::Vsock,
};

/// Longest time from QEMU's start to a supervisor in the guest that is ready, with an emulator.
const READY: Duration = Duration::from_secs(120);

const KVM_DEVICE: &str = "/dev/kvm";
/// Of the chip's firmware, which starts guests under SEV-SNP.
const SEV_DEVICE: &str = "/dev/sev";

/// Longest time from a closed channel to the guest's end, for its last words.
const LAST_WORDS: Duration = Duration::from_secs(5);

pub(crate) use self::paths::READY_WITH_HOST;

/// No guest has come about.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error("there is no QEMU at {0}: apt-get install qemu-system-x86, or --qemu names another")]
    NoQemu(String),
    #[error("there is no /dev/kvm here that this user may open: --accel tcg emulates a processor")]
    NoKvm,
    #[error(
        "there is no {SEV_DEVICE} here: this machine's processor has no SEV-SNP, or it is off. \
         Switch it on in the firmware's settings and load kvm_amd with sev_snp=1. Nothing else is \
         tried: without --snp the operators admit a guest at a lower level"
    )]
    NoSev,
    #[error(transparent)]
    Evidence(#[from] EvidenceError),
    #[error(transparent)]
    Privileges(#[from] DeviceError),
    #[error("QEMU cannot be started: {0}")]
    Io(#[from] std::io::Error),
    #[error("the guest ended before it was ready ({how}); the last of its console:\n{console}")]
    Ended { how: String, console: String },
    #[error("the guest was not ready within {} s; the last of its console:\n{console}", READY.as_secs())]
    NotReady { console: String },
    /// The words of the supervisor in the guest.
    #[error("in the guest: {0}")]
    CannotStart(String),
}

/// What carries bytes could not go on.
#[derive(Debug, thiserror::Error)]
pub enum VmError {
    #[error(transparent)]
    Start(#[from] StartError),
    #[error("the stream of gateway or guest: {0}")]
    Frame(#[from] FrameError),
    #[error("the guest ended ({how}); the last of its console:\n{console}")]
    Ended { how: String, console: String },
}

/// A guest whose supervisor is ready.
struct Guest {
    channel: UnixStream,
    launch_digest: LaunchDigest,
    ended: oneshot::Receiver<ExitStatus>,
    console: Console,
}

/// Starts a guest and serves one gateway until it closes the stream.
///
/// # Errors
/// See [`VmError`]. What kept the guest from starting is said to the gateway too.
pub async fn serve(mut gateway: UnixStream, options: &Options) -> Result<(), VmError> {
    let mut guest = match start(options).await {
        Ok(guest) => guest,
        Err(error) => {
            let why = FromSupervisor::CannotStart(error.to_string());
            messages::write(&mut gateway, &why).await?;
            return Err(error.into());
        }
    };
    let ready = FromSupervisor::Ready { launch_digest: guest.launch_digest.to_vec() };
    messages::write(&mut gateway, &ready).await?;
    let (mut from_gateway, mut to_gateway) = gateway.split();
    let (mut from_guest, mut to_guest) = guest.channel.split();
    let status = tokio::select! {
        end = copy(&mut from_gateway, &mut to_guest) => match end {
            // The gateway has closed it, and the guest dies with this process.
            Ok(_) => return Ok(()),
            Err(_) => status(guest.ended).await,
        },
        _ = copy(&mut from_guest, &mut to_gateway) => status(guest.ended).await,
        status = &mut guest.ended => status.ok(),
    };
    Err(VmError::Ended { how: how(status), console: guest.console.last_words() })
}

async fn start(options: &Options) -> Result<Guest, StartError> {
    if !options.qemu.is_file() {
        return Err(StartError::NoQemu(options.qemu.display().to_string()));
    }
    let is_snp = options.machine.protection != Protection::None;
    if is_snp && !std::path::Path::new(SEV_DEVICE).exists() {
        return Err(StartError::NoSev);
    }
    let needs_kvm = options.machine.accelerator == Accelerator::Kvm || is_snp;
    if needs_kvm && std::fs::File::options().read(true).write(true).open(KVM_DEVICE).is_err() {
        return Err(StartError::NoKvm);
    }
    let mut image = GuestImage::read(&options.guest)?;
    let launch_digest = match &options.machine.protection {
        Protection::None => image.parts.simulated_digest(),
        Protection::Snp { firmware } => image.with_firmware(firmware, &options.machine)?,
    };
    let simulated = match &options.simulated_chip {
        Some(machine) => Some(SimulatedChip::of(machine, launch_digest)?),
        None => None,
    };
    let certificates = options.certificates.as_deref().map(ChipCertificates::read).transpose()?;
    let groups = privileges::groups(&options.machine)?;
    let vsock = Vsock::find(std::path::Path::new(vsock::DEVICE))?;
    let Running { console, channel, report, mut ended } =
        qemu::start(&options.qemu, &options.machine, &image, groups, vsock.as_ref())?;
    // QEMU has its own copies of the descriptors.
    drop((image, vsock));
    let console = Console::of(console);
    match (simulated, certificates) {
        (Some(chip), _) => drop(tokio::spawn(vouch(report, Arc::new(chip)))),
        (None, Some(folder)) => drop(tokio::spawn(vouch(report, Arc::new(folder)))),
        // A guest that asks finds the port closed.
        (None, None) => drop(report),
    }
    let first = async {
        let mut channel = match channel {
            Channel::Port(port) => port,
            Channel::Vsock(guest) => vsock::connect(guest).await.map_err(FrameError::from)?,
        };
        let first = messages::read::<FromSupervisor>(&mut channel).await?;
        Ok::<_, FrameError>((channel, first))
    };
    let first = tokio::select! {
        first = timeout(READY, first) => first,
        status = &mut ended => {
            return Err(StartError::Ended { how: how(status.ok()), console: console.last_words() });
        }
    };
    match first {
        Ok(Ok((channel, FromSupervisor::Ready { .. }))) => {
            Ok(Guest { channel, launch_digest, ended, console })
        }
        Ok(Ok((_, FromSupervisor::CannotStart(why)))) => Err(StartError::CannotStart(why)),
        Ok(_) => {
            let status = status(ended).await;
            Err(StartError::Ended { how: how(status), console: console.last_words() })
        }
        Err(_) => Err(StartError::NotReady { console: console.last_words() }),
    }
}

/// How QEMU ends: what closes the channel ends the whole guest, mostly.
async fn status(ended: oneshot::Receiver<ExitStatus>) -> Option<ExitStatus> {
    timeout(LAST_WORDS, ended).await.ok()?.ok()
}

fn how(status: Option<ExitStatus>) -> String {
    status.map_or_else(|| "without a word".into(), |status| status.to_string())
}

/// Answers the guest's questions, one after the other, until it is gone.
async fn vouch<E: EvidenceSource>(mut report: UnixStream, source: Arc<E>) {
    let mut report_data: ReportData = [0; REPORT_BYTES];
    while report.read_exact(&mut report_data).await.is_ok() {
        let source = Arc::clone(&source);
        // Making evidence may take a while, and keeps nobody's bytes waiting.
        let made = tokio::task::spawn_blocking(move || source.evidence(&report_data)).await;
        let made = made.unwrap_or_else(|_| Err(EvidenceError("its source panicked".into())));
        if report.write_all(&answer(made)).await.is_err() {
            return log("the guest does not take its evidence");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Told(Result<Vec<u8>, EvidenceError>);

    impl EvidenceSource for Told {
        fn evidence(&self, report_data: &ReportData) -> Result<Vec<u8>, EvidenceError> {
            assert_eq!(report_data, &[3; 64]);
            self.0.clone()
        }
    }

    #[tokio::test]
    async fn the_report_port_answers_each_question() {
        let (mut guest, host) = UnixStream::pair().unwrap();
        tokio::spawn(vouch(host, Arc::new(Told(Ok(b"doc".to_vec())))));
        for _ in 0..2 {
            guest.write_all(&[3; 64]).await.unwrap();
            let mut answer = [0; 8];
            guest.read_exact(&mut answer).await.unwrap();
            assert_eq!(&answer, b"\0\x03\0\0\0doc");
        }
    }

    #[tokio::test]
    async fn what_is_missing_is_said_to_the_gateway_with_the_next_step() {
        let line = "--guest /nowhere --accel tcg --simulated-chip /nowhere --qemu";
        for (qemu, step) in [("/nowhere", "apt-get install"), ("/bin/true", "./x image guest")] {
            let words: Vec<_> = line.split(' ').chain([qemu]).map(Into::into).collect();
            let (mut ours, theirs) = UnixStream::pair().unwrap();
            let options = Options::read(&words).unwrap();
            assert!(serve(theirs, &options).await.is_err());
            let said = messages::read::<FromSupervisor>(&mut ours).await.unwrap();
            let FromSupervisor::CannotStart(why) = said else { panic!("{said:?}") };
            assert!(why.contains(step), "{why}");
        }
    }

    /// A machine without the chip's firmware gets no guest that is protected, and none that is not.
    #[tokio::test]
    async fn without_sev_snp_there_is_no_guest_and_the_remedy_is_said() {
        if std::path::Path::new(SEV_DEVICE).exists() {
            return;
        }
        let line = "--guest /nowhere --snp --firmware /nowhere --qemu /bin/true";
        let words: Vec<_> = line.split(' ').map(Into::into).collect();
        let error = start(&Options::read(&words).unwrap()).await.err().unwrap();
        assert!(matches!(error, StartError::NoSev), "{error}");
        assert!(error.to_string().contains("sev_snp=1"), "{error}");
    }
}
