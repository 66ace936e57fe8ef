//! The scripted server: answers in order, each for the method it expects. An unexpected call fails the test, and so
//! does an answer that nobody asked for.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use tidemark_plugin::connector::Connector;
use tidemark_plugin::http::{Part, Request, Response};
use tidemark_plugin::{Error, Result};

use crate::VCenter;
use crate::wire::Wire;

pub(super) const SETTINGS: &str = r#"{"host":"vc.example","username":"backup@vsphere.local","transport":"nbd",
    "nbd_url":"nbd://10.0.0.9:10809/","thumbprint":"00:11:22:33:44:55:66:77:88:99:aa:bb:cc:dd:ee:ff:00:11:22:33"}"#;

enum Answer {
    Body(String),
    Fault(String),
    Dead,
}

struct Step {
    method: String,
    contains: Vec<String>,
    answer: Answer,
}

#[derive(Default)]
pub(super) struct Tape {
    steps: VecDeque<Step>,
    pub(super) slept_ms: u64,
    pub(super) requests: Vec<Request>,
}

/// The test's end of the script.
#[derive(Clone, Default)]
pub(super) struct Script(Rc<RefCell<Tape>>);

impl Script {
    /// A script that begins with a successful login.
    pub(super) fn logged_in() -> Self {
        Self::default().login("1")
    }

    pub(super) fn login(self, number: &str) -> Self {
        self.answers("RetrieveServiceContent", &[], &content("7.0.3")).answers(
            "Login",
            &["<userName>backup@vsphere.local</userName>", "{password}"],
            &user_session(number),
        )
    }

    /// The next call has to be `method`, hold these texts, and is answered with `<returnval>`s (or nothing).
    pub(super) fn answers(self, method: &str, contains: &[&str], body: &str) -> Self {
        self.step(method, contains, Answer::Body(body.to_owned()))
    }

    pub(super) fn faults(self, method: &str, contains: &[&str], kind: &str) -> Self {
        let detail = format!("<{kind}Fault xmlns=\"urn:vim25\" xsi:type=\"{kind}\"/>");
        self.step(method, contains, Answer::Fault(detail))
    }

    pub(super) fn dies(self, method: &str) -> Self {
        self.step(method, &[], Answer::Dead)
    }

    fn step(self, method: &str, contains: &[&str], answer: Answer) -> Self {
        let contains = contains.iter().map(|&text| text.to_owned()).collect();
        self.0.borrow_mut().steps.push_back(Step { method: method.to_owned(), contains, answer });
        self
    }

    pub(super) fn connect(&self) -> VCenter {
        self.connect_with(SETTINGS)
    }

    pub(super) fn connect_with(&self, settings: &str) -> VCenter {
        VCenter::with_wire(settings, Box::new(self.clone())).unwrap()
    }

    pub(super) fn tape(&self) -> std::cell::Ref<'_, Tape> {
        self.0.borrow()
    }

    /// Every answer was asked for.
    pub(super) fn is_played(&self) {
        let left: Vec<String> = self.0.borrow().steps.iter().map(|step| step.method.clone()).collect();
        assert!(left.is_empty(), "never asked for: {left:?}");
    }
}

impl Wire for Script {
    fn send(&mut self, request: &Request) -> Result<Response> {
        let mut tape = self.0.borrow_mut();
        tape.requests.push(request.clone());
        let text = readable(request);
        let step = tape.steps.pop_front().unwrap_or_else(|| panic!("nothing more was expected: {text}"));
        assert!(
            text.contains(&format!("<{} xmlns=\"urn:vim25\">", step.method)),
            "not {}: {text}",
            step.method
        );
        for wanted in &step.contains {
            assert!(text.contains(wanted.as_str()), "{} without {wanted}: {text}", step.method);
        }
        let envelope = |body: &str| {
            format!(
                "<?xml version=\"1.0\"?><soapenv:Envelope xmlns:soapenv=\"http://schemas.xmlsoap.org/soap/envelope/\" \
                 xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\"><soapenv:Body>{body}</soapenv:Body>\
                 </soapenv:Envelope>"
            )
        };
        let (status, body) = match step.answer {
            Answer::Dead => return Err(Error::unavailable("connection reset")),
            Answer::Body(body) => {
                (200, format!("<{0}Response xmlns=\"urn:vim25\">{body}</{0}Response>", step.method))
            }
            Answer::Fault(detail) => (
                500,
                format!(
                    "<soapenv:Fault><faultcode>ServerFaultCode</faultcode><faultstring>scripted</faultstring>\
                     <detail>{detail}</detail></soapenv:Fault>"
                ),
            ),
        };
        let logins = tape.requests.iter().filter(|request| readable(request).contains("<Login ")).count();
        let mut headers = Vec::new();
        if step.method == "Login" {
            headers.push((
                "Set-Cookie".to_owned(),
                format!("vmware_soap_session=\"s{logins}\"; Path=/; Secure"),
            ));
        }
        Ok(Response { status, headers, body: envelope(&body).into_bytes() })
    }

    fn sleep_ms(&mut self, duration: u64) {
        self.0.borrow_mut().slept_ms += duration;
    }

    fn monotonic_ms(&mut self) -> u64 {
        self.0.borrow().slept_ms
    }
}

