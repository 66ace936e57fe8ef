//! `Task`: its information.

use crate::soap::value::{MoRef, Value};
use crate::state::Vcenter;

pub(super) fn property(vcenter: &Vcenter, of: &MoRef, name: &str) -> Option<Value> {
    let task = vcenter.task(of)?;
    (name == "info").then(|| task.info().into())
}
