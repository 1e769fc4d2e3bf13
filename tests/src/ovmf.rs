//! A firmware with nothing in it but what OVMF's AmdSev build says of itself at its end: enough to
//! measure a guest by, and nothing to start one with.

const PAGE_BYTES: usize = 4096;
/// Where the descriptions of pages stand, from the end.
const METADATA_AT: u32 = 1024;
/// Address, length and kind of what such a build has prepared.
const SECTIONS: [[u32; 3]; 4] = [
    [0x80_0000, 0x9000, 1],
    [0x80_d000, 0x1000, 2],
    [0x80_e000, 0x1000, 3],
    [0x81_0000, 0x1000, 0x10],
];

/// GUIDs as they stand in memory.
const FOOTER: u128 = 0xde82_b596_b21f_f745_baea_a366_c55a_082d;
const HASH_TABLE: u128 = 0x1f37_5572_3b3a_044b_927b_1da6_efa8_d454;
const RESET_BLOCK: u128 = 0xde71_f700_7e1a_cb4f_890e_68c7_7e2f_b44e;
const METADATA: u128 = 0x6665_88dc_4a98_9847_a75e_5585_a7bf_67cc;

/// Its bytes.
pub fn stand_in() -> Vec<u8> {
    let mut description = [b"ASEV", words(&[64, 1, 4]).as_slice()].concat();
    for section in SECTIONS {
        description.extend(words(&section));
    }
    let mut table = entry(METADATA, &words(&[METADATA_AT]));
    table.extend(entry(HASH_TABLE, &words(&[0x81_0c00, 0x400])));
    table.extend(entry(RESET_BLOCK, &words(&[0x80_b004])));
    let table = entry(FOOTER, &table);
    let mut firmware = vec![0xff; PAGE_BYTES - METADATA_AT as usize];
    firmware.extend(description);
    firmware.resize(PAGE_BYTES - 32 - table.len(), 0xff);
    firmware.extend(table);
    firmware.resize(PAGE_BYTES, 0xff);
    firmware
}

/// Its data, its length, which counts all of it, and its name.
fn entry(name: u128, data: &[u8]) -> Vec<u8> {
    let length = u16::try_from(data.len() + 2 + 16).unwrap_or_default();
    [data, &length.to_le_bytes(), &name.to_be_bytes()].concat()
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}
