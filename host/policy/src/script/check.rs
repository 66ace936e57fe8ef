//! Finds mistakes in a script before it runs: what does not compile, entry functions that are missing or ill-formed,
//! fields that do not exist, assignments to what is read only, settings without a default, functions nobody calls.
//!
//! Shapes are followed from the parameters of the entry functions through `let`, `for` and calls of the script's own
//! functions. What cannot be told is not complained about.

use std::collections::{BTreeMap, BTreeSet};

use rhai::{AST, ASTFlags, ASTNode, Expr, Position, Stmt};
use tidemark_model::PolicyKind;

use super::error::{ScriptError, ScriptErrorKind};
use super::sandbox::{self, called, isolated};
use super::shapes::Shape;
use super::{declared_defaults, entries};

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The script cannot work.
    Error,
    /// It may do other than meant.
    Warning,
    /// Something is superfluous.
    Hint,
}

/// A finding in a script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// The line, from 1, where there is one.
    pub line: Option<usize>,
    /// The column, from 1, in characters.
    pub column: Option<usize>,
    /// What it is, in words.
    pub message: String,
}

impl std::fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let word = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Hint => "hint",
        };
        match (self.line, self.column) {
            (Some(line), Some(column)) => write!(f, "{line}:{column}: {word}: {}", self.message),
            _ => write!(f, "{word}: {}", self.message),
        }
    }
}

impl Diagnostic {
    fn new(severity: Severity, message: String, at: Position) -> Self {
        Self { severity, message, line: at.line(), column: at.position() }
    }

    fn from_error(error: ScriptError) -> Self {
        Self { severity: Severity::Error, line: error.line, column: error.column, message: error.message }
    }
}

/// All that can be told about a script of this kind, by line. Empty where nothing is wrong.
#[must_use]
pub fn check(kind: PolicyKind, source: &str) -> Vec<Diagnostic> {
    let found = isolated(|| -> Result<Vec<Diagnostic>, ScriptError> { Ok(check_here(kind, source)) });
    let mut found = found.unwrap_or_else(|error| vec![Diagnostic::from_error(error)]);
    found.sort_by_key(|finding| (finding.line, finding.column, finding.severity));
    found.dedup();
    found
}

fn check_here(kind: PolicyKind, source: &str) -> Vec<Diagnostic> {
    let ast = match sandbox::compile(source) {
        Ok(ast) => ast,
        Err(errors) => return errors.into_iter().map(Diagnostic::from_error).collect(),
    };
    let mut found: Vec<Diagnostic> =
        entry_errors(kind, &ast, source).into_iter().map(Diagnostic::from_error).collect();
    let mut settings = None;
    match declared_defaults(&ast, source) {
        Ok(defaults) if has(&ast, "defaults") => settings = Some(defaults.keys().cloned().collect()),
        Ok(_) => {}
        Err(error) => found.push(Diagnostic::from_error(error)),
    }
    found.extend(unused(kind, &ast, source));
    found.extend(Walk::over(kind, &ast, settings));
    found
}

fn has(ast: &AST, function: &str) -> bool {
    ast.iter_functions().any(|own| own.name == function)
}

/// Entry functions that are missing or have other parameters than they are called with.
pub(super) fn entry_errors(kind: PolicyKind, ast: &AST, source: &str) -> Vec<ScriptError> {
    let mut errors = Vec::new();
    for (name, parameters, mandatory) in entries(kind) {
        let wanted = format!("fn {name}({})", parameters.join(", "));
        let found: Vec<usize> =
            ast.iter_functions().filter(|own| own.name == *name).map(|own| own.params.len()).collect();
        if found.contains(&parameters.len()) {
            continue;
        }
        if let Some(other) = found.first() {
            let message = format!("{name} takes {} parameters, not {other}: {wanted}", parameters.len());
            errors.push(at_function(ScriptErrorKind::Entry, message, source, name));
        } else if *mandatory {
            let message = format!("a {} policy needs {wanted}", kind.as_str());
            errors.push(ScriptError::new(ScriptErrorKind::Entry, message));
        }
    }
    errors
}

/// An error at the place where a function is defined: the tree does not hold it, the text does.
pub(super) fn at_function(kind: ScriptErrorKind, message: String, source: &str, name: &str) -> ScriptError {
    let (line, column) = defined_at(source, name).unzip();
    ScriptError { line, column, ..ScriptError::new(kind, message) }
}

/// The line and column at which a text defines a function.
fn defined_at(source: &str, name: &str) -> Option<(usize, usize)> {
    let starts = |code: &str| {
        let rest = code.strip_prefix("fn ").and_then(|rest| rest.trim_start().strip_prefix(name));
        rest.is_some_and(|rest| rest.trim_start().starts_with('('))
    };
    source.lines().enumerate().find_map(|(number, line)| {
        let code = line.split("//").next().unwrap_or_default();
        let (at, _) = code.match_indices("fn ").find(|(at, _)| starts(&code[*at..]))?;
        Some((number + 1, code[..at].chars().count() + 1))
    })
}

