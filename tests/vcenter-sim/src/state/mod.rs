//! The simulated vCenter: what exists in it, behind one lock, with a signal for those who wait for changes.
//!
//! The lock is held for memory work only. A disk has its own lock, taken inside this one or alone, never around it.

mod events;
pub mod faults;
pub mod machine;
pub mod session;
pub mod task;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use crate::objects::property_collector::Collectors;
use crate::objects::view::ContainerView;
use crate::soap::fault::Fault;
use crate::soap::value::{MoRef, Value};
use faults::FaultSwitches;
use machine::{Snapshot, Vm};
use session::Sessions;
use task::Task;

/// How the simulator behaves.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Who may log in.
    pub username: String,
    /// With which password.
    pub password: String,
    /// When an idle session ends.
    pub session_idle: Duration,
    /// How long a task stays in each of its states before it is done.
    pub task_step: Duration,
    /// The most changed areas on a page.
    pub areas_per_page: usize,
    /// The most objects on a page of properties, whatever the client asks.
    pub objects_per_page: usize,
    /// The name of the datacenter.
    pub datacenter: String,
    /// The name of the datastore.
    pub datastore: String,
}

/// Everything in the vCenter.
#[derive(Debug)]
pub struct Vcenter {
    /// How it behaves.
    pub settings: Settings,
    /// The VMs.
    pub vms: Vec<Vm>,
    /// The sessions.
    pub sessions: Sessions,
    /// What is to go wrong.
    pub faults: FaultSwitches,
    /// The tasks.
    pub tasks: Vec<Task>,
    /// The views, with the key of the session that owns each.
    pub views: HashMap<String, ContainerView>,
    /// The property collectors.
    pub collectors: Collectors,
    next_id: u32,
}

/// A VM and one of its snapshots.
pub type SnapshotOf<'a> = (&'a Vm, &'a Snapshot);

impl Vcenter {
    /// A vCenter with these VMs.
    #[must_use]
    pub fn new(settings: Settings, vms: Vec<Vm>) -> Self {
        Self {
            sessions: Sessions::new(settings.session_idle),
            settings,
            vms,
            faults: FaultSwitches::default(),
            tasks: Vec::new(),
            views: HashMap::new(),
            collectors: Collectors::default(),
            next_id: 1,
        }
    }

    /// A number that was not given out before.
    pub fn take_id(&mut self) -> u32 {
        let id = self.next_id;
        self.next_id += 1;
        id
    }

    /// The VM of that reference.
    #[must_use]
    pub fn vm(&self, reference: &MoRef) -> Option<&Vm> {
        self.vms.iter().find(|vm| vm.reference == *reference)
    }

    /// The VM of that reference, to change it.
    ///
    /// # Errors
    /// `ManagedObjectNotFound`.
    pub fn vm_mut(&mut self, reference: &MoRef) -> Result<&mut Vm, Fault> {
        let found = self.vms.iter_mut().find(|vm| vm.reference == *reference);
        found.ok_or_else(|| Fault::not_found(reference))
    }

    /// The VM of that name.
    #[must_use]
    pub fn vm_named(&self, name: &str) -> Option<&Vm> {
        self.vms.iter().find(|vm| vm.name == name)
    }

    /// A snapshot and its VM.
    #[must_use]
    pub fn snapshot(&self, reference: &MoRef) -> Option<SnapshotOf<'_>> {
        self.vms.iter().find_map(|vm| vm.snapshot(reference).map(|snapshot| (vm, snapshot)))
    }

    /// The task of that reference.
    #[must_use]
    pub fn task(&self, reference: &MoRef) -> Option<&Task> {
        self.tasks.iter().find(|task| task.reference == *reference)
    }

    fn task_mut(&mut self, reference: &MoRef) -> Option<&mut Task> {
        self.tasks.iter_mut().find(|task| task.reference == *reference)
    }
}

/// What a task does when its turn comes.
pub type Effect = Box<dyn FnOnce(&mut Vcenter) -> Result<Option<Value>, Fault> + Send>;

/// A handle on the vCenter.
#[derive(Debug, Clone)]
pub struct Simulator {
    state: Arc<Mutex<Vcenter>>,
    changed: Arc<watch::Sender<u64>>,
}

impl Simulator {
    /// Starts one.
    #[must_use]
    pub fn new(vcenter: Vcenter) -> Self {
        Self { state: Arc::new(Mutex::new(vcenter)), changed: Arc::new(watch::channel(0).0) }
    }

    /// The state, locked.
    pub fn lock(&self) -> MutexGuard<'_, Vcenter> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes those who wait for changes.
    pub fn notify(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    /// Hears of changes from now on.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Queues a task and sets it going in the background.
    pub fn start_task(&self, vcenter: &mut Vcenter, task: Task, effect: Effect) -> MoRef {
        let reference = task.reference.clone();
        vcenter.tasks.push(task);
        let (simulator, step) = (self.clone(), vcenter.settings.task_step);
        let running = reference.clone();
        tokio::spawn(async move {
            tokio::time::sleep(step).await;
            let began = simulator.begin(&running);
            tokio::time::sleep(step).await;
            simulator.finish(&running, began, effect);
        });
        reference
    }

    /// The task takes its VM, unless another one holds it.
    fn begin(&self, reference: &MoRef) -> Result<(), Fault> {
        let mut vcenter = self.lock();
        let entity = vcenter.task_mut(reference).map(|task| {
            task.begin();
            task.entity().clone()
        });
        let vm = entity.and_then(|entity| vcenter.vms.iter_mut().find(|vm| vm.reference == entity));
        let held = match vm {
            Some(vm) => match &vm.busy {
                Some(other) => Err(Fault::task_in_progress(other)),
                None => {
                    vm.busy = Some(reference.clone());
                    Ok(())
                }
            },
            None => Ok(()),
        };
        drop(vcenter);
        self.notify();
        held
    }

    fn finish(&self, reference: &MoRef, began: Result<(), Fault>, effect: Effect) {
        let mut vcenter = self.lock();
        let outcome = began.and_then(|()| effect(&mut vcenter));
        for vm in vcenter.vms.iter_mut().filter(|vm| vm.busy.as_ref() == Some(reference)) {
            vm.busy = None;
        }
        if let Some(task) = vcenter.task_mut(reference) {
            task.end(outcome);
        }
        drop(vcenter);
        self.notify();
    }
}
