//! The envelopes of answers.

use super::fault::Fault;
use super::schema::TypeRef;
use super::value::Value;
use super::write::{escape, write_element};

const OPEN: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
    <soapenv:Envelope xmlns:soapenc=\"http://schemas.xmlsoap.org/soap/encoding/\" \
    xmlns:soapenv=\"http://schemas.xmlsoap.org/soap/envelope/\" \
    xmlns:xsd=\"http://www.w3.org/2001/XMLSchema\" \
    xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\">\n<soapenv:Body>\n";
const CLOSE: &str = "\n</soapenv:Body>\n</soapenv:Envelope>";

/// The answer of `method`, with its returned value when it returns one.
#[must_use]
pub fn response(method: &str, returned: Option<(TypeRef, &Value)>) -> String {
    let mut out = format!("{OPEN}<{method}Response xmlns=\"urn:vim25\">");
    if let Some((ty, value)) = returned {
        write_element(&mut out, "returnval", ty, value);
    }
    out.push_str(&format!("</{method}Response>{CLOSE}"));
    out
}

/// A fault with its typed detail.
#[must_use]
pub fn fault(fault: &Fault) -> String {
    let mut out = format!(
        "{OPEN}<soapenv:Fault><faultcode>ServerFaultCode</faultcode><faultstring>{}</faultstring><detail>",
        escape(&fault.message)
    );
    let mut detail = String::new();
    // Declared as nothing in particular, so that the element names its type as vCenter's do.
    write_element(&mut detail, "detail-of-fault", TypeRef::ANY, &fault.detail.clone().into());
    let tag = format!("{}Fault", fault.detail.ty);
    let body = detail
        .replacen("<detail-of-fault", &format!("<{tag} xmlns=\"urn:vim25\""), 1)
        .replace("</detail-of-fault>", &format!("</{tag}>"));
    out.push_str(&body);
    out.push_str(&format!("</detail></soapenv:Fault>{CLOSE}"));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_names_its_type_twice() {
        let text = fault(&Fault::file("[datastore1] a/a.vmdk"));
        assert!(text.contains(
            "<detail><FileFaultFault xmlns=\"urn:vim25\" xsi:type=\"FileFault\">\
             <file>[datastore1] a/a.vmdk</file></FileFaultFault></detail>"
        ));
    }
}
