//! How busy this machine's processors are, as the kernel counts it (proc_stat(5)).

use anyhow::Context;

/// USER_HZ of Linux on x86-64.
const TICKS_PER_MS: f64 = 0.1;

/// Milliseconds that all processors together have worked since the machine started, for whomever.
pub(crate) fn worked_ms() -> anyhow::Result<f64> {
    let text = std::fs::read_to_string("/proc/stat")?;
    let all = text.lines().next().context("/proc/stat is empty")?;
    let ticks: Vec<u64> = all.split_whitespace().skip(1).map_while(|n| n.parse().ok()).collect();
    let [user, nice, system, _idle, _iowait, irq, softirq, ..] = ticks.as_slice() else {
        anyhow::bail!("/proc/stat has another form");
    };
    let worked = user + nice + system + irq + softirq;
    Ok(f64::from(u32::try_from(worked)?) / TICKS_PER_MS)
}
