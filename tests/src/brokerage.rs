//! The brokerage's process, and what it says.

use std::{
    io::{ErrorKind, Read},
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
};

use anyhow::{Context, bail};
use rustix::io::ioctl_fionbio;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::plane::until;

/// This machine's loopback addresses, as a guest of QEMU's user network sees them.
pub const HOST_OF_GUESTS: &str = "10.0.2.2";

/// A running brokerage.
#[derive(Debug)]
pub struct Brokerage {
    process: Child,
    output: ChildStdout,
    /// The beginning of a line whose end has not come.
    unread: Vec<u8>,
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
        ioctl_fionbio(&output, true)?;
        let (host, spki, unread) = ("127.0.0.1", String::new(), Vec::new());
        let mut brokerage = Self { process, output, unread, host, port: 0, spki, orders: 0 };
        until("the brokerage has started", || {
            brokerage.hear()?;
            Ok(brokerage.port != 0)
        })?;
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

    /// Orders so far, by its own count. It says each before it answers, so whoever has the answer
    /// finds the order here.
    pub fn orders(&mut self) -> anyhow::Result<u64> {
        self.hear()?;
        Ok(self.orders)
    }

    /// Waits until there are so many orders.
    pub fn wait_for_orders(&mut self, orders: u64) -> anyhow::Result<()> {
        until("there are so many orders", || Ok(self.orders()? >= orders))
    }

    /// Takes in what it has said so far.
    fn hear(&mut self) -> anyhow::Result<()> {
        let mut some = [0; 4096];
        loop {
            match self.output.read(&mut some) {
                Ok(0) => bail!("the brokerage has ended"),
                Ok(read) => self.unread.extend_from_slice(some.get(..read).unwrap_or_default()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error).context("the brokerage cannot be heard"),
            }
        }
        while let Some(end) = self.unread.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.unread.drain(..=end).collect();
            self.take(&serde_json::from_slice(&line)?)?;
        }
        Ok(())
    }

    fn take(&mut self, line: &Value) -> anyhow::Result<()> {
        if let Some(orders) = line.get("orders").and_then(Value::as_u64) {
            self.orders = self.orders.max(orders);
            return Ok(());
        }
        let port = line.get("port").and_then(Value::as_u64).context("no port")?;
        self.port = u16::try_from(port)?;
        self.spki = line.get("spki").and_then(Value::as_str).context("no pin")?.to_owned();
        Ok(())
    }
}

impl Drop for Brokerage {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
