//! The managed objects, one file a kind, and the way from a request to the right one.
//!
//! Order of the checks, as in vCenter: the request's form, the session, the object, the privilege, the method.

pub mod authorization_manager;
pub mod containers;
pub mod datastore;
pub mod host;
pub mod inventory;
pub mod property_collector;
pub mod search_index;
pub mod service_instance;
pub mod session_manager;
pub mod snapshot;
pub mod task;
pub mod view;
pub mod virtual_machine;

use crate::soap::fault::Fault;
use crate::soap::request::{Args, Operation, Request};
use crate::soap::schema::{MethodDef, TypeRef, schema};
use crate::soap::value::{MoRef, Value};
use crate::state::faults::FaultName;
use crate::state::task::Task;
use crate::state::{Effect, Simulator, Vcenter};
use property_collector::wait::Wait;

/// A method call on its way.
pub struct Call<'a> {
    /// The handle, for tasks.
    pub simulator: &'a Simulator,
    /// The state, locked.
    pub vcenter: &'a mut Vcenter,
    /// The caller's session; its absence was checked already where the method needs one.
    pub session: Option<String>,
    /// The object.
    pub this: &'a MoRef,
    /// The method.
    pub method: &'static str,
    /// Its arguments.
    pub args: Args<'a>,
}

/// What a method answers.
pub enum Reply {
    /// Nothing.
    Void,
    /// A value of the declared result type.
    Value(Value),
    /// An update set, once there is one.
    Wait(Wait),
    /// A value, with the cookie of the session that was opened.
    LoggedIn(Value, String),
}

/// What a request comes to.
pub enum Outcome {
    /// An answer.
    Done {
        /// The operation's name.
        method: String,
        /// The value and its declared type.
        value: Option<(TypeRef, Value)>,
        /// The cookie of a new session.
        cookie: Option<String>,
    },
    /// An answer later.
    Wait(Wait),
}

impl Call<'_> {
    /// The key of the caller's session.
    ///
    /// # Errors
    /// `NotAuthenticated` when there is none.
    pub fn session_key(&self) -> Result<String, Fault> {
        self.session.clone().ok_or_else(|| Fault::not_authenticated(self.this))
    }

    /// Queues a task on the object; a fault switch for this method makes it fail when its turn comes.
    pub fn start(&mut self, description: &'static str, effect: Effect) -> Reply {
        let forced = forced_fault(self.vcenter, self.method, self.this);
        let effect: Effect = match forced {
            Some(fault) => Box::new(move |_| Err(fault)),
            None => effect,
        };
        let name = self.vcenter.vm(self.this).map(|vm| vm.name.clone()).unwrap_or_default();
        let number = self.vcenter.take_id();
        let task = Task::queued(number, self.method, description, (self.this.clone(), name));
        Reply::Value(self.simulator.start_task(self.vcenter, task, effect).into())
    }
}

/// The fault that a switch has in store for this method, if any.
fn forced_fault(vcenter: &mut Vcenter, method: &str, this: &MoRef) -> Option<Fault> {
    let file = vcenter.vm(this).and_then(|vm| vm.disks.first()).map(|disk| disk.file.clone());
    let path = format!("[{}] {}", vcenter.settings.datastore, file.unwrap_or_default());
    let mut strikes = |name| vcenter.faults.strikes(name, method);
    if strikes(FaultName::FileFault) {
        Some(Fault::file(&path))
    } else if strikes(FaultName::InvalidArgument) {
        Some(Fault::invalid_argument("changeId"))
    } else if strikes(FaultName::InvalidState) {
        Some(Fault::invalid_state("The operation is not allowed in the current state."))
    } else if strikes(FaultName::TaskInProgress) {
        Some(Fault::task_in_progress(&MoRef::new("Task", "task-0")))
    } else {
        None
    }
}

