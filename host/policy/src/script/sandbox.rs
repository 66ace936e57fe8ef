//! The walls around a script: which parts of the language it has, what it may call, how much it may use.
//!
//! Three walls, each of which holds by itself: the engine is built raw from chosen packages, so there is no clock, file,
//! module or chance to reach; a script may call only what is on [`ON_OFFER`] or what it defines itself, which is decided
//! on its syntax tree before it runs; and as no function can be called by a name made up at run time (`Fn`, `call` and
//! `curry` are not on offer), no other comes into play later.
//!
//! Every evaluation runs on a thread of its own with a large stack, where nested values cannot overflow it and a panic
//! ends nothing but the evaluation.

use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use rhai::packages::{
    ArithmeticPackage, BasicArrayPackage, BasicFnPackage, BasicIteratorPackage, BasicMapPackage,
    BasicMathPackage, BasicStringPackage, LogicPackage, MoreStringPackage, Package as _,
};
use rhai::{AST, ASTNode, Engine, Expr, Module, OptimizationLevel, Stmt};

use super::error::{ScriptError, ScriptErrorKind};
use super::{functions, objects, values};

/// The longest script, in bytes.
const LONGEST_SOURCE: usize = 64 << 10;

const STACK_BYTES: usize = 64 << 20;

/// The clock is looked at once in so many operations.
const OPERATIONS_A_LOOK: u64 = 64;

/// All that a script may call, beside operators and its own functions. Nothing here grows what it is given by more than
/// a small factor: `replace` and `pad` are left out for that reason.
pub(super) static ON_OFFER: LazyLock<Vec<&str>> = LazyLock::new(|| {
    "prune_rules like like_any overlaps type_of to_string to_array len is_empty contains get keys values \
     push pop filter map find some all reduce index_of sort reverse to_upper to_lower starts_with \
     ends_with trim split sub_string abs min max floor ceiling round to_int to_float parse_int \
     parse_float is_nan range"
        .split(' ')
        .collect()
});

/// What one evaluation may use.
#[derive(Debug, Clone, Copy)]
pub(super) struct Budget {
    /// Operations of one call of a function.
    pub(super) operations: u64,
    /// Time for the whole evaluation.
    pub(super) time: Duration,
    /// Items in all arrays, and in all maps, of one value together.
    pub(super) items: usize,
}

impl Budget {
    /// For one decision about one thing.
    pub(super) const DECISION: Self =
        Self { operations: 100_000, time: Duration::from_secs(2), items: 10_000 };
    /// For the declared defaults.
    pub(super) const DEFAULTS: Self = Self { operations: 10_000, time: Duration::from_secs(1), items: 1_000 };

    /// For each call about one of `points` backups; the time is that of all.
    pub(super) fn retention(points: usize) -> Self {
        let time =
            Duration::from_secs(5) + Duration::from_micros(200) * u32::try_from(points).unwrap_or(u32::MAX);
        Self { operations: 50_000, time, items: 10_000 + 4 * points.min(50_000) }
    }

    /// For the one look at all `points` backups.
    pub(super) fn preparation(points: usize) -> Self {
        let operations = 100_000 + 500 * u64::try_from(points).unwrap_or(u64::MAX).min(100_000);
        Self { operations, ..Self::retention(points) }
    }
}

/// The packages and our own functions, made once.
static MODULES: LazyLock<Vec<Arc<Module>>> = LazyLock::new(|| {
    let mut own = Module::new();
    values::register(&mut own);
    objects::register(&mut own);
    functions::register(&mut own);
    own.build_index();
    vec![
        ArithmeticPackage::new().as_shared_module(),
        LogicPackage::new().as_shared_module(),
        BasicFnPackage::new().as_shared_module(),
        BasicStringPackage::new().as_shared_module(),
        MoreStringPackage::new().as_shared_module(),
        BasicIteratorPackage::new().as_shared_module(),
        BasicMathPackage::new().as_shared_module(),
        BasicArrayPackage::new().as_shared_module(),
        BasicMapPackage::new().as_shared_module(),
        Arc::new(own),
    ]
});

