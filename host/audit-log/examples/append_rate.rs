//! How fast the log appends, against a bare write and fdatasync of the same bytes in the same
//! folder: interleaved rounds, medians, as JSON. `cargo run --release --example append_rate DIR`

use std::{
    error::Error,
    fs::{self, OpenOptions},
    io::Write,
    path::Path,
    time::Instant,
};

use toani_audit_log::{AuditLog, Options};
use toani_protocol::record::Record;

#[path = "../tests/common/mod.rs"]
mod common;

const ROUNDS: usize = 60;

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args().nth(1).unwrap_or_else(|| "append-rate".into());
    let folder = Path::new(&folder);
    fs::create_dir_all(folder)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build()?;
    for batch in [1u64, 32, 512] {
        let place = folder.join(batch.to_string());
        let (log, _) = AuditLog::open(&place, Options { signer: Some(common::signer()) })?;
        let mut bare = OpenOptions::new().append(true).create(true).open(place.join("bare"))?;
        let mut maker = common::Maker::new();
        let (mut ours, mut floor, mut bytes) = (Vec::new(), Vec::new(), 0);
        for _ in 0..ROUNDS {
            let leaves = maker.leaves(batch);
            let size = maker.links.size();
            let flat: Vec<u8> = leaves.iter().flat_map(|(_, leaf)| leaf.clone()).collect();
            bytes = flat.len();
            // The signatures of the round before are not this round's cost.
            while log.signatures_verified() < size - batch {
                std::thread::yield_now();
            }
            let start = Instant::now();
            bare.write_all(&flat)?;
            bare.sync_data()?;
            floor.push(start.elapsed().as_secs_f64());
            let handle = log.clone();
            let start = Instant::now();
            runtime.block_on(async {
                handle.append_all(leaves).await?;
                handle.durable(size).await
            })?;
            ours.push(start.elapsed().as_secs_f64());
        }
        let last = log.leaf(log.size() - 1)?.unwrap_or_default();
        assert!(Record::decode(&last).is_ok());
        let (ours, floor) = (median(ours) * 1e6, median(floor) * 1e6);
        println!(
            "{{\"batch\":{batch},\"bytes\":{bytes},\"append_us\":{ours:.0},\"write_fdatasync_us\":{floor:.0},\"rate_ratio\":{:.2}}}",
            floor / ours
        );
        drop(log);
        fs::remove_dir_all(&place)?;
    }
    Ok(())
}
