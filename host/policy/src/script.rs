//! Policies written in Rhai: compiled once, asked about backups, VMs and plans, each answer with its reason.
//!
//! ```text
//!   source ─▶ compile ─▶ Script ─▶ retain(points)        ─▶ one verdict a backup
//!                │                 select(vm)             ─▶ protected or not
//!                ▼                 plan(vm, history)      ─▶ which type of backup
//!           Diagnostic (check)
//! ```
//! A script sees typed objects that it cannot change and nothing else: no clock, file, network or chance. Whatever it
//! does wrong ends as a [`ScriptError`], and then the caller keeps everything. The contract for authors is
//! `docs/policies.md`.

mod answers;
mod check;
mod error;
mod functions;
mod objects;
mod sandbox;
mod shapes;
#[cfg(test)]
mod tests;
mod values;

use std::sync::Arc;
use std::time::Instant;

use rhai::{AST, CallFnOptions, Dynamic, Engine, FuncArgs, Scope};
use serde_json::{Map, Value};
use tidemark_model::{
    Candidate, History, KeepVerdict, PlanDecision, PlanType, PolicyContext, PolicyKind, RetentionPoint,
    Selection,
};

pub use check::{Diagnostic, Severity, check, likely_kind};
pub use error::{ScriptError, ScriptErrorKind};

use objects::{Backup, GroupContext, Past, Points, RetentionContext, Run, Vm};
use sandbox::{Budget, engine, isolated};

/// The functions that a kind of policy may have: the name, the parameters, and whether it must be there.
pub(crate) fn entries(kind: PolicyKind) -> &'static [(&'static str, &'static [&'static str], bool)] {
    match kind {
        PolicyKind::Retention => &[
            ("retain", &["p", "ctx"], true),
            ("prepare", &["points", "ctx"], false),
            ("defaults", &[], false),
        ],
        PolicyKind::Group => &[
            ("select", &["vm", "ctx"], true),
            ("plan", &["vm", "history", "ctx"], false),
            ("defaults", &[], false),
        ],
    }
}

/// A compiled policy. Cheap to copy; every evaluation stands alone, so any number may run at once.
#[derive(Debug, Clone)]
pub struct Script(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    kind: PolicyKind,
    source: String,
    ast: AST,
    defaults: Map<String, Value>,
}

impl Script {
    /// Compiles a policy, and asks it for the defaults of its settings.
    ///
    /// # Errors
    /// What is wrong with it first; [`check`] tells all.
    pub fn compile(kind: PolicyKind, source: &str) -> Result<Self, ScriptError> {
        isolated(|| {
            let first = |errors: Vec<ScriptError>| {
                let none = || ScriptError::new(ScriptErrorKind::Compile, "it cannot be compiled");
                errors.into_iter().next().unwrap_or_else(none)
            };
            let ast = sandbox::compile(source).map_err(first)?;
            if let Some(error) = check::entry_errors(kind, &ast, source).into_iter().next() {
                return Err(error);
            }
            let defaults = declared_defaults(&ast, source)?;
            Ok(Self(Arc::new(Inner { kind, source: source.to_owned(), ast, defaults })))
        })
    }