/// The request's body with `{name}` where a secret goes.
pub(super) fn readable(request: &Request) -> String {
    let parts = request.body.iter().map(|part| match part {
        Part::Bytes(bytes) => String::from_utf8(bytes.clone()).unwrap(),
        Part::Secret(secret) => format!("{{{}}}", secret.name),
    });
    parts.collect()
}

pub(super) fn content(api: &str) -> String {
    format!(
        "<returnval><rootFolder type=\"Folder\">group-d1</rootFolder>\
         <propertyCollector type=\"PropertyCollector\">propertyCollector</propertyCollector>\
         <viewManager type=\"ViewManager\">ViewManager</viewManager>\
         <about><name>VMware vCenter Server</name><fullName>VMware vCenter Server build-1</fullName>\
         <version>8.0.3</version><build>1</build><instanceUuid>3f1f5d2e-0000</instanceUuid>\
         <apiType>VirtualCenter</apiType><apiVersion>{api}</apiVersion></about>\
         <sessionManager type=\"SessionManager\">SessionManager</sessionManager>\
         <authorizationManager type=\"AuthorizationManager\">AuthorizationManager</authorizationManager>\
         <searchIndex type=\"SearchIndex\">SearchIndex</searchIndex></returnval>"
    )
}

fn user_session(number: &str) -> String {
    format!("<returnval><key>session-{number}</key><userName>backup</userName></returnval>")
}

pub(super) fn property(name: &str, kind: &str, value: &str) -> String {
    format!("<propSet><name>{name}</name><val xsi:type=\"{kind}\">{value}</val></propSet>")
}

pub(super) fn object(kind: &str, id: &str, properties: &str) -> String {
    format!("<objects><obj type=\"{kind}\">{id}</obj>{properties}</objects>")
}

pub(super) fn page(objects: &str, token: Option<&str>) -> String {
    let token = token.map(|token| format!("<token>{token}</token>")).unwrap_or_default();
    format!("<returnval>{token}{objects}</returnval>")
}

/// A disk of 1 MiB on a flat file; `backing` adds to the backing.
pub(super) fn disk(key: u32, file: &str, backing: &str) -> String {
    typed_disk(key, "VirtualDiskFlatVer2BackingInfo", file, backing)
}

pub(super) fn typed_disk(key: u32, kind: &str, file: &str, backing: &str) -> String {
    format!(
        "<VirtualDevice xsi:type=\"VirtualDisk\"><key>{key}</key><deviceInfo xsi:type=\"Description\">\
         <label>Hard disk {}</label><summary>x</summary></deviceInfo>\
         <backing xsi:type=\"{kind}\"><fileName>{file}</fileName><datastore type=\"Datastore\">datastore-5</datastore>\
         {backing}</backing><capacityInKB>1024</capacityInKB><capacityInBytes>1048576</capacityInBytes>\
         </VirtualDevice>",
        key - 1999
    )
}

pub(super) fn devices(disks: &str) -> String {
    let controller = "<VirtualDevice xsi:type=\"ParaVirtualSCSIController\"><key>1000</key></VirtualDevice>";
    property("config.hardware.device", "ArrayOfVirtualDevice", &format!("{controller}{disks}"))
}

pub(super) fn snapshot_tree(nodes: &[(&str, &str)]) -> String {
    let nodes: String = nodes
        .iter()
        .map(|(id, description)| {
            format!(
                "<rootSnapshotList><snapshot type=\"VirtualMachineSnapshot\">{id}</snapshot><name>n-{id}</name>\
                 <description>{description}</description><quiesced>true</quiesced></rootSnapshotList>"
            )
        })
        .collect();
    property("snapshot", "VirtualMachineSnapshotInfo", &nodes)
}

/// A machine named `web` with these disks and snapshots.
pub(super) fn machine(id: &str, disks: &str, more: &str) -> String {
    let properties = [
        property("name", "xsd:string", "web"),
        property("config.template", "xsd:boolean", "false"),
        property("config.guestFullName", "xsd:string", "Debian"),
        property("runtime.powerState", "VirtualMachinePowerState", "poweredOn"),
        devices(disks),
        more.to_owned(),
    ];
    object("VirtualMachine", id, &properties.concat())
}

pub(super) fn task_answer() -> &'static str {
    "<returnval type=\"Task\">task-9</returnval>"
}

pub(super) fn task(state: &str, more: &str) -> String {
    let info = format!("<key>task-9</key><state>{state}</state>{more}");
    page(&object("Task", "task-9", &property("info", "TaskInfo", &info)), None)
}

pub(super) fn task_error(kind: &str) -> String {
    let error = format!(
        "<error><fault xsi:type=\"{kind}\"/><localizedMessage>{kind} happened</localizedMessage></error>"
    );
    task("error", &error)
}

/// The sum of all calls of `list_vms` until its end.
pub(super) fn list_all(vcenter: &mut VCenter, limit: u32) -> Vec<String> {
    let (mut names, mut cursor) = (Vec::new(), None);
    loop {
        let page = vcenter.list_vms(cursor.as_deref(), limit).unwrap();
        names.extend(page.vms.into_iter().map(|vm| vm.key));
        assert_ne!(page.next, cursor.clone().or(Some(String::new())));
        match page.next {
            Some(next) => cursor = Some(next),
            None => return names,
        }
    }
}
