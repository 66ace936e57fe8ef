//! What goes wrong with a script, and where.

use std::fmt;

use rhai::{Dynamic, EvalAltResult, ParseError, Position};

/// What kind of failure it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ScriptErrorKind {
    /// The text is no script, or calls what is not on offer.
    Compile,
    /// A function that the kind of policy must have is missing or has the wrong parameters.
    Entry,
    /// The script threw, or used a value for what it is not.
    Runtime,
    /// It needed more than it may: operations, depth, memory.
    Limit,
    /// It needed more time than it may. The only kind that may go away by itself, on a less busy host.
    Deadline,
    /// It answered what is no answer.
    Answer,
    /// Its settings or its time zone cannot be read.
    Settings,
}

impl ScriptErrorKind {
    /// Whether the same evaluation may succeed later.
    #[must_use]
    pub fn retry_helps(self) -> bool {
        self == Self::Deadline
    }
}

/// A script that could not decide. The caller then keeps everything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScriptError {
    /// Which kind of failure.
    pub kind: ScriptErrorKind,
    /// What happened, in words, without the place.
    pub message: String,
    /// The line, from 1, where there is one.
    pub line: Option<usize>,
    /// The column, from 1, in characters.
    pub column: Option<usize>,
}

impl fmt::Display for ScriptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.line, self.column) {
            (Some(line), Some(column)) => write!(f, "line {line}, column {column}: {}", self.message),
            (Some(line), None) => write!(f, "line {line}: {}", self.message),
            _ => f.write_str(&self.message),
        }
    }
}

impl std::error::Error for ScriptError {}

impl ScriptError {
    pub(super) fn new(kind: ScriptErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), line: None, column: None }
    }

    pub(super) fn at(mut self, position: Position) -> Self {
        (self.line, self.column) = (position.line(), position.position());
        self
    }

    /// The same, told about one of many: `what` says which.
    pub(super) fn about(mut self, what: &str) -> Self {
        self.message = format!("{} ({what})", self.message);
        self
    }

    pub(super) fn from_parse(error: &ParseError) -> Self {
        Self::new(ScriptErrorKind::Compile, error.err_type().to_string()).at(error.position())
    }

    /// The innermost error tells what happened and where; the calls around it are left out.
    pub(super) fn from_eval(error: Box<EvalAltResult>) -> Self {
        let mut outer = Position::NONE;
        let mut error = error;
        while let EvalAltResult::ErrorInFunctionCall(_, _, inner, position) = *error {
            outer = if position.is_none() { outer } else { position };
            error = inner;
        }
        let inner = error.take_position();
        let kind = match *error {
            EvalAltResult::ErrorTooManyOperations(..)
            | EvalAltResult::ErrorTooManyVariables(..)
            | EvalAltResult::ErrorStackOverflow(..)
            | EvalAltResult::ErrorDataTooLarge(..) => ScriptErrorKind::Limit,
            EvalAltResult::ErrorTerminated(..) => ScriptErrorKind::Deadline,
            _ => ScriptErrorKind::Runtime,
        };
        let message = match *error {
            EvalAltResult::ErrorRuntime(value, _) => match value.try_cast_result::<Refusal>() {
                Ok(Refusal(message)) => message,
                Err(thrown) => format!("the script threw: {thrown}"),
            },
            EvalAltResult::ErrorTerminated(..) => "the script took longer than it may".to_owned(),
            other => other.to_string(),
        };
        Self::new(kind, message).at(if inner.is_none() { outer } else { inner })
    }
}

/// What a host function throws; scripts may catch it like any other.
#[derive(Debug, Clone)]
pub(super) struct Refusal(pub(super) String);

/// Refuses a call of a host function.
pub(super) fn refuse<T>(message: impl Into<String>) -> Result<T, Box<EvalAltResult>> {
    // Of all kinds of errors only this one is given the place of the call.
    Err(EvalAltResult::ErrorRuntime(Dynamic::from(Refusal(message.into())), Position::NONE).into())
}
