//! The same call through nginx, which puts the credential into a header: what an execution is
//! beside a proxy that asks nobody, proves nothing and keeps no record. It connects to its upstream
//! anew for each call, as an execution does.

use std::{
    fs,
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use http_body_util::Full;
use hyper::{Request, body::Bytes, header};
use toani_tests::Brokerage;

use crate::connections::{self, Connections};

const START: Duration = Duration::from_secs(10);

pub(crate) struct Nginx {
    process: Child,
    connections: Connections,
}

impl Nginx {
    /// `None` where it is not installed.
    pub(crate) fn start(
        folder: &Path,
        upstream: &Brokerage,
        token: &str,
    ) -> anyhow::Result<Option<Self>> {
        // Its port is free a moment before.
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let config = folder.join("nginx.conf");
        fs::write(&config, configuration(folder, port, upstream.port(), token))?;
        let started = Command::new("nginx")
            .arg("-p")
            .arg(folder)
            .arg("-c")
            .arg(&config)
            .args(["-e", "stderr"])
            .stderr(Stdio::null())
            .spawn();
        let Ok(process) = started else { return Ok(None) };
        let address = format!("127.0.0.1:{port}");
        let nginx = Self { process, connections: Connections::to(address.clone()) };
        let until = Instant::now() + START;
        while std::net::TcpStream::connect(&address).is_err() {
            ensure!(Instant::now() < until, "nginx does not listen");
            std::thread::yield_now();
        }
        Ok(Some(nginx))
    }

    pub(crate) async fn run(&self, at_once: usize) -> anyhow::Result<()> {
        connections::at_once(at_once, || self.one()).await
    }

    async fn one(&self) -> anyhow::Result<()> {
        let request = Request::get("/v1/accounts/main/balance")
            .header(header::HOST, self.connections.address())
            .body(Full::new(Bytes::new()))?;
        let body = self.connections.ask(request).await?;
        let body = std::str::from_utf8(&body).context("no text")?;
        ensure!(body.contains("balance"), "{body}");
        Ok(())
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn configuration(folder: &Path, port: u16, upstream: u16, token: &str) -> String {
    let folder = folder.display();
    let paths = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|name| format!("    {name}_temp_path {folder}/nginx-{name};\n"))
        .concat();
    format!(
        "daemon off;\nmaster_process off;\npid {folder}/nginx.pid;\n\
         events {{ worker_connections 512; }}\nhttp {{\n    access_log off;\n{paths}\
         \x20   server {{\n        listen 127.0.0.1:{port};\n        keepalive_requests 100000;\n\
         \x20       location / {{\n            proxy_pass https://127.0.0.1:{upstream};\n\
         \x20           proxy_ssl_session_reuse off;\n\
         \x20           proxy_set_header Authorization \"Bearer {token}\";\n        }}\n    }}\n}}\n"
    )
}
