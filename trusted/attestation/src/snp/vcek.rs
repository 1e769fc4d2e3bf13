//! The extensions of a VCEK (AMD, VCEK Certificate and KDS Interface Specification, 57230).

use toani_protocol::instance::{Product, TcbVersion};
use x509_cert::der::{
    Decode,
    asn1::{Ia5StringRef, ObjectIdentifier},
};

use super::report::product_of_name;
use crate::x509::Certificate;

const PRODUCT_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.2");
const BOOT_LOADER: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.1");
const TEE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.2");
const SNP: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.3");
const MICROCODE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.8");
const FMC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.9");
const HARDWARE_ID: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.4");

/// Which chip a VCEK is for, and at which TCB.
#[derive(Debug, PartialEq, Eq)]
pub struct Chip {
    pub product: Product,
    pub tcb: TcbVersion,
    /// As reports have it: Turin's 8 bytes are followed by zeros.
    pub id: [u8; 64],
}

impl Chip {
    /// The chip of a VCEK in DER, of which nothing is verified: for whoever says which chip is meant.
    pub fn claimed(vcek: &[u8]) -> Option<Self> {
        Self::of(&Certificate::parse(vcek).ok()?)
    }

    pub(super) fn of(vcek: &Certificate) -> Option<Self> {
        let value = |id| vcek.extension(id).flatten();
        let svn = |id| u8::from_der(value(id)?).ok();
        let name = Ia5StringRef::from_der(value(PRODUCT_NAME)?).ok()?;
        let product = product_of_name(name.as_str())?;
        let (fmc, id_bytes) = match product {
            Product::Milan | Product::Genoa => (0, 64),
            Product::Turin => (svn(FMC)?, 8),
        };
        let hardware_id = value(HARDWARE_ID)?;
        let mut id = [0; 64];
        id.get_mut(..id_bytes)
            .filter(|slot| slot.len() == hardware_id.len())?
            .copy_from_slice(hardware_id);
        let tcb = TcbVersion {
            fmc,
            boot_loader: svn(BOOT_LOADER)?,
            tee: svn(TEE)?,
            snp: svn(SNP)?,
            microcode: svn(MICROCODE)?,
        };
        Some(Self { product, tcb, id })
    }
}
