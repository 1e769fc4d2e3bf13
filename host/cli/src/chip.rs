//! Which chip of AMD's a sandbox runs on, for the operators to admit it.

use std::path::Path;

use anyhow::{Context, bail};
use data_encoding::HEXLOWER_PERMISSIVE;
use toani_protocol::sign::Bytes;
use toani_sandbox::vm::VmPaths;
use x509_cert::{
    Certificate,
    der::{Decode, asn1::ObjectIdentifier},
};

/// CHIP_ID of a report.
const CHIP_BYTES: usize = 64;
/// hwID of a VCEK (AMD, publication 57230). Turin's has 8 bytes, which reports follow by zeros.
const HARDWARE_ID: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.4");
const TURIN_BYTES: usize = 8;
const VCEK: &str = "vcek.der";

/// The chip that is named, or the one that the VCEK beside the guest is for. Nothing is proven by
/// either: an operator says which chip it is to be.
pub(crate) fn amd(named: Option<&str>, paths: &VmPaths) -> anyhow::Result<Bytes> {
    match (named, &paths.certificates) {
        (Some(hex), _) => of_hex(hex),
        (None, Some(folder)) => of_vcek(&folder.join(VCEK)),
        (None, None) => bail!(
            "which chip? --certificates names a folder with its vcek.der, or --chip the chip itself, as \
             `snphost show identifier` prints it"
        ),
    }
}

fn of_hex(hex: &str) -> anyhow::Result<Bytes> {
    let bytes = HEXLOWER_PERMISSIVE.decode(hex.as_bytes()).ok();
    let bytes = bytes.filter(|bytes| bytes.len() == CHIP_BYTES);
    bytes.map(Bytes).context("a chip is named by 128 hexadecimal digits")
}

fn of_vcek(file: &Path) -> anyhow::Result<Bytes> {
    let der = std::fs::read(file).with_context(|| {
        format!("cannot read {}; AMD's key distribution service has it", file.display())
    })?;
    let vcek = Certificate::from_der(&der)
        .with_context(|| format!("{} is no certificate in DER", file.display()))?;
    let extensions = vcek.tbs_certificate().extensions().map_or(&[][..], Vec::as_slice);
    let hardware = extensions.iter().find(|extension| extension.extn_id == HARDWARE_ID);
    let mut id = hardware.map(|found| found.extn_value.as_bytes().to_vec()).unwrap_or_default();
    if ![CHIP_BYTES, TURIN_BYTES].contains(&id.len()) {
        bail!("{} is no VCEK: it names no chip", file.display());
    }
    id.resize(CHIP_BYTES, 0);
    Ok(Bytes(id))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn genuine(name: &str) -> std::path::PathBuf {
        let vectors = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors/attestation");
        vectors.join(name)
    }

    /// CHIP_ID stands at 0x1a0 of a report (AMD, publication 56860).
    #[test]
    fn a_genuine_vcek_names_the_chip_that_its_report_names() {
        let hex = std::fs::read_to_string(genuine("report_milan.hex")).unwrap();
        let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
        let report = HEXLOWER_PERMISSIVE.decode(&digits).unwrap();
        let chip = of_vcek(&genuine("vcek_milan.der")).unwrap();
        assert_eq!(chip.0, report[0x1a0..0x1e0]);
        let named = HEXLOWER_PERMISSIVE.encode(&chip.0);
        assert_eq!(of_hex(&named).unwrap(), chip);
        assert!(of_hex(&named[2..]).is_err());
    }

    #[test]
    fn turins_are_followed_by_zeros_and_what_is_no_vcek_is_refused() {
        let chip = of_vcek(&genuine("vcek_turin.der")).unwrap();
        assert_eq!((chip.0.len(), &chip.0[8..]), (64, [0; 56].as_slice()));
        assert!(chip.0[..8].iter().any(|byte| *byte != 0));
        assert!(of_vcek(&genuine("report_milan.hex")).is_err());
        let error = of_vcek(Path::new("/nowhere/vcek.der")).unwrap_err();
        assert!(error.to_string().contains("key distribution"), "{error}");
    }
}
