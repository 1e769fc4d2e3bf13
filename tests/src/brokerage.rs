//! The brokerage's process, and what it says.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc::{self, Receiver},
    time::Duration,
};

use anyhow::{Context, bail};
use serde_json::Value;
use sha2::{Digest, Sha256};

/// How long the brokerage may take to start or to answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// This machine's loopback addresses, as a guest of QEMU's user network sees them.
pub const HOST_OF_GUESTS: &str = "10.0.2.2";

/// A running brokerage.
#[derive(Debug)]
pub struct Brokerage {
    process: Child,
    lines: Receiver<Value>,
    host: &'static str,
    port: u16,
    spki: String,
    orders: u64,
}

impl Brokerage {
    /// Starts one that accepts this token. It is told a hash of it only.
    pub fn start(programs: &Path, token: &str, order_ms: u64) -> anyhow::Result<Self> {
        let hash = data_encoding::HEXLOWER.encode(&Sha256::digest(token.as_bytes()));
        let mut process = Command::new(programs.join("toani-brokerage"))
            .args(["--token-sha256", &hash, "--order-ms", &order_ms.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start the brokerage")?;
        let output = process.stdout.take().context("the brokerage has no output")?;
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let Ok(value) = serde_json::from_str(&line) else { break };
                if sender.send(value).is_err() {
                    break;
                }
            }
        });
        let host = "127.0.0.1";
        let mut brokerage = Self { process, lines, host, port: 0, spki: String::new(), orders: 0 };
        let first = brokerage.lines.recv_timeout(PATIENCE).context("the brokerage says nothing")?;
        let port = first.get("port").and_then(Value::as_u64).context("no port")?;
        brokerage.port = u16::try_from(port)?;
        brokerage.spki = first.get("spki").and_then(Value::as_str).context("no pin")?.to_owned();
        Ok(brokerage)
    }

    /// The same brokerage, for policies of a plane whose connectors are in virtual machines.
    pub fn seen_by_guests(mut self) -> Self {
        self.host = HOST_OF_GUESTS;
        self
    }

    /// As policies and credentials name it.
    pub fn host(&self) -> &'static str {
        self.host
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// SHA-256 of its public key.
    pub fn spki(&self) -> &str {
        &self.spki
    }

    /// Orders so far, by its own count.
    pub fn orders(&mut self) -> u64 {
        while let Ok(line) = self.lines.try_recv() {
            self.count(&line);
        }
        self.orders
    }

    /// Waits until there are so many orders.
    pub fn wait_for_orders(&mut self, orders: u64) -> anyhow::Result<()> {
        while self.orders() < orders {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) => self.count(&line),
                Err(_) => bail!("{} orders where {orders} were expected", self.orders),
            }
        }
        Ok(())
    }

    fn count(&mut self, line: &Value) {
        if let Some(orders) = line.get("orders").and_then(Value::as_u64) {
            self.orders = self.orders.max(orders);
        }
    }
}

impl Drop for Brokerage {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
