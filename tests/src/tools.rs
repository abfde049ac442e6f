//! Programs that tests need and that no package of ours brings: installed once, into the target
//! folder, by whoever asks first.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// `TARGET/tools/NAME`, made by `install` if it is not there; what a failed installation left is
/// removed. Says why it cannot be had.
pub fn installed(
    name: &str,
    install: impl FnOnce(&Path) -> Result<(), String>,
) -> Result<PathBuf, String> {
    let test = std::env::current_exe().expect("a test has a path");
    // TARGET/PROFILE/deps/TEST, or TARGET/PROFILE/PROGRAM.
    let is_test = test.parent().is_some_and(|folder| folder.ends_with("deps"));
    let target = test.ancestors().nth(if is_test { 3 } else { 2 }).expect("cargo built it");
    let tools = target.join("tools");
    std::fs::create_dir_all(&tools).expect("the target folder is writable");
    // One installation at a time, whoever asks.
    let lock = std::fs::File::create(tools.join(format!("{name}.lock"))).expect("lock file");
    lock.lock().expect("locked");
    let wanted = tools.join(name);
    let made = tools.join(format!("{name}.done"));
    if !made.exists() {
        let _ = std::fs::remove_dir_all(&wanted);
        std::fs::create_dir_all(&wanted).expect("a folder for it");
        install(&wanted)?;
        std::fs::write(made, "").expect("noted");
    }
    Ok(wanted)
}

/// Runs a command to its end; says what it said when it fails.
pub fn run(command: &mut Command) -> Result<String, String> {
    let what = format!("{} {}", command.get_program().display(), shown(command));
    let Output { status, stdout, stderr } =
        command.output().map_err(|error| format!("{what}: {error}"))?;
    match status.success() {
        true => Ok(String::from_utf8_lossy(&stdout).into_owned()),
        // Some say on standard output why they failed.
        false => {
            let why = if stderr.trim_ascii().is_empty() { stdout } else { stderr };
            Err(format!("{what}: {status}: {}", String::from_utf8_lossy(&why).trim()))
        }
    }
}

fn shown(command: &Command) -> String {
    let args = command.get_args().take(3).map(|arg| arg.to_string_lossy().into_owned());
    args.collect::<Vec<_>>().join(" ")
}

/// Downloads Debian's packages with all that they need and unpacks them into `folder/root`: needs no
/// rights, and nothing of the machine changes.
pub fn unpack_debian(packages: &[&str], folder: &Path) -> Result<(), String> {
    let plan = || {
        let mut plan = Command::new("apt-get");
        run(plan.args(["install", "-s", "--no-install-recommends"]).args(packages))
    };
    // Lists of packages may be missing on a new machine; only root may fetch them.
    let planned = match plan() {
        Ok(planned) => planned,
        Err(_) => run(Command::new("apt-get").args(["update", "-q"])).and_then(|_| plan())?,
    };
    let names = planned.lines().filter_map(|line| line.strip_prefix("Inst ")?.split(' ').next());
    let names: Vec<&str> = names.collect();
    if names.is_empty() {
        return Err(format!("{} is installed on this machine, not unpacked", packages.join(" ")));
    }
    run(Command::new("apt-get").args(["download", "-q"]).args(names).current_dir(folder))?;
    let root = folder.join("root");
    for entry in std::fs::read_dir(folder).map_err(|error| error.to_string())? {
        let package = entry.map_err(|error| error.to_string())?.path();
        if package.extension().is_some_and(|extension| extension == "deb") {
            run(Command::new("dpkg").arg("-x").arg(&package).arg(&root))?;
            let _ = std::fs::remove_file(&package);
        }
    }
    Ok(())
}

/// How Debian names this machine's kind in paths.
pub fn triplet() -> String {
    format!("{}-linux-gnu", std::env::consts::ARCH)
}

/// Whether the long tests were asked for (`./test --long`).
pub fn long() -> bool {
    std::env::var_os("LEVEE_LONG").is_some_and(|value| !value.is_empty())
}
