//! `ServiceInstance`: where every client begins.

use time::OffsetDateTime;

use super::inventory::fixed;
use super::{Call, Reply};
use crate::soap::fault::Fault;
use crate::soap::value::{Obj, Value};
use crate::state::Vcenter;

/// What `/sdk/vimServiceVersions.xml` says, newest first.
pub const VERSIONS: [&str; 14] = [
    "8.0.3.0", "8.0.2.0", "8.0.1.0", "8.0.0.1", "7.0.3.2", "7.0.3.0", "7.0.2.0", "7.0.1.0", "7.0.0.0",
    "6.7.3", "6.7", "6.5", "6.0", "5.5",
];

pub(super) fn call(call: &Call) -> Result<Reply, Fault> {
    match call.method {
        "RetrieveServiceContent" => Ok(Reply::Value(content())),
        "CurrentTime" => Ok(Reply::Value(OffsetDateTime::now_utc().into())),
        method => Err(Fault::method_not_found(call.this, method)),
    }
}

pub(super) fn property(_vcenter: &Vcenter, name: &str) -> Option<Value> {
    match name {
        "content" => Some(content()),
        "serverClock" => Some(OffsetDateTime::now_utc().into()),
        _ => None,
    }
}

fn content() -> Value {
    Obj::new("ServiceContent")
        .set("rootFolder", fixed("group-d1"))
        .set("propertyCollector", fixed("propertyCollector"))
        .set("viewManager", fixed("ViewManager"))
        .set("about", about())
        .set("sessionManager", fixed("SessionManager"))
        .set("authorizationManager", fixed("AuthorizationManager"))
        .set("taskManager", fixed("TaskManager"))
        .set("searchIndex", fixed("SearchIndex"))
        .into()
}

fn about() -> Obj {
    Obj::new("AboutInfo")
        .set("name", "VMware vCenter Server")
        .set("fullName", "VMware vCenter Server 8.0.3 (simulated by Tidemark)")
        .set("vendor", "VMware, Inc.")
        .set("version", "8.0.3")
        .set("build", "0")
        .set("localeVersion", "INTL")
        .set("localeBuild", "000")
        .set("osType", "linux-x64")
        .set("productLineId", "vpx")
        .set("apiType", "VirtualCenter")
        .set("apiVersion", "8.0.3.0")
        .set("instanceUuid", "3f1f5d2e-6d0c-4a57-9b39-0c5a7b1e2d40")
        .set("licenseProductName", "VMware VirtualCenter Server")
        .set("licenseProductVersion", "8.0")
}
