//! Collateral: what the simulated Intel publishes about a kind of platform.

use data_encoding::HEXUPPER;
use p256::ecdsa::signature::Signer as _;
use serde_json::{Value, json};
use toani_attestation::SgxCollateral;
use toani_protocol::{Time, sign::Bytes};

use crate::{Authority, AuthorityError, Level, Platform, certificate::Validity};

pub(crate) const QE_MRSIGNER: [u8; 32] = *b"simulated signer of the quoting ";
pub(crate) const QE_ISV_PROD_ID: u16 = 1;
/// INIT, MODE64BIT and PROVISIONKEY; x87 and SSE.
pub(crate) const QE_ATTRIBUTES: [u8; 16] = [0x15, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0];

/// What is published at one time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publication {
    pub fmspc: [u8; 6],
    pub pce_id: [u8; 2],
    /// Of TCB info and QE identity.
    pub documents: Validity,
    /// Of the two CRLs.
    pub crls: Validity,
    pub tcb_eval_data_number: u32,
    pub crl_number: u32,
    /// Serials in the root's CRL.
    pub revoked_by_root: Vec<u64>,
    /// Serials in the PCK CA's CRL.
    pub revoked_by_pck_ca: Vec<u64>,
}

impl Publication {
    /// What is published about the kind of `platform` on the day of `now`, for thirty days.
    pub fn about(platform: &Platform, now: Time) -> Self {
        let validity = Validity::month_of(now);
        Self {
            fmspc: platform.fmspc,
            pce_id: platform.pce_id,
            documents: validity,
            crls: validity,
            tcb_eval_data_number: 17,
            crl_number: 1,
            revoked_by_root: Vec::new(),
            revoked_by_pck_ca: Vec::new(),
        }
    }

    /// TCB info, version 3 (Intel PCS API, v4).
    fn tcb_info(&self) -> Value {
        let level = |level: Level, status: &str, advisories: &[&str]| {
            let components = vec![json!({ "svn": level.svn() }); 16];
            json!({
                "tcb": { "sgxtcbcomponents": components, "pcesvn": level.svn() },
                "tcbDate": "2024-03-13T00:00:00Z",
                "tcbStatus": status,
                "advisoryIDs": advisories,
            })
        };
        json!({
            "id": "SGX",
            "version": 3,
            "issueDate": self.documents.from.to_string(),
            "nextUpdate": self.documents.until.to_string(),
            "fmspc": HEXUPPER.encode(&self.fmspc),
            "pceId": HEXUPPER.encode(&self.pce_id),
            "tcbType": 0,
            "tcbEvaluationDataNumber": self.tcb_eval_data_number,
            "tcbLevels": [
                level(Level::Current, "UpToDate", &[]),
                level(Level::Misconfigured, "ConfigurationNeeded", &["SIMULATED-SA-00001"]),
                level(Level::Outdated, "OutOfDate", &["SIMULATED-SA-00002"]),
                level(Level::Broken, "Revoked", &["SIMULATED-SA-00003"]),
            ],
        })
    }

    /// QE identity, version 2 (Intel PCS API, v4).
    fn qe_identity(&self) -> Value {
        let level = |level: Level, status: &str| {
            json!({
                "tcb": { "isvsvn": level.svn() },
                "tcbDate": "2024-03-13T00:00:00Z",
                "tcbStatus": status,
            })
        };
        json!({
            "id": "QE",
            "version": 2,
            "issueDate": self.documents.from.to_string(),
            "nextUpdate": self.documents.until.to_string(),
            "tcbEvaluationDataNumber": self.tcb_eval_data_number,
            "miscselect": "00000000",
            "miscselectMask": "FFFFFFFF",
            "attributes": "11000000000000000000000000000000",
            "attributesMask": "FBFFFFFFFFFFFFFF0000000000000000",
            "mrsigner": HEXUPPER.encode(&QE_MRSIGNER),
            "isvprodid": QE_ISV_PROD_ID,
            "tcbLevels": [
                level(Level::Misconfigured, "UpToDate"),
                level(Level::Outdated, "OutOfDate"),
                level(Level::Broken, "Revoked"),
            ],
        })
    }
}

impl Authority {
    /// Certificates, CRLs and documents of a publication, signed.
    pub fn collateral(&self, published: &Publication) -> Result<SgxCollateral, AuthorityError> {
        let Publication { crls, crl_number, revoked_by_root, revoked_by_pck_ca, .. } = published;
        let root_crl = self.root().crl(*crls, *crl_number, revoked_by_root)?;
        let pck_crl = self.pck_ca().crl(*crls, *crl_number, revoked_by_pck_ca)?;
        let (tcb_info, tcb_info_signature) = self.document(&published.tcb_info());
        let (qe_identity, qe_identity_signature) = self.document(&published.qe_identity());
        let signer = Bytes(self.tcb_signer_certificate().to_vec());
        Ok(SgxCollateral {
            root: Bytes(self.root_certificate().to_vec()),
            root_crl: Bytes(root_crl),
            pck_crl: Bytes(pck_crl),
            tcb_info_signer: signer.clone(),
            tcb_info,
            tcb_info_signature,
            qe_identity_signer: signer,
            qe_identity,
            qe_identity_signature,
        })
    }

    fn document(&self, document: &Value) -> (Bytes, Bytes) {
        let json = document.to_string().into_bytes();
        let signature: p256::ecdsa::Signature = self.tcb_signing_key().sign(&json);
        (Bytes(json), Bytes(signature.to_bytes().to_vec()))
    }
}
