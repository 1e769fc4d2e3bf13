//! TLS 1.3 between machines, by the shipped programs and `openssl s_client`.

#![allow(clippy::unwrap_used, reason = "a failing test says where")]

use std::{
    io::{Read, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use serde_json::Value;
use toani_tests::{
    Brokerage, Plane,
    plane::{Said, programs},
};

const TOKEN: &str = "token-of-the-link-tests";
const ORDER: &str = r#"{"symbol": "ACME", "quantity": 1}"#;

struct World {
    folder: tempfile::TempDir,
    plane: Plane,
}

impl World {
    /// An instance with a CA, a server's certificate and one of anna's.
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let plane = Plane::init(&programs().unwrap(), &folder.path().join("home")).unwrap();
        plane.toani(&["cert", "init"]).unwrap().ok().unwrap();
        plane.toani(&["cert", "server", "--name", "plane.example"]).unwrap().ok().unwrap();
        plane.toani(&["cert", "admin", "anna"]).unwrap().ok().unwrap();
        Self { folder, plane }
    }

    fn tls(&self, name: &str) -> String {
        self.plane.home().join("tls").join(name).to_str().unwrap().to_owned()
    }

    /// Where the plane says that it administers.
    fn admin_port(&self) -> u16 {
        let url = self.plane.announced()["admin_url"].as_str().unwrap();
        url.rsplit_once(':').unwrap().1.parse().unwrap()
    }

    fn agents_port(&self) -> u16 {
        let url = self.plane.announced()["url"].as_str().unwrap();
        url.rsplit_once(':').unwrap().1.parse().unwrap()
    }

    /// A command over the administration's port, with this identity.
    fn administers(&self, identity: &str, command: &[&str]) -> Said {
        let url = format!("https://localhost:{}", self.admin_port());
        let link = ["--admin-url", &url, "--identity", identity];
        self.plane.toani(&[&link, command].concat()).unwrap()
    }
}

/// A client that says a request and reads on to the end; all that both of them say.
fn s_client(port: u16, ca: &str, options: &[&str]) -> String {
    let mut child = begin(port, ca, options);
    let request = "GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    // A client that was refused reads no more.
    let _ = child.stdin.as_mut().unwrap().write_all(request.as_bytes());
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    said + &String::from_utf8_lossy(&output.stderr)
}

fn begin(port: u16, ca: &str, options: &[&str]) -> Child {
    Command::new("timeout")
        .args(["60", "openssl", "s_client", "-connect", &format!("127.0.0.1:{port}")])
        .args(["-servername", "localhost", "-verify_hostname", "localhost", "-CAfile", ca])
        .args(["-verify_return_error", "-ign_eof", "-nocommands"])
        .args(options)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn openssl(folder: &Path, arguments: &str) {
    let done =
        Command::new("openssl").args(arguments.split(' ')).current_dir(folder).output().unwrap();
    assert!(done.status.success(), "{arguments}: {}", String::from_utf8_lossy(&done.stderr));
}

/// A certificate and key in one file, by a CA of openssl's that is made for it.
fn foreign(folder: &Path, name: &str, days: &str) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    openssl(
        folder,
        &format!("req -x509 {key} -keyout ca.key -out ca.pem -subj /CN={name}-ca -days 2"),
    );
    openssl(folder, &format!("req {key} -keyout {name}.key -out {name}.csr -subj /CN={name}"));
    std::fs::write(folder.join("usage"), "extendedKeyUsage=clientAuth\n").unwrap();
    openssl(
        folder,
        &format!(
            "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -extfile usage \
             -out {name}.crt -days {days}"
        ),
    );
    let read = |end: &str| std::fs::read_to_string(folder.join(format!("{name}.{end}"))).unwrap();
    let file = folder.join(format!("{name}.pem"));
    std::fs::write(&file, read("crt") + &read("key")).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    file
}

#[test]
fn beyond_loopback_nothing_listens_without_tls() {
    let folder = tempfile::tempdir().unwrap();
    let programs = programs().unwrap();
    let plane = Plane::init(&programs, &folder.path().join("home")).unwrap();
    let serve = |more: &[&str]| {
        let serve = ["serve", "--programs", programs.to_str().unwrap()];
        plane.toani(&[&serve, more].concat()).unwrap()
    };
    for address in ["0.0.0.0:0", "[::]:0"] {
        let refused = serve(&["--listen", address]);
        assert_eq!(refused.exit, 5, "{}", refused.error);
        assert!(refused.error.contains("toani cert init"), "{}", refused.error);
    }
    for more in [&["--tls"][..], &["--admin-listen", "127.0.0.1:0"]] {
        let refused = serve(&[&["--listen", "127.0.0.1:0"], more].concat());
        assert!(refused.error.contains("toani cert server --name HOST"), "{}", refused.error);
    }
}

#[test]
fn the_agents_port_speaks_tls_1_3_with_two_suites_and_never_resumes() {
    let mut world = World::new();
    // A bind beyond loopback; what is said to it stays on this machine.
    world.plane.serve_with(&["--listen", "0.0.0.0:0", "--tls"]).unwrap();
    let (port, ca) = (world.agents_port(), world.tls("ca.pem"));
    for suite in ["TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"] {
        let said = s_client(port, &ca, &["-tls1_3", "-ciphersuites", suite]);
        assert!(said.contains("HTTP/1.1 200") && said.contains(suite), "{said}");
        assert!(!said.contains("Post-Handshake New Session Ticket"), "{said}");
    }
    for refused in [
        &["-tls1_2"][..],
        &["-tls1_3", "-ciphersuites", "TLS_AES_128_GCM_SHA256"],
        &["-alpn", "h2"],
        &["-CAfile", "/dev/null"],
    ] {
        let said = s_client(port, &ca, refused);
        assert!(!said.contains("HTTP/1.1"), "{refused:?}: {said}");
    }
    let plain = Command::new("timeout")
        .args(["60", "openssl", "s_client", "-connect", &format!("127.0.0.1:{port}")])
        .args(["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(!plain.status.success());
}

#[test]
fn an_agent_acts_over_tls_with_a_certificate_of_its_own() {
    let mut world = World::new();
    let upstream = Brokerage::start(&programs().unwrap(), TOKEN, 0).unwrap();
    let agent = foreign(world.folder.path(), "agent", "1");
    let ca = world.folder.path().join("ca.pem");
    let (agent, ca) = (agent.to_str().unwrap().to_owned(), ca.to_str().unwrap().to_owned());
    let options = ["--tls", "--client-ca", &ca, "--require-client-certificate"];
    world.plane.serve().unwrap();
    world.plane.furnish(&upstream, TOKEN).unwrap();
    world.plane.stop().unwrap();
    world.plane.serve_with(&options).unwrap();
    world.plane.wait_until_ready().unwrap();
    let shown = ["--identity", agent.as_str()];
    world.plane.run("broker.order_direct", ORDER, &shown).unwrap().ok().unwrap();
    let without = world.plane.run("broker.order_direct", ORDER, &[]).unwrap();
    assert_eq!((without.exit, without.code()), (3, "unreachable"), "{}", without.error);
    let strange = ["--identity", agent.as_str(), "--ca", &ca];
    let refused = world.plane.run("broker.order_direct", ORDER, &strange).unwrap();
    assert!(refused.exit == 3 && refused.error.contains("not believed"), "{}", refused.error);
    world.plane.stop().unwrap();

    let optional = ["--tls", "--client-ca", ca.as_str()];
    world.plane.serve_with(&optional).unwrap();
    world.plane.wait_until_ready().unwrap();
    world.plane.run("broker.order_direct", ORDER, &[]).unwrap().ok().unwrap();
    world.plane.run("broker.order_direct", ORDER, &shown).unwrap().ok().unwrap();
    let anna = world.tls("admins/anna.pem");
    let wrong = world.plane.run("broker.order_direct", ORDER, &["--identity", &anna]).unwrap();
    assert_eq!(wrong.exit, 3, "a certificate of another CA: {}", wrong.error);
}

#[test]
fn who_administers_over_the_network_has_a_certificate_that_holds() {
    let mut world = World::new();
    world.plane.serve_with(&["--admin-listen", "127.0.0.1:0"]).unwrap();
    let (port, ca, anna) = (world.admin_port(), world.tls("ca.pem"), world.tls("admins/anna.pem"));
    world.administers(&anna, &["status"]).ok().unwrap();

    let said = s_client(port, &ca, &[]);
    assert!(!said.contains("HTTP/1.1") && said.contains("alert certificate required"), "{said}");
    let folder = world.folder.path().join("foreign");
    std::fs::create_dir(&folder).unwrap();
    let stranger = foreign(&folder, "anna", "1");
    let stranger = stranger.to_str().unwrap();
    assert_eq!(world.administers(stranger, &["status"]).exit, 3, "of another CA");
    let server = world.tls("server.pem");
    assert_eq!(world.administers(&server, &["status"]).exit, 3, "the server's own");
    // By the right CA, but over since yesterday.
    let own = world.plane.home().join("tls");
    let expired = expired(&own, world.folder.path());
    let said = s_client(port, &ca, &["-cert", &expired, "-key", &expired]);
    assert!(!said.contains("HTTP/1.1") && said.contains("alert certificate expired"), "{said}");

    // Without --identity, and without TLS.
    let url = format!("https://localhost:{port}");
    let refused = world.plane.toani(&["--admin-url", &url, "status"]).unwrap();
    assert!(refused.exit == 2 && refused.error.contains("toani cert admin"), "{}", refused.error);
    let url = format!("http://localhost:{port}");
    let refused = ["--admin-url", &url, "--identity", &anna, "status"];
    assert_eq!(world.plane.toani(&refused).unwrap().exit, 2);
}

/// A certificate by the instance's CA that ended before now.
fn expired(tls: &Path, folder: &Path) -> String {
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    openssl(folder, &format!("req {key} -keyout old.key -out old.csr -subj /CN=old"));
    std::fs::write(folder.join("usage"), "extendedKeyUsage=clientAuth\n").unwrap();
    std::fs::write(folder.join("index"), "").unwrap();
    let tls = tls.display();
    std::fs::write(
        folder.join("config"),
        format!(
            "[ca]\ndefault_ca=own\n[own]\ncertificate={tls}/ca.pem\nprivate_key={tls}/ca.key\n\
             database=index\nnew_certs_dir=.\nrand_serial=yes\ndefault_md=sha256\npolicy=any\n\
             [any]\ncommonName=supplied\n"
        ),
    )
    .unwrap();
    openssl(
        folder,
        "ca -config config -batch -notext -in old.csr -out old.crt -extfile usage \
         -startdate 20240101000000Z -enddate 20240201000000Z",
    );
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
    std::fs::write(folder.join("old.pem"), read("old.crt") + &read("old.key")).unwrap();
    folder.join("old.pem").to_str().unwrap().to_owned()
}

#[test]
fn a_revoked_administrator_is_out_at_once_also_on_an_open_connection() {
    let mut world = World::new();
    world.plane.toani(&["cert", "admin", "bert"]).unwrap().ok().unwrap();
    world.plane.serve_with(&["--admin-listen", "127.0.0.1:0"]).unwrap();
    let (port, ca) = (world.admin_port(), world.tls("ca.pem"));
    let (anna, bert) = (world.tls("admins/anna.pem"), world.tls("admins/bert.pem"));
    let mut open = begin(port, &ca, &["-cert", &anna, "-key", &anna, "-quiet"]);
    let mut input = open.stdin.take().unwrap();
    let mut output = open.stdout.take().unwrap();
    let mut ask = || {
        input.write_all(b"GET /admin/v1/status HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") && output.read(&mut byte).unwrap() == 1 {
            head.extend(byte);
        }
        let head = String::from_utf8(head).unwrap().to_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let mut body = vec![0; length.unwrap().parse().unwrap()];
        output.read_exact(&mut body).unwrap();
        (head, serde_json::from_slice::<Value>(&body).unwrap())
    };
    for _ in 0..2 {
        let (head, _) = ask();
        assert!(head.starts_with("http/1.1 200"), "{head}");
    }
    let revoked = world.plane.toani(&["cert", "revoke", "anna"]).unwrap().ok().unwrap();
    assert_eq!(revoked["revoked"].as_array().unwrap().len(), 1);

    let (head, body) = ask();
    assert!(head.starts_with("http/1.1 403") && head.contains("connection: close"), "{head}");
    assert_eq!(body["code"], "certificate_ended");
    assert_eq!(output.read(&mut [0]).unwrap(), 0, "the connection is over");
    open.wait().unwrap();
    let said = s_client(port, &ca, &["-cert", &anna, "-key", &anna]);
    assert!(!said.contains("HTTP/1.1") && said.contains("alert certificate revoked"), "{said}");
    assert_eq!(world.administers(&anna, &["status"]).exit, 3);
    world.administers(&bert, &["status"]).ok().unwrap();
}

#[test]
fn certificates_are_made_listed_rotated_and_revoked() {
    let mut world = World::new();
    let says = |arguments: &[&str]| world.plane.toani(arguments).unwrap();
    let mode = |name: &str| {
        use std::os::unix::fs::PermissionsExt;
        std::fs::metadata(world.tls(name)).unwrap().permissions().mode() & 0o777
    };
    for name in ["ca.key", "server.pem", "admins/anna.pem"] {
        assert_eq!(mode(name), 0o600, "{name}");
    }
    for (again, hint) in [
        (&["cert", "init"][..], "is there already"),
        (&["cert", "server", "--name", "x.example"], "toani cert rotate server"),
        (&["cert", "admin", "anna"], "toani cert rotate anna"),
        (&["cert", "admin", "server"], "choose another"),
        (&["cert", "rotate", "nobody"], "has no certificate"),
        (&["cert", "revoke", "nobody"], "has no certificate"),
    ] {
        let refused = says(again);
        assert!(refused.exit == 5 && refused.error.contains(hint), "{}", refused.error);
    }
    let list = says(&["cert", "list"]).ok().unwrap();
    let names: Vec<_> =
        list["certificates"].as_array().unwrap().iter().map(|c| &c["name"]).collect();
    assert_eq!(names, ["server", "anna"]);

    // While the plane runs: a new server certificate is used, an old administrator is not.
    let before = std::fs::read(world.tls("admins/anna.pem")).unwrap();
    let old = world.folder.path().join("old.pem");
    home_only(&old, &before);
    world.plane.serve_with(&["--tls", "--admin-listen", "127.0.0.1:0"]).unwrap();
    let old = old.to_str().unwrap();
    world.administers(old, &["status"]).ok().unwrap();
    let server = std::fs::read_to_string(world.tls("server.pem")).unwrap();
    let first = shown(world.agents_port(), &world.tls("ca.pem"));
    assert!(server.contains(&first));
    for name in ["anna", "server"] {
        let rotated = world.plane.toani(&["cert", "rotate", name]).unwrap().ok().unwrap();
        assert_eq!(rotated["name"], name);
    }
    assert_ne!(shown(world.agents_port(), &world.tls("ca.pem")), first);
    assert_eq!(world.administers(old, &["status"]).exit, 3, "the one before is revoked");
    world.administers(&world.tls("admins/anna.pem"), &["status"]).ok().unwrap();
    let list = world.plane.toani(&["cert", "list"]).unwrap().ok().unwrap();
    let revoked = list["certificates"].as_array().unwrap().iter().map(|c| !c["revoked"].is_null());
    assert_eq!(revoked.collect::<Vec<_>>(), [true, true, false, false]);
    assert_eq!(list["certificates"][3]["hosts"][3], "plane.example");
}

fn home_only(path: &Path, bytes: &[u8]) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(path, bytes).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

/// The certificate that a server shows, in PEM's lines.
fn shown(port: u16, ca: &str) -> String {
    let said = s_client(port, ca, &[]);
    let (_, rest) = said.split_once("-----BEGIN CERTIFICATE-----\n").unwrap();
    rest.split_once("\n-----END").unwrap().0.lines().next().unwrap().to_owned()
}
