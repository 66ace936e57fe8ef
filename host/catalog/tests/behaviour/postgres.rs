//! A PostgreSQL of our own: in a temporary folder, on a unix socket there, with no durability.
//!
//! A shell script owns the server. It waits for the end of its standard input, which only this process holds open:
//! however this process ends (a failed test, a kill), the script then stops the server and removes the folder.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

const SCRIPT: &str = r#"
trap '' INT TERM HUP
bin=$1
dir=$(mktemp -d /tmp/tidemark-catalog.XXXXXX) || exit 1
cd "$dir"
if "$bin/initdb" -D data -U tidemark -A trust -E UTF8 --locale=C --no-sync >log 2>&1; then
    "$bin/postgres" -D data -k "$dir" -c listen_addresses= -c fsync=off -c synchronous_commit=off \
        -c full_page_writes=off -c max_connections=300 -c shared_buffers=16MB >>log 2>&1 </dev/null &
    server=$!
    for attempt in $(seq 600); do
        if "$bin/pg_isready" -q -h "$dir" -U tidemark -d postgres; then ready=1; break; fi
        if ! kill -0 "$server" 2>/dev/null; then break; fi
        sleep 0.1
    done
fi
if [ -n "$ready" ]; then
    echo "$dir"
    read -r _
else
    tail -n 20 log >&2
fi
if [ -n "$server" ]; then kill -INT "$server"; wait "$server"; fi
cd / && rm -rf "$dir"
"#;

struct Server {
    socket_folder: String,
    /// Kept, as its standard input must stay open.
    _script: Child,
}

/// The URL of a database on the server, which is started by the first call.
pub(crate) fn url(database: &str) -> String {
    static SERVER: OnceLock<Server> = OnceLock::new();
    let folder = &SERVER.get_or_init(start).socket_folder;
    format!("postgres://tidemark@localhost/{database}?host={folder}")
}

fn start() -> Server {
    let bin = binaries().expect(
        "PostgreSQL is missing: install it (on Debian and Ubuntu `apt-get install postgresql`), these tests start their own",
    );
    let mut command = if is_root() {
        // PostgreSQL refuses to run as root; its package brings the user.
        let mut command = Command::new("setpriv");
        command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "sh"]);
        command
    } else {
        Command::new("sh")
    };
    command.arg("-c").arg(SCRIPT).arg("sh").arg(bin);
    let mut script =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("sh and setpriv start");
    let mut line = String::new();
    let output = script.stdout.take().expect("piped");
    BufReader::new(output).read_line(&mut line).expect("the script's first line");
    let socket_folder = line.trim().to_owned();
    assert!(!socket_folder.is_empty(), "PostgreSQL did not start; its log is above");
    Server { socket_folder, _script: script }
}

/// The newest installed version's programs.
fn binaries() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?;
    let folders = versions.filter_map(|entry| {
        let entry = entry.ok()?;
        let version: u32 = entry.file_name().to_str()?.parse().ok()?;
        let bin = entry.path().join("bin");
        bin.join("initdb").exists().then_some((version, bin))
    });
    folders.max().map(|(_, bin)| bin)
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}
