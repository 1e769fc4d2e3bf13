//! What a blob costs: medians in microseconds, as JSON. `cargo run --release --example blob_rate`

use std::{error::Error, time::Instant};

use toani_store::{DataFolder, Store};

const ROUNDS: u64 = 400;

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let store = Store::open(&DataFolder::open(folder.path())?)?;
    let (mut queued, mut settled, mut durable, mut read) = (vec![], vec![], vec![], vec![]);
    for round in 0..ROUNDS {
        let blob = |kind: u8| {
            let mut bytes = vec![kind; 1024];
            bytes.extend(round.to_be_bytes());
            bytes
        };
        let start = Instant::now();
        let (hash, ticket) = store.put_blob(blob(0), None).await?;
        queued.push(start.elapsed().as_secs_f64() * 1e6);
        ticket.settled().await?;
        settled.push(start.elapsed().as_secs_f64() * 1e6);
        let start = Instant::now();
        store.blob(&hash)?;
        read.push(start.elapsed().as_secs_f64() * 1e6);
        let start = Instant::now();
        store.put_blob_durable(blob(1), None).await?;
        durable.push(start.elapsed().as_secs_f64() * 1e6);
    }
    println!(
        "{{\"queued_us\":{:.0},\"settled_us\":{:.0},\"durable_us\":{:.0},\"read_us\":{:.0}}}",
        median(queued),
        median(settled),
        median(durable),
        median(read)
    );
    Ok(())
}
