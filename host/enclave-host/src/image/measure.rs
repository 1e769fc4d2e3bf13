//! MRENCLAVE: the SHA-256 of what was done to build the enclave (SDM vol. 3D, 37.4.1 and the
//! operations of ECREATE, EADD and EEXTEND in 40.3).

use sha2::{Digest, Sha256};

use super::{Content, Image, PAGE_BYTES, Region, SSA_FRAME_PAGES};

/// EEXTEND measures so many bytes at once.
const CHUNK_BYTES: u64 = 256;

/// MRENCLAVE.
pub type Measurement = [u8; 32];

impl Image {
    /// What the processor computes while this image is loaded.
    pub fn mrenclave(&self) -> Measurement {
        let mut hasher = Sha256::new();
        let mut create = [0; 64];
        create[..8].copy_from_slice(b"ECREATE\0");
        create[8..12].copy_from_slice(&SSA_FRAME_PAGES.to_le_bytes());
        create[12..20].copy_from_slice(&self.elrange_bytes.to_le_bytes());
        hasher.update(create);
        self.regions.iter().for_each(|region| add(&mut hasher, region));
        hasher.finalize().into()
    }
}

fn add(hasher: &mut Sha256, region: &Region) {
    let mut page = 0;
    while page < region.bytes {
        let offset = region.offset + page;
        let mut add = [0; 64];
        add[..8].copy_from_slice(b"EADD\0\0\0\0");
        add[8..16].copy_from_slice(&offset.to_le_bytes());
        add[16..24].copy_from_slice(&region.rights.secinfo_flags().to_le_bytes());
        hasher.update(add);
        if let Content::Measured(content) = &region.content {
            let from = usize::try_from(page).unwrap_or(usize::MAX);
            let page = content.get(from..from + 4096).unwrap_or_default();
            extend(hasher, offset, page);
        }
        page += PAGE_BYTES;
    }
}

fn extend(hasher: &mut Sha256, offset: u64, page: &[u8]) {
    let mut at = offset;
    for chunk in page.chunks(256) {
        let mut extend = [0; 64];
        extend[..8].copy_from_slice(b"EEXTEND\0");
        extend[8..16].copy_from_slice(&at.to_le_bytes());
        hasher.update(extend);
        hasher.update(chunk);
        at += CHUNK_BYTES;
    }
}