/// The kind that a text looks like: one that defines `select` is a group policy, any other a retention policy.
#[must_use]
pub fn likely_kind(source: &str) -> PolicyKind {
    if defined_at(source, "select").is_some() { PolicyKind::Group } else { PolicyKind::Retention }
}

/// Functions that nobody calls: entry points of the other kind, and what was left over.
fn unused(kind: PolicyKind, ast: &AST, source: &str) -> Vec<Diagnostic> {
    let mut calls = BTreeSet::new();
    ast.walk(&mut |path: &[ASTNode]| {
        calls.extend(path.last().and_then(called).map(|(name, _)| name.to_owned()));
        true
    });
    let entry = |kind, name: &str| entries(kind).iter().any(|entry| entry.0 == name);
    let other = match kind {
        PolicyKind::Retention => PolicyKind::Group,
        PolicyKind::Group => PolicyKind::Retention,
    };
    let mut found = Vec::new();
    for function in ast.iter_functions().filter(|own| !own.name.starts_with("anon$")) {
        let name = function.name;
        if entry(kind, name) || calls.contains(name) {
            continue;
        }
        let message = if entry(other, name) {
            format!("{name} is of {} policies; this is a {} policy", other.as_str(), kind.as_str())
        } else {
            format!("{name} is never called")
        };
        let at = at_function(ScriptErrorKind::Entry, message, source, name);
        found.push(Diagnostic { severity: Severity::Hint, ..Diagnostic::from_error(at) });
    }
    found
}

type Parameters = BTreeMap<(String, usize), Vec<Shape>>;

/// One look at every function, with what is known of its parameters.
struct Walk<'a> {
    settings: Option<&'a BTreeSet<String>>,
    /// What the calls hand over, as the round before found.
    parameters: Parameters,
    /// The same, as this round finds.
    learnt: Parameters,
    variables: BTreeMap<String, Shape>,
    found: Vec<Diagnostic>,
}

impl<'a> Walk<'a> {
    fn over(kind: PolicyKind, ast: &AST, settings: Option<BTreeSet<String>>) -> Vec<Diagnostic> {
        let mut walk = Walk {
            settings: settings.as_ref(),
            parameters: Parameters::new(),
            learnt: Parameters::new(),
            variables: BTreeMap::new(),
            found: Vec::new(),
        };
        let functions: Vec<(String, Vec<String>)> = ast
            .iter_functions()
            .map(|own| (own.name.to_owned(), own.params.iter().map(|name| (*name).to_owned()).collect()))
            .collect();
        // What a call hands on may be learnt only after the caller's own parameters are known: once for each level.
        for _ in 0..4 {
            walk.found.clear();
            walk.parameters = std::mem::take(&mut walk.learnt);
            for (name, parameters) in &functions {
                walk.function(kind, ast, name, parameters);
            }
        }
        walk.found
    }

    fn function(&mut self, kind: PolicyKind, ast: &AST, name: &str, parameters: &[String]) {
        let entry = entries(kind).iter().any(|entry| entry.0 == name && entry.1.len() == parameters.len());
        let known = self.parameters.get(&(name.to_owned(), parameters.len())).cloned().unwrap_or_default();
        self.variables.clear();
        for (at, parameter) in parameters.iter().enumerate() {
            let handed = known.get(at).copied().unwrap_or(Shape::Value);
            let shape = if entry { Shape::parameter(name, at) } else { handed };
            self.variables.insert(parameter.clone(), shape);
        }
        // The crate's filtered clone does not filter into an empty module, so the others are dropped afterwards.
        let mut only = ast.clone_functions_only();
        only.retain_functions(|_, _, other, count| other == name && count == parameters.len());
        only.walk(&mut |path: &[ASTNode]| {
            self.node(path);
            true
        });
    }

    fn node(&mut self, path: &[ASTNode]) {
        match path.last() {
            Some(ASTNode::Stmt(Stmt::Var(parts, ..))) => {
                let shape = self.shape(&parts.1);
                self.bind(&parts.0.name, shape);
            }
            Some(ASTNode::Stmt(Stmt::For(parts, _))) => {
                let shape = self.shape(&parts.2.expr).element();
                self.bind(&parts.0.name, shape);
            }
            Some(ASTNode::Stmt(Stmt::Assignment(parts))) => self.assignment(&parts.1.lhs),
            Some(ASTNode::Expr(Expr::FnCall(call, _))) | Some(ASTNode::Stmt(Stmt::FnCall(call, _))) => {
                let shapes: Vec<Shape> = call.args.iter().map(|argument| self.shape(argument)).collect();
                self.learn(&call.name, &shapes);
            }
            Some(ASTNode::Expr(chain @ (Expr::Dot(..) | Expr::Index(..)))) if !continues(path) => {
                self.follow(chain, true);
            }
            _ => {}
        }
    }