    /// The text that it was compiled from.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.0.source
    }

    /// What it decides.
    #[must_use]
    pub fn kind(&self) -> PolicyKind {
        self.0.kind
    }

    /// The settings that it declares with their defaults, a JSON object.
    #[must_use]
    pub fn defaults_json(&self) -> String {
        Value::Object(self.0.defaults.clone()).to_string()
    }

    /// Settings that are given but not declared: mostly misspelt ones. Empty where the script declares none.
    ///
    /// # Errors
    /// [`ScriptErrorKind::Settings`] where the text is no JSON object.
    pub fn unknown_settings(&self, settings_json: &str) -> Result<Vec<String>, ScriptError> {
        let given = parse_settings(settings_json)?;
        let declared = &self.0.defaults;
        let unknown = given.into_iter().map(|(name, _)| name).filter(|name| !declared.contains_key(name));
        Ok(if declared.is_empty() { Vec::new() } else { unknown.collect() })
    }

    /// Whether it has such a function.
    #[must_use]
    pub fn has(&self, function: &str) -> bool {
        self.0.ast.iter_functions().any(|own| own.name == function)
    }

    /// What is to become of each of `points`: verdict number `i` is that of point number `i`.
    ///
    /// # Errors
    /// A [`ScriptError`] where it cannot decide about any one of them; then none may go.
    pub fn retain(
        &self,
        points: &[RetentionPoint],
        ctx: &PolicyContext,
    ) -> Result<Vec<KeepVerdict>, ScriptError> {
        self.retain_within(points, ctx, Budget::preparation(points.len()), Budget::retention(points.len()))
    }

    fn retain_within(
        &self,
        points: &[RetentionPoint],
        ctx: &PolicyContext,
        preparation: Budget,
        retention: Budget,
    ) -> Result<Vec<KeepVerdict>, ScriptError> {
        self.must_be(PolicyKind::Retention)?;
        let run = Run::new(points, ctx, self.settings(ctx)?)?;
        isolated(|| {
            let started = Instant::now();
            let mut prepared = Dynamic::UNIT;
            if self.has("prepare") {
                let before = RetentionContext { run: Arc::clone(&run), prepared: Dynamic::UNIT };
                let answer =
                    self.call(&engine(preparation), "prepare", (Points(Arc::clone(&run)), before))?;
                prepared = values::freeze(answer);
            }
            // The time is that of the whole run.
            let time = retention.time.saturating_sub(started.elapsed());
            let engine = engine(Budget { time, ..retention });
            let decide = |at: usize| {
                let ctx = RetentionContext { run: Arc::clone(&run), prepared: prepared.clone() };
                let answer = self.call(&engine, "retain", (Backup { run: Arc::clone(&run), at }, ctx));
                answer
                    .and_then(|answer| answers::verdict(&answer))
                    .map_err(|error| error.about(&format!("about backup {}", points[at].id)))
            };
            (0..points.len())
                .map(|at| match decide(at) {
                    Ok(_) if started.elapsed() >= retention.time => {
                        let message = "the script took longer than it may";
                        Err(ScriptError::new(ScriptErrorKind::Deadline, message))
                    }
                    decided => decided,
                })
                .collect()
        })
    }

    /// Whether a VM is protected. Disks are left out by key or label; names of no disk are passed over.
    ///
    /// # Errors
    /// A [`ScriptError`].
    pub fn select(&self, vm: &Candidate, ctx: &PolicyContext) -> Result<Selection, ScriptError> {
        self.must_be(PolicyKind::Group)?;
        let run = Run::new(&[], ctx, self.settings(ctx)?)?;
        isolated(|| {
            let arguments = (Vm(Arc::new(vm.clone())), GroupContext(run));
            answers::selection(self.call(&engine(Budget::DECISION), "select", arguments)?, vm)
        })
    }

    /// Which type of backup a VM gets now.
    ///
    /// # Errors
    /// A [`ScriptError`].
    pub fn plan(
        &self,
        vm: &Candidate,
        history: &History,
        ctx: &PolicyContext,
    ) -> Result<PlanDecision, ScriptError> {
        self.must_be(PolicyKind::Group)?;
        if !self.has("plan") {
            let reason = "the policy has no plan".to_owned();
            return Ok(PlanDecision { kind: PlanType::Incremental, reason });
        }
        let run = Run::new(&[], ctx, self.settings(ctx)?)?;
        isolated(|| {
            let past = Past { history: *history, now: ctx.now, zone: run.zone };
            let arguments = (Vm(Arc::new(vm.clone())), past, GroupContext(run));
            answers::plan(self.call(&engine(Budget::DECISION), "plan", arguments)?)
        })
    }

    fn must_be(&self, kind: PolicyKind) -> Result<(), ScriptError> {
        if self.0.kind == kind {
            return Ok(());
        }
        let message =
            format!("a {} policy is needed, this is a {} policy", kind.as_str(), self.0.kind.as_str());
        Err(ScriptError::new(ScriptErrorKind::Entry, message))
    }

    /// The given settings over the declared defaults.
    fn settings(&self, ctx: &PolicyContext) -> Result<values::Record, ScriptError> {
        let mut settings = self.0.defaults.clone();
        merge(&mut settings, parse_settings(&ctx.settings_json)?);
        Ok(objects::settings_record(&settings))
    }

    fn call(
        &self,
        engine: &Engine,
        function: &str,
        arguments: impl FuncArgs,
    ) -> Result<Dynamic, ScriptError> {
        call(engine, &self.0.ast, function, arguments)
    }
}

fn call(
    engine: &Engine,
    ast: &AST,
    function: &str,
    arguments: impl FuncArgs,
) -> Result<Dynamic, ScriptError> {
    let options = CallFnOptions::new().eval_ast(false);
    engine
        .call_fn_with_options::<Dynamic>(options, &mut Scope::new(), ast, function, arguments)
        .map_err(ScriptError::from_eval)
}

/// What `defaults()` answers; nothing where there is none.
fn declared_defaults(ast: &AST, source: &str) -> Result<Map<String, Value>, ScriptError> {
    if !ast.iter_functions().any(|function| function.name == "defaults") {
        return Ok(Map::new());
    }
    let answer = call(&engine(Budget::DEFAULTS), ast, "defaults", ())?;
    let refused = |message: String| check::at_function(ScriptErrorKind::Answer, message, source, "defaults");
    match values::to_json(&answer).map_err(refused)? {
        Value::Object(defaults) => Ok(defaults),
        _ => Err(refused("defaults answers a map of settings".to_owned())),
    }
}

fn parse_settings(text: &str) -> Result<Map<String, Value>, ScriptError> {
    let refused = |message: String| ScriptError::new(ScriptErrorKind::Settings, message);
    if text.trim().is_empty() {
        return Ok(Map::new());
    }
    match serde_json::from_str(text) {
        Ok(Value::Object(settings)) => Ok(settings),
        Ok(_) => Err(refused("the settings are no JSON object".to_owned())),
        Err(error) => Err(refused(format!("the settings are no JSON: {error}"))),
    }
}

/// Lays `given` over `declared`, object into object.
fn merge(declared: &mut Map<String, Value>, given: Map<String, Value>) {
    for (name, value) in given {
        match (declared.get_mut(&name), value) {
            (Some(Value::Object(old)), Value::Object(new)) => merge(old, new),
            (_, value) => {
                declared.insert(name, value);
            }
        }
    }
}