/// Carries a request out for the session of `cookie`.
///
/// # Errors
/// The fault to answer.
pub fn dispatch(simulator: &Simulator, cookie: Option<&str>, request: &Request) -> Result<Outcome, Fault> {
    let mut guard = simulator.lock();
    let vcenter = &mut *guard;
    let session = cookie.and_then(|cookie| vcenter.sessions.touch(cookie));
    let Operation::Method(method) = request.operation else {
        let session = admit(vcenter, session, &request.this, "Fetch", Some("System.View"))?;
        return fetch(vcenter, session.as_deref(), request);
    };
    let session = admit(vcenter, session, &request.this, method.name, method.privilege)?;
    if method.privilege != Some("System.Anonymous") && !inventory::exists(vcenter, &request.this) {
        return Err(Fault::not_found(&request.this));
    }
    permit(vcenter, &request.this, method)?;
    // What a switch has in store for a task strikes when the task runs.
    if !method.name.ends_with("_Task")
        && let Some(fault) = forced_fault(vcenter, method.name, &request.this)
    {
        return Err(fault);
    }
    let call =
        Call { simulator, vcenter, session, this: &request.this, method: method.name, args: request.args };
    let (value, cookie) = match route(call)? {
        Reply::Void => (None, None),
        Reply::Value(value) => (Some(value), None),
        Reply::LoggedIn(value, cookie) => (Some(value), Some(cookie)),
        Reply::Wait(wait) => return Ok(Outcome::Wait(wait)),
    };
    drop(guard);
    simulator.notify();
    let value = value.zip(method.result).map(|(value, ty)| (ty, value));
    Ok(Outcome::Done { method: method.name.to_owned(), value, cookie })
}

/// Lets a caller with a session through, and anybody to the methods for anybody.
fn admit(
    vcenter: &mut Vcenter,
    session: Option<String>,
    this: &MoRef,
    method: &str,
    privilege: Option<&str>,
) -> Result<Option<String>, Fault> {
    if let Some(key) = &session {
        let login = matches!(method, "Login" | "Logout" | "RetrieveServiceContent");
        if !login && vcenter.faults.strikes(FaultName::NotAuthenticated, method) {
            vcenter.sessions.end(key);
            return Err(Fault::not_authenticated(this));
        }
        return Ok(session);
    }
    let open_object = matches!(this.kind.as_str(), "ServiceInstance" | "SessionManager") && method == "Fetch";
    if privilege == Some("System.Anonymous") || open_object || method == "CurrentTime" {
        return Ok(None);
    }
    Err(Fault::not_authenticated(this))
}

fn permit(vcenter: &Vcenter, this: &MoRef, method: &MethodDef) -> Result<(), Fault> {
    let needed = match method.name {
        "ReconfigVM_Task" => Some("VirtualMachine.Config.ChangeTracking"),
        _ => method.privilege,
    };
    match needed {
        Some(privilege) if !authorization_manager::granted(vcenter, privilege) => {
            Err(Fault::no_permission(this, privilege))
        }
        _ => Ok(()),
    }
}

/// Reads one property, the way pyvmomi reads attributes.
fn fetch(vcenter: &Vcenter, session: Option<&str>, request: &Request) -> Result<Outcome, Fault> {
    if !inventory::exists(vcenter, &request.this) {
        return Err(Fault::not_found(&request.this));
    }
    let name = request.args.text("prop");
    let definition = schema().get(&request.this.kind).and_then(|definition| definition.field(name));
    let field = definition.ok_or_else(|| Fault::invalid_property(name))?;
    let value = inventory::property(vcenter, session, &request.this, field.name);
    let value = value.map(|value| (field.ty, value));
    Ok(Outcome::Done { method: "Fetch".to_owned(), value, cookie: None })
}

fn route(call: Call) -> Result<Reply, Fault> {
    match call.this.kind.as_str() {
        "ServiceInstance" => service_instance::call(&call),
        "SessionManager" => session_manager::call(call),
        "AuthorizationManager" => authorization_manager::call(&call),
        "ViewManager" | "ContainerView" => view::call(call),
        "SearchIndex" => search_index::call(&call),
        "VirtualMachine" => virtual_machine::methods::call(call),
        "VirtualMachineSnapshot" => snapshot::call(call),
        "HostDatastoreBrowser" => datastore::call(call),
        "PropertyCollector" | "PropertyFilter" => property_collector::call(call),
        _ => Err(Fault::not_supported("This object has no methods in the simulator.")),
    }
}

#[cfg(test)]
mod tests;
