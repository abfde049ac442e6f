//! A real S3 server: Ceph's radosgw with one monitor and one OSD in memory.
//!
//! From Debian's packages, unpacked and not installed: `apt-get download` needs no rights, and
//! nothing of the machine changes.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::bucket::{self, PASSWORD, USER, free_port};
use crate::tools::{installed, run, triplet, unpack_debian};

const PACKAGES: [&str; 4] = ["radosgw", "ceph-mon", "ceph-osd", "ceph-common"];
/// Of the same distribution as the packages, which bring modules for it.
const PYTHON: &str = "/usr/bin/python3";
/// Ready within some 12 s where the machine is idle.
const START_LIMIT: Duration = Duration::from_secs(120);

/// A server with one bucket; ends when dropped.
pub struct Radosgw {
    /// In the order of their start.
    daemons: Vec<Child>,
    port: u16,
    ceph: Ceph,
}

impl Radosgw {
    /// Says why it cannot be had on this machine.
    pub fn start() -> Result<Self, String> {
        if !Path::new(PYTHON).exists() {
            return Err(format!("{PYTHON} is missing, which Ceph's own command needs"));
        }
        let root = installed("ceph", |folder| unpack_debian(&PACKAGES, folder))?;
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (port, monitor) = (free_port(), free_port());
        let ceph = Ceph { root, folder };
        let mut server = Self { daemons: Vec::new(), port, ceph };
        server.bring_up(monitor).unwrap_or_else(|why| panic!("Ceph does not start: {why}"));
        bucket::create(port);
        Ok(server)
    }

    pub fn endpoint(&self) -> String {
        bucket::endpoint(self.port)
    }

    /// Below `prefix` of the bucket.
    pub fn url(&self, prefix: &str) -> String {
        bucket::url(self.port, prefix)
    }

    fn bring_up(&mut self, monitor: u16) -> Result<(), String> {
        let ceph = &self.ceph;
        let (cluster, osd) = (unique_id()?, unique_id()?);
        ceph.configure(&cluster, monitor, self.port);
        for (name, rights) in [
            ("mon.", &["mon", "allow *"][..]),
            ("client.admin", &["mon", "allow *", "osd", "allow *"]),
            ("osd.0", &["mon", "allow profile osd", "osd", "allow *"]),
            ("client.rgw", &["mon", "allow rwx", "osd", "allow rwx"]),
        ] {
            let mut make = ceph.plain("ceph-authtool");
            make.arg(ceph.path("keyring")).args(["--gen-key", "-n", name]);
            if !ceph.path("keyring").exists() {
                make.arg("--create-keyring");
            }
            for cap in rights.chunks(2) {
                make.arg("--cap").args(cap);
            }
            run(&mut make)?;
        }
        let address = format!("[v2:127.0.0.1:{monitor}]");
        let map = ceph.path("monmap");
        let mut make = ceph.plain("monmaptool");
        run(make.args(["--create", "--fsid", &cluster, "--addv", "a", &address]).arg(&map))?;
        let keyring = ceph.path("keyring");
        let mut make = ceph.command("ceph-mon");
        make.args(["-i", "a", "--mkfs", "--monmap"]).arg(&map).arg("--keyring").arg(&keyring);
        run(&mut make)?;
        self.daemons.push(ceph.daemon("ceph-mon", &["-i", "a"])?);
        run(ceph.command("ceph").args(["--connect-timeout", "60", "osd", "new", &osd, "0"]))?;
        let mut make = ceph.command("ceph-osd");
        make.args(["-i", "0", "--mkfs", "--osd-uuid", &osd, "--keyring"]).arg(&keyring);
        run(&mut make)?;
        self.daemons.push(ceph.daemon("ceph-osd", &["-i", "0"])?);
        self.daemons.push(ceph.daemon("radosgw", &["-n", "client.rgw"])?);
        let started = Instant::now();
        while bucket::answers(self.port, "/").is_none() {
            if started.elapsed() > START_LIMIT {
                return Err(format!("radosgw did not answer within {START_LIMIT:?}"));
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        let mut user = ceph.command("radosgw-admin");
        user.args(["-n", "client.rgw", "user", "create", "--uid", "levee"]);
        user.args(["--display-name", "levee", "--access-key", USER, "--secret-key", PASSWORD]);
        run(&mut user).map(drop)
    }
}

impl Drop for Radosgw {
    fn drop(&mut self) {
        for daemon in self.daemons.iter_mut().rev() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }
}

/// The unpacked programs, and the folder of one cluster.
struct Ceph {
    root: PathBuf,
    folder: tempfile::TempDir,
}

impl Ceph {
    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A program that finds its libraries.
    fn plain(&self, program: &str) -> Command {
        let root = self.root.join("root");
        let libraries = root.join("usr/lib").join(triplet());
        let path = root.join("usr/bin").join(program);
        let mut command = match program {
            "ceph" => {
                let mut python = Command::new(PYTHON);
                python.arg(path);
                python
            }
            _ => Command::new(path),
        };
        let ceph = libraries.join("ceph");
        let old = root.join("lib").join(triplet());
        let found = format!("{}:{}:{}", libraries.display(), ceph.display(), old.display());
        command.env("LD_LIBRARY_PATH", found);
        command.env("PYTHONPATH", root.join("usr/lib/python3/dist-packages"));
        command.stdin(Stdio::null());
        command
    }

    fn command(&self, program: &str) -> Command {
        let mut command = self.plain(program);
        command.arg("-c").arg(self.path("ceph.conf"));
        command
    }

    fn daemon(&self, program: &str, args: &[&str]) -> Result<Child, String> {
        let mut command = self.command(program);
        command.args(args).arg("-f").stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().map_err(|error| format!("{program}: {error}"))
    }

    fn configure(&self, cluster: &str, monitor: u16, port: u16) {
        let folder = self.folder.path().display();
        let libraries = self.root.join("root/usr/lib").join(triplet());
        let libraries = libraries.display();
        for name in ["mon", "osd", "rgw", "run"] {
            std::fs::create_dir(self.path(name)).expect("a folder");
        }
        let config = format!(
            "[global]
fsid = {cluster}
mon_initial_members = a
mon_host = [v2:127.0.0.1:{monitor}/0]
ms_bind_msgr1 = false
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 8
osd_crush_chooseleaf_type = 0
mon_allow_pool_size_one = true
run_dir = {folder}/run
admin_socket = {folder}/run/$name.$pid.asok
pid_file = {folder}/run/$name.pid
log_file = {folder}/run/$name.log
keyring = {folder}/keyring
erasure_code_dir = {libraries}/ceph/erasure-code
osd_class_dir = {libraries}/rados-classes
plugin_dir = {libraries}/ceph
[mon.a]
mon_data = {folder}/mon
public_addr = 127.0.0.1:{monitor}
[osd.0]
osd_data = {folder}/osd
osd_objectstore = memstore
memstore_device_bytes = 1073741824
[client.rgw]
rgw_data = {folder}/rgw
rgw_frontends = beast endpoint=127.0.0.1:{port}
"
        );
        std::fs::write(self.path("ceph.conf"), config).expect("written");
    }
}

fn unique_id() -> Result<String, String> {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/uuid");
    id.map(|id| id.trim().to_owned()).map_err(|error| format!("no unique id: {error}"))
}
