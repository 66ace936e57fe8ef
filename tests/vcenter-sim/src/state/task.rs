//! Tasks: queued → running → success or error, each step visible to whoever waits.

use time::OffsetDateTime;

use crate::soap::fault::Fault;
use crate::soap::value::{MoRef, Obj, Value};

/// Where a task stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskState {
    /// Accepted.
    Queued,
    /// At work.
    Running,
    /// Done.
    Success,
    /// Failed.
    Error,
}

/// A task.
#[derive(Debug, Clone)]
pub struct Task {
    /// Its reference.
    pub reference: MoRef,
    number: u32,
    method: &'static str,
    description: &'static str,
    entity: MoRef,
    entity_name: String,
    state: TaskState,
    queued: OffsetDateTime,
    started: Option<OffsetDateTime>,
    completed: Option<OffsetDateTime>,
    outcome: Option<Result<Option<Value>, Fault>>,
}

impl Task {
    /// A task that waits for its turn.
    #[must_use]
    pub fn queued(
        number: u32,
        method: &'static str,
        description: &'static str,
        entity: (MoRef, String),
    ) -> Self {
        let (entity, entity_name) = entity;
        Self {
            reference: MoRef::new("Task", format!("task-{number}")),
            number,
            method,
            description,
            entity,
            entity_name,
            state: TaskState::Queued,
            queued: OffsetDateTime::now_utc(),
            started: None,
            completed: None,
            outcome: None,
        }
    }

    /// What it works on.
    #[must_use]
    pub fn entity(&self) -> &MoRef {
        &self.entity
    }

    /// It has begun.
    pub fn begin(&mut self) {
        self.state = TaskState::Running;
        self.started = Some(OffsetDateTime::now_utc());
    }

    /// It has ended.
    pub fn end(&mut self, outcome: Result<Option<Value>, Fault>) {
        self.state = if outcome.is_ok() { TaskState::Success } else { TaskState::Error };
        self.completed = Some(OffsetDateTime::now_utc());
        self.outcome = Some(outcome);
    }

    /// The `TaskInfo` of the API.
    #[must_use]
    pub fn info(&self) -> Obj {
        let (state, progress) = match self.state {
            TaskState::Queued => ("queued", None),
            TaskState::Running => ("running", Some(50)),
            TaskState::Success => ("success", None),
            TaskState::Error => ("error", None),
        };
        let result = self.outcome.as_ref().and_then(|outcome| outcome.as_ref().ok()).cloned().flatten();
        let error = self.outcome.as_ref().and_then(|outcome| outcome.as_ref().err()).map(Fault::localized);
        Obj::new("TaskInfo")
            .set("key", self.reference.id.as_str())
            .set("task", self.reference.clone())
            .set("name", self.method)
            .set("descriptionId", self.description)
            .set("entity", self.entity.clone())
            .set("entityName", self.entity_name.as_str())
            .set("state", state)
            .set("cancelled", false)
            .set("cancelable", false)
            .set_some("error", error)
            .set_some("result", result)
            .set_some("progress", progress)
            .set("reason", Obj::new("TaskReasonUser").set("userName", "VSPHERE.LOCAL\\Administrator"))
            .set("queueTime", self.queued)
            .set_some("startTime", self.started)
            .set_some("completeTime", self.completed)
            .set("eventChainId", self.number)
    }
}
