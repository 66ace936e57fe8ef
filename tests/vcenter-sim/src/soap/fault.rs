//! Faults with their typed details, for answers and for tasks.

use super::value::{MoRef, Obj, Value};

/// A fault: its typed detail and the words a person reads.
#[derive(Debug, Clone, PartialEq)]
pub struct Fault {
    /// The detail.
    pub detail: Obj,
    /// The words.
    pub message: String,
}

impl Fault {
    fn new(detail: Obj, message: impl Into<String>) -> Self {
        Self { detail, message: message.into() }
    }

    /// A wrong name or password.
    #[must_use]
    pub fn invalid_login() -> Self {
        let message = "Cannot complete login due to an incorrect user name or password.";
        Self::new(Obj::new("InvalidLogin"), message)
    }

    /// No session, or one that ended.
    #[must_use]
    pub fn not_authenticated(object: &MoRef) -> Self {
        let detail =
            Obj::new("NotAuthenticated").set("object", object.clone()).set("privilegeId", "System.View");
        Self::new(detail, "The session is not authenticated.")
    }

    /// A privilege that is missing.
    #[must_use]
    pub fn no_permission(object: &MoRef, privilege: &str) -> Self {
        let detail = Obj::new("NoPermission").set("object", object.clone()).set("privilegeId", privilege);
        Self::new(detail, "Permission to perform this operation was denied.")
    }

    /// A file that cannot be used.
    #[must_use]
    pub fn file(path: &str) -> Self {
        Self::new(Obj::new("FileFault").set("file", path), format!("Error caused by file {path}"))
    }

    /// A file that is not there.
    #[must_use]
    pub fn file_not_found(path: &str) -> Self {
        Self::new(Obj::new("FileNotFound").set("file", path), format!("File {path} was not found"))
    }

    /// A parameter with a wrong value.
    #[must_use]
    pub fn invalid_argument(property: &str) -> Self {
        let detail = Obj::new("InvalidArgument").set("invalidProperty", property);
        Self::new(detail, format!("A specified parameter was not correct: {property}"))
    }

    /// A reference to nothing.
    #[must_use]
    pub fn not_found(object: &MoRef) -> Self {
        let message = format!(
            "The object 'vim.{}:{}' has already been deleted or has not been completely created",
            object.kind, object.id
        );
        Self::new(Obj::new("ManagedObjectNotFound").set("obj", object.clone()), message)
    }

    /// Another task holds the object.
    #[must_use]
    pub fn task_in_progress(task: &MoRef) -> Self {
        let detail = Obj::new("TaskInProgress").set("task", task.clone());
        Self::new(detail, "Another task is already in progress.")
    }

    /// The guest could not be brought to rest.
    #[must_use]
    pub fn application_quiesce() -> Self {
        let message = "An error occurred while quiescing the virtual machine. See the virtual machine's event log \
                       for details.";
        Self::new(Obj::new("ApplicationQuiesceFault"), message)
    }

    /// An operation that the object's state forbids.
    #[must_use]
    pub fn invalid_state(message: &str) -> Self {
        Self::new(Obj::new("InvalidState"), message)
    }

    /// A power operation that the power state forbids.
    #[must_use]
    pub fn invalid_power_state(existing: &str, requested: &str) -> Self {
        let detail =
            Obj::new("InvalidPowerState").set("requestedState", requested).set("existingState", existing);
        let message = "The attempted operation cannot be performed in the current state (Powered on or off).";
        Self::new(detail, message)
    }

    /// An operation that this object never supports.
    #[must_use]
    pub fn not_supported(message: &str) -> Self {
        Self::new(Obj::new("NotSupported"), message)
    }

    /// A request that does not follow the schema.
    #[must_use]
    pub fn invalid_request(message: impl Into<String>) -> Self {
        Self::new(Obj::new("InvalidRequest"), message)
    }

    /// A property path that the type does not have.
    #[must_use]
    pub fn invalid_property(name: &str) -> Self {
        Self::new(Obj::new("InvalidProperty").set("name", name), format!("Invalid property: {name}"))
    }

    /// A version that the collector never gave out.
    #[must_use]
    pub fn invalid_collector_version() -> Self {
        Self::new(Obj::new("InvalidCollectorVersion"), "The version is not known to this property collector.")
    }

    /// A method that the object does not have.
    #[must_use]
    pub fn method_not_found(receiver: &MoRef, method: &str) -> Self {
        let detail = Obj::new("MethodNotFound").set("receiver", receiver.clone()).set("method", method);
        Self::new(detail, format!("The method {method} is not known to {}.", receiver.kind))
    }

    /// A failure of the simulator itself.
    #[must_use]
    pub fn system(reason: &str) -> Self {
        let detail = Obj::new("SystemError").set("reason", reason);
        Self::new(detail, format!("A general system error occurred: {reason}"))
    }

    /// The form in which a task or a missing property carries it.
    #[must_use]
    pub fn localized(&self) -> Value {
        Obj::new("LocalizedMethodFault")
            .set("fault", self.detail.clone())
            .set("localizedMessage", self.message.as_str())
            .into()
    }
}
