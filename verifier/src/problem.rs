//! Why a bundle is refused.

use toani_audit::bundle::FileKind;

use crate::attested::Unproven;

macro_rules! problems {
    ($($name:ident = $code:literal, $sentence:literal;)*) => {
        /// What is wrong with a bundle. Codes are stable.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Problem {
            $(#[doc = $sentence] $name),*
        }

        impl Problem {
            pub const fn code(self) -> &'static str {
                match self { $(Self::$name => $code),* }
            }

            pub const fn sentence(self) -> &'static str {
                match self { $(Self::$name => $sentence),* }
            }
        }
    };
}

problems! {
    TooLarge = "too_large", "the bundle is larger than a bundle may be";
    Archive = "archive", "the archive is not in the one encoding that a bundle has, or is cut short";
    IndexMissing = "index_missing", "the bundle has no index";
    Index = "index", "the index is not a canonical bundle index";
    IndexSignature = "index_signature", "the index is not signed by the log's key of the trust file";
    Instance = "instance", "the bundle is of another instance than the trust file's";
    Tenant = "tenant", "the bundle is of another tenant than the trust file's";
    Unlisted = "file_unlisted", "a file is not in the index, or of no kind that a bundle has";
    Missing = "file_missing", "a file that must be there is not";
    FileHash = "file_hash", "a file is not the one that the index lists";
    Manifest = "manifest", "the manifest is malformed, or names another log than the trust file";
    Admission = "admission", "an admission list is not signed by the manifest's operators";
    Checkpoint = "checkpoint", "the checkpoint is not signed by the log's key of the trust file";
    Witnesses = "witnesses", "the trust file asks for witnesses, whose signatures this version cannot verify";
    RecordMalformed = "record", "a record is malformed, or not the one that its name says";
    RecordSignature = "record_signature", "a record is not signed by the log's key of the trust file";
    RecordOrigin = "record_origin", "a record is of another log";
    RecordMeasurement = "record_measurement", "a record was signed by a measurement that the trust file does not name";
    BootRecord = "boot_record", "a boot that a record is of, or that signed the index, has no record of its own in the bundle";
    Evidence = "evidence", "the evidence of a boot does not prove that its keys are those of an enclave that the trust file names";
    RecordEvidence = "record_evidence", "a record names other evidence or another measurement than its boot has proven";
    RecordAssurance = "record_assurance", "a record claims more than the evidence of its boot proves";
    RecordTenant = "record_tenant", "a record is of another tenant";
    RecordOrder = "record_order", "a record's time or previous hash contradicts the record before it";
    RecordGap = "record_gap", "the tenant's records are not without gap from the first to the last";
    Proof = "proof", "a record's proof does not lead to the checkpoint";
    Policy = "policy", "a policy is not the one that a record names";
    Receipt = "receipt", "a receipt is malformed or not signed by the log's key of the trust file";
    Disclosure = "disclosure", "a disclosure is malformed, or not of the action that its name says";
    DisclosureRecord = "disclosure_record", "a disclosure does not open what the records commit to";
    DisclosureApproval = "disclosure_approval", "an answer of a disclosure is not by a person and key of the policy, or does not lead to what the records say";
    ReceiptRecord = "receipt_record", "a receipt says something else than the records";
}

/// Why a bundle is refused: what is wrong, and in which file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BundleError {
    pub problem: Problem,
    /// One of the names that a bundle may have.
    pub file: Option<String>,
    /// What does not hold of evidence.
    pub cause: Option<Unproven>,
}

impl BundleError {
    /// The stable code of what is wrong.
    pub fn code(&self) -> &'static str {
        self.problem.code()
    }

    pub(crate) fn of(problem: Problem) -> Self {
        Self { problem, file: None, cause: None }
    }

    pub(crate) fn in_file(problem: Problem, file: &FileKind) -> Self {
        Self { file: Some(file.name()), ..Self::of(problem) }
    }
}

impl std::fmt::Display for BundleError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.problem.sentence())?;
        if let Some(file) = &self.file {
            write!(f, " ({file})")?;
        }
        match &self.cause {
            Some(cause) => write!(f, ": {cause}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for BundleError {}
