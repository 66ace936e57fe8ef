//! Compiling in a process of its own: a component that makes the compiler loop or hoard costs that process, never the
//! host.
//!
//! ```text
//! host: Compiler::compile ──component on stdin──▶ child: run_compiler (bounds itself, then reads)
//!                         ◀──code on stdout, or words on stderr and exit 1──
//! ```
//! The child is this program again, so that both sides have one compiler in one configuration.

use std::ffi::OsString;
use std::io::{self, Read, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, setrlimit};
use wasmtime::Engine;

use crate::manifest::{MAX_COMPONENT_BYTES, PluginKind};
use crate::runtime::configuration;

/// The most compiled code that is taken: more than ten times the largest component.
const MAX_CODE_BYTES: u64 = 1 << 30;
/// The most words of a failure.
const MAX_WORDS_BYTES: u64 = 4 << 10;
/// How often the child is looked at.
const LOOK: Duration = Duration::from_millis(5);
/// Threads of the compiler: each takes memory of its own.
const THREADS: &str = "4";

/// How much one compilation may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompileLimits {
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Seconds of processor time, and of waiting.
    pub seconds: u64,
}

/// A program that compiles components: it takes `--kind`, `--memory-bytes` and `--seconds` after its own arguments, and
/// calls [`run_compiler`] with them.
#[derive(Debug, Clone)]
pub struct Compiler {
    /// The program.
    pub program: PathBuf,
    /// What comes before our arguments.
    pub arguments: Vec<OsString>,
    /// What it may take.
    pub limits: CompileLimits,
}

impl Default for CompileLimits {
    /// Generous: whole language runtimes are compiled as components.
    fn default() -> Self {
        Self { memory_bytes: 4 << 30, seconds: 300 }
    }
}

impl Compiler {
    /// Compiles a component of a kind; the words say why not.
    pub(crate) fn compile(&self, kind: PluginKind, component: &[u8]) -> Result<Vec<u8>, String> {
        let Self { program, arguments, limits: CompileLimits { memory_bytes, seconds } } = self;
        let mut command = Command::new(program);
        command.args(arguments).args(["--kind", kind.as_str()]);
        command.arg("--memory-bytes").arg(memory_bytes.to_string());
        command.arg("--seconds").arg(seconds.to_string());
        // Nothing of the host's environment, which holds its secrets, is its business.
        command.env_clear().env("RAYON_NUM_THREADS", THREADS).env("MALLOC_ARENA_MAX", "2");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn();
        let mut child =
            child.map_err(|e| format!("the compiler {} does not start: {e}", program.display()))?;
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        std::thread::scope(|scope| {
            scope.spawn(move || {
                // A child that ends early has said why.
                let _ = stdin.map(|mut stdin| stdin.write_all(component));
            });
            let code = scope.spawn(move || read_all(stdout, MAX_CODE_BYTES));
            let words = scope.spawn(move || read_all(stderr, MAX_WORDS_BYTES));
            let ended = wait(&mut child, Duration::from_secs(*seconds));
            let code = code.join().unwrap_or_default();
            let words = words.join().unwrap_or_default();
            match ended {
                Ok(Some(status)) if status.success() => Ok(code),
                Ok(Some(status)) => Err(self.failure(status, &words)),
                Ok(None) => Err(format!("compiling it took longer than {seconds} s")),
                Err(error) => Err(format!("the compiler cannot be waited for: {error}")),
            }
        })
    }

    fn failure(&self, status: ExitStatus, words: &[u8]) -> String {
        let CompileLimits { memory_bytes, seconds } = self.limits;
        let words = String::from_utf8_lossy(words);
        match status.signal() {
            Some(signal) => {
                let memory = memory_bytes >> 20;
                format!(
                    "the compiler was stopped by signal {signal}: it may take {seconds} s and {memory} MiB"
                )
            }
            None => words.trim().to_owned(),
        }
    }
}

fn read_all(source: Option<impl Read>, limit: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(source) = source {
        // What is missing shows in the exit code.
        let _ = source.take(limit).read_to_end(&mut bytes);
    }
    bytes
}

/// How it ended; none where it took too long and was killed.
fn wait(child: &mut Child, limit: Duration) -> io::Result<Option<ExitStatus>> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(LOOK);
    }
}

/// The child's whole work: bounds itself, reads a component from standard input and writes its code to standard output.
///
/// # Errors
/// Why it cannot be compiled, in words.
pub fn run_compiler(kind: PluginKind, limits: CompileLimits) -> Result<(), String> {
    let CompileLimits { memory_bytes, seconds } = limits;
    for (resource, most) in
        [(Resource::As, memory_bytes), (Resource::Cpu, seconds), (Resource::Core, 0), (Resource::Fsize, 0)]
    {
        let bound = Rlimit { current: Some(most), maximum: Some(most) };
        setrlimit(resource, bound).map_err(|e| format!("the compiler cannot bound itself: {e}"))?;
    }
    let mut component = Vec::new();
    let most = MAX_COMPONENT_BYTES as u64;
    let read = io::stdin().lock().take(most + 1).read_to_end(&mut component);
    read.map_err(|e| format!("the component cannot be read: {e}"))?;
    if component.len() as u64 > most {
        return Err(format!("a component has at most {most} bytes"));
    }
    let engine = Engine::new(&configuration(kind)).map_err(|e| format!("{e:#}"))?;
    let code = engine.precompile_component(&component).map_err(|e| format!("{e:#}"))?;
    io::stdout().lock().write_all(&code).map_err(|e| format!("the code cannot be written: {e}"))
}