/// An engine that allows so much from now on.
pub(super) fn engine(budget: Budget) -> Engine {
    let mut engine = Engine::new_raw();
    for module in MODULES.iter() {
        engine.register_global_module(Arc::clone(module));
    }
    for word in
        ["eval", "Fn", "call", "curry", "print", "debug", "is_def_var", "is_def_fn", "import", "export"]
    {
        engine.disable_symbol(word);
    }
    // All limits by number: those of the language differ between debug and release builds.
    engine
        .set_optimization_level(OptimizationLevel::None)
        .set_strict_variables(true)
        // Operators go through the registered functions, or the guards would not be asked.
        .set_fast_operators(false)
        .set_max_operations(budget.operations)
        .set_max_call_levels(24)
        .set_max_expr_depths(64, 64)
        .set_max_string_size(64 << 10)
        .set_max_array_size(budget.items)
        .set_max_map_size(budget.items)
        .set_max_variables(128)
        .set_max_functions(64)
        .set_max_strings_interned(256);
    let end = Instant::now() + budget.time;
    engine.on_progress(move |operations| {
        (operations % OPERATIONS_A_LOOK == 0 && Instant::now() >= end).then(|| "time".into())
    });
    engine
}

/// Compiles, and refuses what may not be called and what is no function.
pub(super) fn compile(source: &str) -> Result<AST, Vec<ScriptError>> {
    if source.len() > LONGEST_SOURCE {
        let message = format!("a script may have {LONGEST_SOURCE} bytes");
        return Err(vec![ScriptError::new(ScriptErrorKind::Compile, message)]);
    }
    let ast =
        engine(Budget::DEFAULTS).compile(source).map_err(|error| vec![ScriptError::from_parse(&error)])?;
    let mut refused: Vec<ScriptError> = Vec::new();
    if let Some(statement) = ast.statements().iter().find(|statement| !statement.is_noop()) {
        let message = "only functions may stand outside functions (put numbers to choose into defaults())";
        refused.push(ScriptError::new(ScriptErrorKind::Compile, message).at(statement.position()));
    }
    let own: Vec<String> = ast.iter_functions().map(|function| function.name.to_owned()).collect();
    ast.walk(&mut |path: &[ASTNode]| {
        let Some((name, position)) = path.last().and_then(called) else { return true };
        if !ON_OFFER.contains(&name) && !own.iter().any(|own| own == name) {
            let message = format!("there is no function '{name}'");
            refused.push(ScriptError::new(ScriptErrorKind::Compile, message).at(position));
        }
        true
    });
    if refused.is_empty() { Ok(ast) } else { Err(refused) }
}

/// The function that a node calls, where it calls one by name.
pub(super) fn called<'a>(node: &'a ASTNode) -> Option<(&'a str, rhai::Position)> {
    let (call, position) = match node {
        ASTNode::Expr(Expr::FnCall(call, position) | Expr::MethodCall(call, position)) => (call, position),
        ASTNode::Stmt(Stmt::FnCall(call, position)) => (call, position),
        _ => return None,
    };
    (!call.is_operator_call()).then(|| (call.name.as_str(), *position))
}

/// Runs `work` on a thread of its own.
pub(super) fn isolated<T: Send, E: Send + From<ScriptError>>(
    work: impl FnOnce() -> Result<T, E> + Send,
) -> Result<T, E> {
    let failed = |message: &str| E::from(ScriptError::new(ScriptErrorKind::Limit, message));
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("policy".to_owned()).stack_size(STACK_BYTES);
        let Ok(thread) = thread.spawn_scoped(scope, work) else {
            return Err(failed("no thread could be had for the script"));
        };
        thread.join().unwrap_or_else(|_| Err(failed("the script made the interpreter fail")))
    })
}
