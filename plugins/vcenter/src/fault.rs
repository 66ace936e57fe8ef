//! SOAP faults and task errors, and what they mean in the contract's words.

use tidemark_plugin::{Error, ErrorKind};

use crate::xml::Element;

/// A fault of vim25, as the answer to a request or as the error of a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    /// The type's name, for example `NotAuthenticated`.
    pub(crate) kind: String,
    /// The server's words.
    pub(crate) message: String,
    body: Element,
}

/// `FileFault` and everything that is one.
const FILE_FAULTS: [&str; 19] = [
    "FileFault",
    "CannotAccessFile",
    "CannotCreateFile",
    "CannotDeleteFile",
    "DirectoryNotEmpty",
    "FileAlreadyExists",
    "FileLocked",
    "FileNameTooLong",
    "FileNotFound",
    "FileNotWritable",
    "FileTooLarge",
    "IncorrectFileType",
    "NetworkCopyFault",
    "NoDiskSpace",
    "NotADirectory",
    "NotAFile",
    "TooManyConcurrentNativeClones",
    "TooManyNativeCloneLevels",
    "TooManyNativeClonesOnFile",
];

impl Fault {
    /// From `<soapenv:Fault>`.
    pub(crate) fn from_soap(element: &Element) -> Self {
        let message = element.text_of("faultstring").unwrap_or_default().to_owned();
        let body =
            element.child("detail").and_then(|detail| detail.children.first()).cloned().unwrap_or_default();
        // The type is in `xsi:type`; servers that leave it out name the element `<Type>Fault`.
        let kind = match (body.xsi_type.as_str(), body.name.strip_suffix("Fault")) {
            ("", Some("File" | "Snapshot" | "ApplicationQuiesce" | "FilesystemQuiesce")) => body.name.clone(),
            ("", Some(name)) if !name.is_empty() => name.to_owned(),
            ("", _) => element.text_of("faultcode").unwrap_or("unknown").to_owned(),
            (xsi_type, _) => xsi_type.to_owned(),
        };
        Self { kind, message, body }
    }

    /// From the `error` of a task, a `LocalizedMethodFault`.
    pub(crate) fn from_task(error: &Element) -> Self {
        let body = error.child("fault").cloned().unwrap_or_default();
        let message = error.text_of("localizedMessage").unwrap_or_default().to_owned();
        Self { kind: body.xsi_type.clone(), message, body }
    }

    pub(crate) fn is(&self, kind: &str) -> bool {
        self.kind == kind
    }

    /// Whether the fault is a `FileFault` or one of its kinds.
    pub(crate) fn is_file_fault(&self) -> bool {
        FILE_FAULTS.contains(&self.kind.as_str())
    }

    /// Whether the guest could not be quiesced.
    pub(crate) fn is_quiesce_fault(&self) -> bool {
        matches!(self.kind.as_str(), "ApplicationQuiesceFault" | "FilesystemQuiesceFault")
    }

    /// The fault as the contract's error, `doing` being what failed.
    pub(crate) fn to_error(&self, doing: &str) -> Error {
        let kind = match self.kind.as_str() {
            "InvalidLogin" | "NoPermission" | "NotAuthenticated" | "InvalidLocale" | "PasswordExpired" => {
                ErrorKind::Auth
            }
            "ManagedObjectNotFound" | "NotFound" | "FileNotFound" => ErrorKind::NotFound,
            "TaskInProgress" | "ConcurrentAccess" | "FileLocked" | "SnapshotLocked" | "InvalidState"
            | "InvalidPowerState" | "InvalidVmState" | "InvalidHostState" | "QuestionPending" => {
                ErrorKind::Conflict
            }
            "NotSupported"
            | "NotImplemented"
            | "MethodNotFound"
            | "RestrictedVersion"
            | "SnapshotDisabled"
            | "MultipleSnapshotsNotSupported"
            | "SnapshotIncompatibleDeviceInVm"
            | "TooManySnapshotLevels"
            | "MemorySnapshotOnIndependentDisk" => ErrorKind::Unsupported,
            "HostCommunication"
            | "HostNotConnected"
            | "HostNotReachable"
            | "SystemError"
            | "Timedout"
            | "SystemErrorFault"
            | "NoDiskSpace"
            | "InsufficientResourcesFault" => ErrorKind::Unavailable,
            _ => ErrorKind::Other("vim-fault".to_owned()),
        };
        Error::new(kind, format!("{doing}: {}", self.words()))
    }

    fn words(&self) -> String {
        let said = if self.message.is_empty() { String::new() } else { format!(": {}", self.message) };
        match self.kind.as_str() {
            "NoPermission" => {
                let privilege = self.body.text_of("privilegeId").unwrap_or("a privilege it does not name");
                let object =
                    self.body.ref_of("object").map_or_else(|| "the object".to_owned(), |object| object.id);
                format!("the user lacks the privilege {privilege} on {object} (NoPermission{said})")
            }
            "InvalidLogin" => format!("the user name or password is wrong (InvalidLogin{said})"),
            "ManagedObjectNotFound" => {
                let object =
                    self.body.ref_of("obj").map_or_else(|| "an object".to_owned(), |object| object.id);
                format!("{object} does not exist any more (ManagedObjectNotFound{said})")
            }
            "InvalidArgument" => {
                let property = self.body.text_of("invalidProperty").unwrap_or("an argument");
                format!("the server does not accept {property} (InvalidArgument{said})")
            }
            "" => format!("the server failed without naming a fault{said}"),
            kind => format!("{kind}{said}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn soap(detail: &str) -> Fault {
        let text = format!(
            "<Fault xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\"><faultcode>ServerFaultCode</faultcode>\
             <faultstring>words</faultstring><detail>{detail}</detail></Fault>"
        );
        Fault::from_soap(&Element::parse(&text).unwrap())
    }

    #[test]
    fn the_type_is_found_with_and_without_xsi_type() {
        let fault = soap("<NotAuthenticatedFault xsi:type=\"vim25:NotAuthenticated\"/>");
        assert!(fault.is("NotAuthenticated"));
        assert!(soap("<FileFaultFault/>").is_file_fault());
        assert!(soap("<x xsi:type=\"FileLocked\"/>").is_file_fault());
        assert!(soap("").is("ServerFaultCode"));
    }

    #[test]
    fn a_missing_privilege_is_named_with_its_object() {
        let fault = soap(
            "<NoPermissionFault xsi:type=\"NoPermission\"><object type=\"VirtualMachine\">vm-7</object>\
             <privilegeId>VirtualMachine.State.CreateSnapshot</privilegeId></NoPermissionFault>",
        );
        let error = fault.to_error("taking a snapshot");
        assert_eq!(error.kind, ErrorKind::Auth);
        assert!(error.message.contains("VirtualMachine.State.CreateSnapshot on vm-7"), "{}", error.message);
    }

    #[test]
    fn kinds_map_to_the_contract() {
        for (fault, kind) in [
            ("InvalidLogin", ErrorKind::Auth),
            ("ManagedObjectNotFound", ErrorKind::NotFound),
            ("TaskInProgress", ErrorKind::Conflict),
            ("NotSupported", ErrorKind::Unsupported),
            ("HostNotConnected", ErrorKind::Unavailable),
            ("SomethingNew", ErrorKind::Other("vim-fault".into())),
        ] {
            assert_eq!(soap(&format!("<f xsi:type=\"{fault}\"/>")).to_error("x").kind, kind, "{fault}");
        }
    }
}
