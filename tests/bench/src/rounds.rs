//! A work, done by each contender in turn, round after round: what disturbs the machine for a while disturbs all.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use tidemark_tests::process::{Guarded, tool, wait_for};

use crate::chain::Chain;
use crate::contender::{Contender, Task};
use crate::data::Disk;
use crate::measure::{self, Meter, Sample};
use crate::peers;
use crate::sink::{Sink, SinkPlan};
use crate::stop;
use crate::store::Store;
use crate::works::Work;

/// Connections a source server takes; each contender opens what it likes.
const SHARED: &str = "--shared=64";

/// A work with all its figures.
#[derive(Debug)]
pub(crate) struct Outcome<'a> {
    pub(crate) work: &'a Work,
    pub(crate) size: u64,
    pub(crate) data_bytes: u64,
    pub(crate) results: Vec<Figures>,
    /// What was not timed, and why.
    pub(crate) left_out: Vec<String>,
}

/// What one contender showed.
#[derive(Debug)]
pub(crate) struct Figures {
    pub(crate) contender: Contender,
    /// In the order of the rounds.
    pub(crate) samples: Vec<Sample>,
    /// Where they could be counted.
    pub(crate) syscalls: Option<u64>,
}

/// How works are done.
#[derive(Debug)]
pub(crate) struct Bench {
    rounds: u32,
    /// Whether each contender has a run more, in which its system calls are counted.
    tracing: bool,
    /// Where the fast sink's image lies.
    fast_dir: Option<PathBuf>,
}

impl Bench {
    /// Builds what comes as source.
    pub(crate) fn new(rounds: u32, fast_dir: Option<PathBuf>, store: &Store) -> Self {
        if let Err(error) = peers::build_list_loop(store.dir()) {
            eprintln!("{error:#}");
        }
        Self { rounds, tracing: measure::can_trace(), fast_dir }
    }

    /// What a reader must know to judge the figures.
    pub(crate) fn circumstances(&self, store: &Store) -> Result<Vec<String>> {
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let memory = std::fs::read_to_string("/proc/meminfo")?;
        let kib = memory.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0);
        let version = |program| {
            let text = tool(program, ["--version"]).unwrap_or_else(|_| format!("no {program}"));
            text.lines().next().unwrap_or_default().to_owned()
        };
        let traced = if self.tracing { "counted in a run of their own" } else { "not counted (no strace)" };
        Ok(vec![
            format!("{cores} processor cores, {} GiB of memory, Linux {}", kib >> 20, kernel()?),
            format!("disks and results on {}", store.file_system()?),
            [version("qemu-img"), version("nbdcopy"), version("fio")].join("; "),
            format!("{} interleaved rounds; system calls {traced}", self.rounds),
        ])
    }

    /// Does one work in all its rounds. The first round's results are compared with the source.
    pub(crate) fn run<'a>(&self, work: &'a Work, store: &mut Store) -> Result<Outcome<'a>> {
        let (disk, chain) = store.take(work.subject)?;
        let mut outcome = Outcome {
            work,
            size: disk.size,
            data_bytes: disk.data_bytes,
            results: Vec::new(),
            left_out: Vec::new(),
        };
        let sink = match self.sink(work, &disk, chain.as_ref(), store.dir()) {
            Ok(sink) => sink,
            Err(reason) => {
                stop::check()?;
                outcome.left_out.push(format!("left out: {reason:#}"));
                return Ok(outcome);
            }
        };
        for &contender in &work.contenders {
            match contender.missing(store.dir()) {
                Some(why) => outcome.left_out.push(format!("{} left out: {why}", contender.name())),
                None => outcome.results.push(Figures { contender, samples: Vec::new(), syscalls: None }),
            }
        }
        let source = Source::start(&disk, store.dir())?;
        disk.warm()?;
        let chain = chain.map(|chain| placed(work, chain, &sink)).transpose()?;
        let to = chain.as_ref().filter(|_| work.beside_chain()).map_or(sink.folder.as_path(), Chain::folder);
        let to = to.join("result.qcow2");
        let task = Task { uri: &source.uri, disk: &disk, chain: chain.as_ref(), to, tools: store.dir() };
        self.rounds_over(&mut outcome, &task, &sink, source.server)?;
        Ok(outcome)
    }

    fn sink(&self, work: &Work, disk: &Disk, chain: Option<&Chain>, dir: &Path) -> Result<Sink> {
        if let Some(why) = work.sink.missing() {
            anyhow::bail!(why);
        }
        let (images, bytes) = match work.sink {
            SinkPlan::Fast => (self.fast_dir.as_deref().unwrap_or(dir), disk.data_bytes),
            // The chain itself goes there too, and what a peer makes of it.
            SinkPlan::Reflink | SinkPlan::Disk => {
                (dir, chain.map_or(disk.data_bytes, |_| 2 * disk.data_bytes))
            }
        };
        work.sink.make(dir, images, bytes)
    }

    fn rounds_over(
        &self,
        outcome: &mut Outcome<'_>,
        task: &Task<'_>,
        sink: &Sink,
        mut source: Guarded,
    ) -> Result<()> {
        let name = outcome.work.title();
        for round in 1..=self.rounds {
            for Figures { contender, samples, .. } in &mut outcome.results {
                let sample = once(*contender, task, sink, round == 1)?;
                eprintln!("{name}: round {round}, {}: {:.2} s", contender.name(), sample.wall.as_secs_f64());
                samples.push(sample);
            }
            source.still_running()?;
        }
        for Figures { contender, syscalls, .. } in outcome.results.iter_mut().filter(|_| self.tracing) {
            stop::check()?;
            contender.prepare(task)?;
            let mut meter = Meter::tracing(task.tools);
            contender.run(&mut meter, task)?;
            contender.clean_up(&task.to)?;
            *syscalls = Some(meter.syscalls()?);
        }
        Ok(())
    }
}

