//! `toani cert`: certificates for links beyond loopback.

use std::path::Path;

use anyhow::bail;
use clap::Subcommand;
use serde_json::{Value, json};
use toani_protocol::ids::PersonId;

use crate::{
    ca::{ADMIN_DAYS, Ca, Issued, Kind, SERVER_DAYS},
    home::Home,
    output::{Output, table},
};

/// The name of the server's certificate among all others.
const SERVER: &str = "server";
/// Every server certificate names these too, for commands on its own machine.
const OWN_HOSTS: [&str; 3] = ["localhost", "127.0.0.1", "::1"];
/// Hosts of a server, its own included.
const HOSTS_MAX: usize = 32;

#[derive(Debug, Subcommand)]
pub(crate) enum Cert {
    /// Make a CA for this instance's server and for those who administer it over the network.
    ///
    /// Example: toani cert init
    Init,
    /// Make the server's key and certificate, for 90 days.
    ///
    /// Example: toani cert server --name plane.example
    Server {
        /// A DNS name or address under which the plane is reached; may be given again.
        #[arg(long = "name", value_name = "HOST", required = true)]
        names: Vec<String>,
    },
    /// Make a key and certificate with which somebody may administer, for 30 days.
    ///
    /// Example: toani cert admin anna
    Admin {
        /// Whose it is.
        name: PersonId,
    },
    /// Make a new key and certificate in the place of those before, which are revoked.
    ///
    /// Example: toani cert rotate anna
    Rotate {
        /// Whose; `server` for the server's.
        name: PersonId,
    },
    /// Revoke all certificates of a name: at once, also for who is connected.
    ///
    /// Example: toani cert revoke anna
    Revoke {
        /// Whose.
        name: PersonId,
    },
    /// What was issued and has not expired.
    ///
    /// Example: toani cert list
    List,
}

pub(crate) fn run(command: Cert, home: &Home, output: &Output) -> anyhow::Result<()> {
    match command {
        Cert::Init => init(home, output),
        Cert::Server { names } => {
            let mut ca = Ca::open(home)?;
            if let Some(issued) = ca.current(SERVER) {
                let ends = issued.ends;
                bail!(
                    "the server has a certificate until {ends}; `toani cert rotate server` \
                     replaces it, and `toani cert revoke server` makes room for other names"
                );
            }
            let mut hosts: Vec<String> = OWN_HOSTS.map(str::to_owned).to_vec();
            hosts.extend(names.into_iter().filter(|name| !OWN_HOSTS.contains(&name.as_str())));
            if hosts.len() > HOSTS_MAX {
                bail!("a server has at most {HOSTS_MAX} names");
            }
            let issued = ca.issue(Kind::Server, SERVER, hosts)?;
            tell(&ca, &issued, output);
            Ok(())
        }
        Cert::Admin { name } => {
            let mut ca = Ca::open(home)?;
            if name.as_str() == SERVER {
                bail!("`{SERVER}` is the server's name; choose another");
            }
            if let Some(issued) = ca.current(name.as_str()) {
                let ends = issued.ends;
                bail!(
                    "{name} has a certificate until {ends}; `toani cert rotate {name}` replaces it"
                );
            }
            let issued = ca.issue(Kind::Admin, name.as_str(), Vec::new())?;
            tell(&ca, &issued, output);
            Ok(())
        }
        Cert::Rotate { name } => {
            let mut ca = Ca::open(home)?;
            let Some(before) = ca.newest(name.as_str()).cloned() else {
                bail!("{name} has no certificate; `toani cert list` says who has");
            };
            let issued = ca.issue(before.kind, &before.name, before.hosts)?;
            tell(&ca, &issued, output);
            Ok(())
        }
        Cert::Revoke { name } => revoke(&name, home, output),
        Cert::List => list(home, output),
    }
}

fn init(home: &Home, output: &Output) -> anyhow::Result<()> {
    let (_ca, ends) = Ca::create(home)?;
    let (ca, key) = (home.tls("ca.pem"), home.tls("ca.key"));
    output.result(&json!({"ca": ca, "ends": ends}), |output| {
        format!(
            "{} a CA until {ends}\n\n\
             {}  goes to everyone who connects (--ca); compare it by other means\n\
             {}  makes administrators: it belongs to who may do that\n\n\
             Next: toani cert server --name HOST ({SERVER_DAYS} days), \
             toani cert admin NAME ({ADMIN_DAYS} days)",
            output.good("Made:"),
            ca.display(),
            key.display(),
        )
    });
    Ok(())
}

fn tell(ca: &Ca, issued: &Issued, output: &Output) {
    let file = ca.file(issued.kind, &issued.name);
    let mut value = row(issued);
    if let Value::Object(map) = &mut value {
        map.insert("file".to_owned(), json!(file));
    }
    output.result(&value, |output| {
        let next = match issued.kind {
            Kind::Server => "Next: toani serve --tls".to_owned(),
            Kind::Admin => hand_over(&issued.name, &file),
        };
        format!("{} {} until {}\n{next}", output.good("Issued:"), file.display(), issued.ends)
    });
}

fn hand_over(name: &str, file: &Path) -> String {
    let file = file.display();
    format!(
        "It holds the key: it belongs on {name}'s machine, and nowhere else.\n\
         Next: toani serve --admin-listen ADDR, and there: toani --admin-url https://HOST:PORT \
         --identity {file} status"
    )
}

fn revoke(name: &PersonId, home: &Home, output: &Output) -> anyhow::Result<()> {
    let mut ca = Ca::open(home)?;
    if ca.newest(name.as_str()).is_none() {
        bail!("{name} has no certificate; `toani cert list` says who has");
    }
    let serials = ca.revoke_all(name.as_str())?;
    output.result(&json!({"name": name, "revoked": serials}), |output| {
        format!(
            "{} {} of {name}; a plane that uses this folder knows at once, another needs {}",
            output.good("Revoked:"),
            serials.len(),
            home.tls("revoked.pem").display(),
        )
    });
    Ok(())
}

fn row(issued: &Issued) -> Value {
    json!({
        "name": issued.name,
        "kind": issued.kind,
        "hosts": issued.hosts,
        "serial": issued.serial,
        "ends": issued.ends,
        "revoked": issued.revoked,
    })
}

fn list(home: &Home, output: &Output) -> anyhow::Result<()> {
    let ca = Ca::open(home)?;
    let rows: Vec<Value> = ca.issued().iter().map(row).collect();
    output.result(&json!({"certificates": rows}), |_| {
        let names = ["name", "kind", "ends", "revoked", "serial"];
        let cell = |row: &Value, name: &str| match row.get(name) {
            Some(Value::String(text)) => text.clone(),
            _ => String::new(),
        };
        let row = |row: &Value| names.map(|name| cell(row, name)).to_vec();
        table(&names, &rows.iter().map(row).collect::<Vec<_>>())
    });
    Ok(())
}
