//! What the kernel says of this process, as Prometheus text under the usual names.
//!
//! Written here and not through the recorder, because processor time is a counter with a fraction.

// The process itself is not part of the simulation.
#![allow(clippy::disallowed_methods)]

use std::fmt::Write;
use std::fs;

/// Clock ticks per second in `/proc/PID/stat`: USER_HZ, which Linux keeps at 100 for programs on
/// every architecture that Levee runs on (man 5 proc, sysconf(_SC_CLK_TCK)).
const TICKS_PER_SECOND: f64 = 100.0;

/// Text to put behind what the recorder renders. What cannot be read is left out.
pub fn process_metrics() -> String {
    let mut out = String::new();
    if let Some(seconds) = fs::read_to_string("/proc/self/stat").ok().as_deref().and_then(cpu) {
        put(&mut out, "process_cpu_seconds_total", "counter", "processor time used", seconds);
    }
    if let Some(bytes) = fs::read_to_string("/proc/self/status").ok().as_deref().and_then(resident)
    {
        let help = "memory in use, in bytes";
        put(&mut out, "process_resident_memory_bytes", "gauge", help, bytes as f64);
    }
    if let Ok(entries) = fs::read_dir("/proc/self/fd") {
        // One of them is this listing.
        let open = entries.count().saturating_sub(1);
        put(&mut out, "process_open_fds", "gauge", "open file handles", open as f64);
    }
    out
}

fn put(out: &mut String, name: &str, shape: &str, help: &str, value: f64) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {shape}\n{name} {value}");
}

/// User and system time: fields 14 and 15. The second field is the program's name in brackets and
/// may hold anything.
fn cpu(stat: &str) -> Option<f64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some((user + system) as f64 / TICKS_PER_SECOND)
}

fn resident(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_text_is_understood() {
        let stat = "7 (a) b) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0 1 0 9 1 1";
        assert_eq!(cpu(stat), Some(3.0));
        assert_eq!(resident("Name:\tx\nVmRSS:\t    2048 kB\n"), Some(2 << 20));
        assert_eq!(cpu("nothing"), None);
        assert_eq!(resident("VmRSS:\t999999999999999999999 kB"), None);
    }

    #[test]
    fn this_process_has_all_of_them() {
        let text = process_metrics();
        for name in ["cpu_seconds_total", "resident_memory_bytes", "open_fds"] {
            assert!(text.contains(&format!("\nprocess_{name} ")), "{text}");
        }
    }
}
