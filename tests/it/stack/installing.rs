//! `scripts/install-services`, on a machine made of stand-ins: a folder for `/`, and a `PATH` with only what is put
//! there, so that nothing of the real machine is looked at or changed.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};
use std::process::Command;

/// What the script needs of any Debian.
const TOOLS: [&str; 13] =
    ["sh", "sed", "dirname", "tee", "chmod", "rm", "mkdir", "ls", "env", "cat", "printf", "touch", "cp"];

struct Machine {
    root: PathBuf,
}

impl Machine {
    fn new(name: &str) -> Self {
        let root = std::env::temp_dir().join(format!("scoreline-machine-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&root);
        for folder in ["bin", "usr/sbin", "packages"] {
            std::fs::create_dir_all(root.join(folder)).unwrap();
        }
        let machine = Self { root };
        for tool in TOOLS {
            let real = ["/usr/bin", "/bin"].map(|folder| Path::new(folder).join(tool));
            symlink(real.iter().find(|path| path.exists()).unwrap(), machine.root.join("bin").join(tool)).unwrap();
        }
        machine.program("bin/id", "echo 0");
        machine
    }

    /// Writes a program of the stand-in machine, and surely of no other: joining an absolute path would leave the
    /// folder, writing through a link would change what it points to.
    fn program(&self, path: &str, body: &str) {
        let inside = |part: Component| matches!(part, Component::Normal(_));
        assert!(Path::new(path).components().all(inside), "{path} leaves the stand-in machine");
        let path = self.root.join(path);
        assert!(!path.is_symlink(), "{} belongs to the real machine", path.display());
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Postgres in the machine itself (`usr`), or among what its packages hold (`packages/usr`).
    fn postgres(&self, usr: &str, version: &str) {
        self.program(&format!("{usr}/lib/postgresql/{version}/bin/initdb"), "");
        let says = format!("echo 'postgres (PostgreSQL) {version}.3 (Debian {version}.3-1)'");
        self.program(&format!("{usr}/lib/postgresql/{version}/bin/postgres"), &says);
    }

    fn redis(&self, folder: &str, version: &str) {
        self.program(&format!("{folder}/redis-server"), &format!("echo 'Redis server v={version}.0.15 sha=0'"));
    }

    /// An apt-get that notes what it is asked and what keeps services from starting meanwhile.
    fn apt_get(&self, installs: &str) {
        let root = self.root.display();
        let noted = format!(
            "echo \"$*\" >>{root}/asked; ls {root}/usr/sbin {root}/etc/postgresql-common/createcluster.d >>{root}/asked 2>/dev/null"
        );
        self.program("bin/apt-get", &format!("{noted}\n{installs}"));
    }

    fn asked(&self) -> String {
        std::fs::read_to_string(self.root.join("asked")).unwrap_or_default()
    }

    /// Runs the script: whether it succeeded, and what it said.
    fn install(&self) -> (bool, String) {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/install-services");
        let output = Command::new(self.root.join("bin/sh"))
            .arg(script)
            .env_clear()
            .env("PATH", self.root.join("bin"))
            .env("SCORELINE_INSTALL_ROOT", &self.root)
            .output()
            .unwrap();
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        (output.status.success(), said)
    }

    fn left_behind(&self) -> bool {
        self.root.join("usr/sbin/policy-rc.d").exists()
            || self.root.join("etc/postgresql-common/createcluster.d/scoreline-no-cluster.conf").exists()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.root);
    }
}

#[test]
fn nothing_is_installed_where_everything_is_there() {
    let machine = Machine::new("complete");
    machine.postgres("usr", "15");
    machine.redis("bin", "7");
    assert_eq!(machine.install(), (true, String::new()));
}

#[test]
fn missing_packages_are_named_installed_and_start_no_service() {
    let machine = Machine::new("bare");
    machine.postgres("packages/usr", "15");
    machine.redis("packages", "7");
    let root = machine.root.display();
    machine.apt_get(&format!("cp -r {root}/packages/usr {root}/; cp {root}/packages/redis-server {root}/bin/"));
    let (installed, said) = machine.install();
    assert!(installed, "{said}");
    assert!(said.contains("Installing the package postgresql\nInstalling the package redis-server\n"), "{said}");
    let asked = machine.asked();
    assert!(asked.contains("install -y -q --no-install-recommends postgresql redis-server"), "{asked}");
    assert!(asked.contains("policy-rc.d") && asked.contains("scoreline-no-cluster.conf"), "{asked}");
    assert!(!machine.left_behind());
    assert_eq!(machine.install(), (true, String::new()), "once more does nothing");
}

#[test]
fn only_what_is_missing_is_installed() {
    let machine = Machine::new("half");
    machine.postgres("usr", "17");
    machine.redis("packages", "7");
    let root = machine.root.display();
    machine.apt_get(&format!("cp {root}/packages/redis-server {root}/bin/"));
    let (installed, said) = machine.install();
    assert!(installed && !said.contains("postgresql"), "{said}");
    assert!(!machine.left_behind());
}

#[test]
fn who_may_not_install_is_told_what_to_run() {
    let machine = Machine::new("guest");
    machine.program("bin/id", "echo 1000");
    machine.apt_get("exit 100");
    let by_hand = "apt-get install --no-install-recommends postgresql redis-server";
    let (installed, said) = machine.install();
    assert!(!installed && said.contains(by_hand) && said.contains("not root"), "{said}");
    machine.program("bin/sudo", "exit 1");
    let (installed, said) = machine.install();
    assert!(!installed && said.contains(by_hand), "sudo that asks for a password: {said}");
    assert_eq!(machine.asked(), "");
}

#[test]
fn a_failed_installation_says_what_to_run_and_leaves_nothing_behind() {
    let machine = Machine::new("offline");
    machine.apt_get("exit 100");
    let (installed, said) = machine.install();
    assert!(!installed && said.contains("apt-get install --no-install-recommends postgresql redis-server"), "{said}");
    assert!(machine.asked().contains("update -q"), "tried with fresh lists");
    assert!(!machine.left_behind());
}

#[test]
fn an_old_postgres_in_the_packages_is_said_and_an_old_redis_is_never_upgraded() {
    let machine = Machine::new("old");
    machine.postgres("packages/usr", "12");
    machine.redis("bin", "7");
    let root = machine.root.display();
    machine.apt_get(&format!("cp -r {root}/packages/usr {root}/"));
    let (installed, said) = machine.install();
    assert!(!installed && said.contains("older than 15"), "{said}");
    machine.redis("bin", "6");
    std::fs::remove_file(machine.root.join("asked")).unwrap();
    let (installed, said) = machine.install();
    assert!(!installed && said.contains("does not upgrade it"), "{said}");
    assert_eq!(machine.asked(), "");
}

#[test]
fn without_apt_get_the_needed_versions_are_named() {
    let (installed, said) = Machine::new("other").install();
    assert!(!installed && said.contains("PostgreSQL 15 or newer and Redis 7 or newer"), "{said}");
}