    /// A second variable of one name is not told apart from the first, so nothing is known of either.
    fn bind(&mut self, name: &str, shape: Shape) {
        let known = self.variables.get(name).is_some_and(|old| *old != shape);
        self.variables.insert(name.to_owned(), if known { Shape::Value } else { shape });
    }

    /// Parameters that calls hand different things to are not known.
    fn learn(&mut self, function: &str, shapes: &[Shape]) {
        let place = (function.to_owned(), shapes.len());
        let known = self.learnt.entry(place).or_insert_with(|| shapes.to_vec());
        for (known, shape) in known.iter_mut().zip(shapes) {
            if known != shape {
                *known = Shape::Value;
            }
        }
    }

    fn assignment(&mut self, target: &Expr) {
        match target {
            Expr::Variable(..) => {
                if let Some(name) = variable(target) {
                    self.variables.insert(name.to_owned(), Shape::Value);
                }
            }
            Expr::Dot(parts, ..) | Expr::Index(parts, ..) => {
                let root = self.shape(&parts.lhs);
                if root != Shape::Value {
                    let message = format!("a {} cannot be changed", root.noun());
                    self.found.push(Diagnostic::new(Severity::Error, message, target.start_position()));
                }
            }
            _ => {}
        }
    }

    fn shape(&mut self, expr: &Expr) -> Shape {
        match expr {
            Expr::Variable(..) => {
                variable(expr).and_then(|name| self.variables.get(name)).copied().unwrap_or(Shape::Value)
            }
            Expr::Dot(..) | Expr::Index(..) => self.follow(expr, false),
            _ => Shape::Value,
        }
    }

    /// The shape at the end of a chain of fields; complains about unknown ones where it is to `tell`.
    fn follow(&mut self, chain: &Expr, tell: bool) -> Shape {
        let (parts, indexed, ends) = match chain {
            Expr::Dot(parts, flags, _) => (parts, false, flags.contains(ASTFlags::BREAK)),
            Expr::Index(parts, flags, _) => (parts, true, flags.contains(ASTFlags::BREAK)),
            other => return self.shape(other),
        };
        let root = self.shape(&parts.lhs);
        self.link(root, &parts.rhs, indexed, ends, tell)
    }

    /// One link of a chain and what follows it. The language nests them to the right: `a.b.c` is `a.(b.c)`, and
    /// `a[i].b` is `a[(i.b)]`, unless the link before ends the chain.
    fn link(&mut self, shape: Shape, link: &Expr, indexed: bool, ends: bool, tell: bool) -> Shape {
        if !ends {
            let next = match link {
                Expr::Dot(parts, flags, _) => Some((parts, false, flags.contains(ASTFlags::BREAK))),
                Expr::Index(parts, flags, _) => Some((parts, true, flags.contains(ASTFlags::BREAK))),
                _ => None,
            };
            if let Some((parts, next_indexed, next_ends)) = next {
                let middle = self.link(shape, &parts.lhs, indexed, true, tell);
                return self.link(middle, &parts.rhs, next_indexed, next_ends, tell);
            }
        }
        match link {
            _ if indexed => shape.element(),
            Expr::Property(parts, position) => self.field(shape, &parts.2, *position, tell),
            _ => Shape::Value,
        }
    }

    fn field(&mut self, shape: Shape, name: &str, position: Position, tell: bool) -> Shape {
        if shape == Shape::Settings {
            if tell && self.settings.is_some_and(|known| !known.contains(name)) {
                let message =
                    format!("the setting '{name}' is not in defaults(); where it is not given it is ()");
                self.found.push(Diagnostic::new(Severity::Warning, message, position));
            }
            return Shape::Value;
        }
        let Some(fields) = shape.fields() else { return Shape::Value };
        if let Some((_, found)) = fields.iter().find(|field| field.0 == name) {
            return *found;
        }
        if tell {
            let known: Vec<&str> = fields.iter().map(|field| field.0).collect();
            let message = format!("a {} has no field '{name}' (known: {})", shape.noun(), known.join(", "));
            self.found.push(Diagnostic::new(Severity::Error, message, position));
        }
        Shape::Value
    }
}

fn variable(expr: &Expr) -> Option<&str> {
    match expr {
        Expr::Variable(parts, ..) => Some(parts.1.as_str()),
        _ => None,
    }
}

/// Whether the last node of a path is a further link of the chain that its parent begins.
fn continues(path: &[ASTNode]) -> bool {
    let [.., ASTNode::Expr(parent), ASTNode::Expr(node)] = path else { return false };
    match parent {
        Expr::Dot(parts, flags, _) | Expr::Index(parts, flags, _) => {
            std::ptr::eq(&raw const parts.rhs, *node) && !flags.contains(ASTFlags::BREAK)
        }
        _ => false,
    }
}
