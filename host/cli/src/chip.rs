//! Which chip of AMD's a sandbox runs on, for the operators to admit it.

use std::path::Path;

use anyhow::{Context, bail};
use data_encoding::HEXLOWER_PERMISSIVE;
use toani_attestation::snp;
use toani_protocol::{
    instance::{CHIP_ID_BYTES, TcbVersion},
    sign::Bytes,
};
use toani_sandbox::vm::VmPaths;

const VCEK: &str = "vcek.der";

/// A chip, and the least versions of its parts.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Chip {
    pub(crate) id: Bytes,
    pub(crate) min_tcb: TcbVersion,
}

/// The chip that is named, at any version; or the one that the VCEK beside the guest is for, at the
/// versions that it is for or later ones. Nothing is proven by either: an operator says which chip it
/// is to be.
pub(crate) fn amd(named: Option<&str>, paths: &VmPaths) -> anyhow::Result<Chip> {
    match (named, &paths.certificates) {
        (Some(hex), None) => Ok(Chip { id: of_hex(hex)?, min_tcb: TcbVersion::default() }),
        (Some(hex), Some(folder)) => {
            let chip = of_vcek(&folder.join(VCEK))?;
            if chip.id != of_hex(hex)? {
                bail!("--chip is not the chip that {VCEK} in --certificates is for");
            }
            Ok(chip)
        }
        (None, Some(folder)) => of_vcek(&folder.join(VCEK)),
        (None, None) => bail!(
            "which chip? --certificates names a folder with its vcek.der, or --chip the chip itself, as \
             `snphost show identifier` prints it"
        ),
    }
}

fn of_hex(hex: &str) -> anyhow::Result<Bytes> {
    let bytes = HEXLOWER_PERMISSIVE.decode(hex.as_bytes()).ok();
    let bytes = bytes.filter(|bytes| bytes.len() == CHIP_ID_BYTES);
    bytes.map(Bytes).context("a chip is named by 128 hexadecimal digits")
}

fn of_vcek(file: &Path) -> anyhow::Result<Chip> {
    let der = std::fs::read(file).with_context(|| {
        format!("cannot read {}; AMD's key distribution service has it", file.display())
    })?;
    let chip = snp::Chip::claimed(&der)
        .with_context(|| format!("{} is no VCEK in DER: it names no chip", file.display()))?;
    Ok(Chip { id: Bytes(chip.id.to_vec()), min_tcb: chip.tcb })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn genuine(name: &str) -> std::path::PathBuf {
        let vectors = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors/attestation");
        vectors.join(name)
    }

    /// CHIP_ID stands at 0x1a0 of a report, REPORTED_TCB at 0x180 (AMD, publication 56860).
    #[test]
    fn a_genuine_vcek_names_the_chip_that_its_report_names() {
        let hex = std::fs::read_to_string(genuine("report_milan.hex")).unwrap();
        let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
        let report = HEXLOWER_PERMISSIVE.decode(&digits).unwrap();
        let Chip { id, min_tcb } = of_vcek(&genuine("vcek_milan.der")).unwrap();
        assert_eq!(id.0, report[0x1a0..0x1e0]);
        let TcbVersion { fmc, boot_loader, tee, snp, microcode } = min_tcb;
        assert_eq!([boot_loader, tee, 0, 0, 0, 0, snp, microcode], report[0x180..0x188]);
        assert_eq!(fmc, 0);
        let named = HEXLOWER_PERMISSIVE.encode(&id.0);
        assert_eq!(of_hex(&named).unwrap(), id);
        assert!(of_hex(&named[2..]).is_err());
    }

    #[test]
    fn turins_are_followed_by_zeros_and_what_is_no_vcek_is_refused() {
        let Chip { id, .. } = of_vcek(&genuine("vcek_turin.der")).unwrap();
        assert_eq!((id.0.len(), &id.0[8..]), (64, [0; 56].as_slice()));
        assert!(id.0[..8].iter().any(|byte| *byte != 0));
        assert!(of_vcek(&genuine("report_milan.hex")).is_err());
        let error = of_vcek(Path::new("/nowhere/vcek.der")).unwrap_err();
        assert!(error.to_string().contains("key distribution"), "{error}");
    }
}
