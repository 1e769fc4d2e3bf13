//! The SGX extensions of a PCK certificate (Intel SGX PCK Certificate and CRL Profile, 1.5).

use x509_cert::der::{
    AnyRef, Decode, Error, ErrorKind, Reader, SliceReader, Tag, Tagged,
    asn1::{ObjectIdentifier, OctetStringRef},
};

pub(super) const SGX_EXTENSIONS: ObjectIdentifier =
    ObjectIdentifier::new_unwrap("1.2.840.113741.1.13.1");
const PPID: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113741.1.13.1.1");
const TCB: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113741.1.13.1.2");
const PCE_ID: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113741.1.13.1.3");
const FMSPC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113741.1.13.1.4");

/// Which platform a PCK certificate is for, and at which TCB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Platform {
    pub(super) ppid: [u8; 16],
    /// SVNs of the components of the CPU, 1 to 16.
    pub(super) components: [u8; 16],
    pub(super) pce_svn: u16,
    pub(super) pce_id: [u8; 2],
    pub(super) fmspc: [u8; 6],
}

impl Platform {
    /// Reads the value of the extension [`SGX_EXTENSIONS`].
    pub(super) fn parse(der: &[u8]) -> Option<Self> {
        let (mut ppid, mut tcb, mut pce_id, mut fmspc) = (None, None, None, None);
        for_each_entry(der, |id, value| {
            match id {
                PPID => ppid = Some(octets(value)?),
                TCB => tcb = Some(Tcb::parse(value)?),
                PCE_ID => pce_id = Some(octets(value)?),
                FMSPC => fmspc = Some(octets(value)?),
                // SGX type, platform instance, configuration: nothing is decided by them here.
                _ => {}
            }
            Ok(())
        })
        .ok()?;
        let Tcb { components, pce_svn } = tcb?;
        Some(Self { ppid: ppid?, components, pce_svn, pce_id: pce_id?, fmspc: fmspc? })
    }
}

struct Tcb {
    components: [u8; 16],
    pce_svn: u16,
}

impl Tcb {
    /// Reads .2: the components .2.1 to .2.16, PCESVN .2.17 and CPUSVN .2.18.
    fn parse(value: AnyRef<'_>) -> Result<Self, Error> {
        let missing = || Error::from(ErrorKind::Failed);
        let mut components = [None; 16];
        let mut pce_svn = None;
        let mut reader = SliceReader::new(value.value())?;
        value.tag().assert_eq(Tag::Sequence)?;
        while !reader.is_finished() {
            let (id, value) = entry(&mut reader)?;
            if id.parent() != Some(TCB) {
                return Err(missing());
            }
            match id.arc(id.len().saturating_sub(1)) {
                Some(17) => pce_svn = Some(u16::try_from(value)?),
                Some(arc) => {
                    let slot = usize::try_from(arc).ok().and_then(|arc| arc.checked_sub(1));
                    // CPUSVN, .2.18, says the same once more.
                    if let Some(slot) = slot.and_then(|slot| components.get_mut(slot)) {
                        *slot = Some(u8::try_from(value)?);
                    }
                }
                None => return Err(missing()),
            }
        }
        let mut whole = [0; 16];
        for (to, from) in whole.iter_mut().zip(components) {
            *to = from.ok_or_else(missing)?;
        }
        Ok(Self { components: whole, pce_svn: pce_svn.ok_or_else(missing)? })
    }
}

/// Calls `f` for each entry of a SEQUENCE OF SEQUENCE { OBJECT IDENTIFIER, ANY }.
fn for_each_entry<'a>(
    der: &'a [u8],
    mut f: impl FnMut(ObjectIdentifier, AnyRef<'a>) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut reader = SliceReader::new(der)?;
    reader.sequence(|entries| {
        while !entries.is_finished() {
            let (id, value) = entry(entries)?;
            f(id, value)?;
        }
        Ok::<_, Error>(())
    })?;
    reader.finish()
}

fn entry<'a>(reader: &mut impl Reader<'a>) -> Result<(ObjectIdentifier, AnyRef<'a>), Error> {
    reader.sequence(|entry| Ok((ObjectIdentifier::decode(entry)?, AnyRef::decode(entry)?)))
}

fn octets<const N: usize>(value: AnyRef<'_>) -> Result<[u8; N], Error> {
    let octets: &OctetStringRef = value.try_into()?;
    octets.as_bytes().try_into().map_err(|_| ErrorKind::Failed.into())
}