/// One contender's turn in a round.
fn once(contender: Contender, task: &Task<'_>, sink: &Sink, judged: bool) -> Result<Sample> {
    stop::check()?;
    contender.prepare(task)?;
    // Whatever another left to be written must not be written in this one's time.
    tool("sync", [] as [&str; 0])?;
    let before = sink.in_use()?;
    let mut meter = Meter::start();
    contender.run(&mut meter, task)?;
    let mut sample = meter.stop();
    sample.stored_bytes = sink.taken_up(before, &contender.results(&task.to))?;
    if judged {
        contender.judge(task).with_context(|| contender.name())?;
    }
    contender.clean_up(&task.to)?;
    Ok(sample)
}

/// The chain where the work wants it, warm.
fn placed(work: &Work, chain: Chain, sink: &Sink) -> Result<Chain> {
    let chain = if work.beside_chain() && work.sink != SinkPlan::Disk {
        chain.copied_to(&sink.folder)?
    } else {
        chain
    };
    chain.warm()?;
    Ok(chain)
}

/// The server that all contenders of a work read from.
#[derive(Debug)]
pub(crate) struct Source {
    server: Guarded,
    /// Its address.
    pub(crate) uri: String,
}

impl Source {
    /// Starts it.
    pub(crate) fn start(disk: &Disk, dir: &Path) -> Result<Self> {
        let socket: PathBuf = dir.join("source.sock");
        let mut command = Command::new("qemu-nbd");
        command
            .args(["--read-only", "--persistent", "--format=raw", SHARED, "--socket"])
            .arg(&socket)
            .arg(&disk.path);
        let mut server = Guarded::start("qemu-nbd", &mut command, &dir.join("source.log"))?;
        wait_for("the source's socket", Duration::from_secs(10), || {
            server.still_running()?;
            // The socket's file is there a moment before it is listened on.
            Ok(UnixStream::connect(&socket).ok())
        })?;
        Ok(Self { server, uri: peers::nbd_uri(&socket) })
    }
}

fn kernel() -> Result<String> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    // The part that tells machines apart is nobody's business.
    Ok(release.trim().split(['-', '+']).next().unwrap_or_default().to_owned())
}
