//! SOAP envelopes of vim25: a method's request as parts of a body, an answer as its element or a fault. No I/O.

use tidemark_plugin::http::{Part, Request, Response};
use tidemark_plugin::{Error, Result};

use crate::fault::Fault;
use crate::xml::{Element, Ref, Xml};

/// The oldest API version that is spoken, and the one that requests are made in.
pub(crate) const API_VERSION: &str = "6.7";

/// Below the minute that the host gives a whole call, so that a slow server ends in an error of ours.
const TIMEOUT_MS: u64 = 50_000;

const HEAD: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<soapenv:Envelope \
    xmlns:soapenv=\"http://schemas.xmlsoap.org/soap/envelope/\" xmlns:xsd=\"http://www.w3.org/2001/XMLSchema\" \
    xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\"><soapenv:Body>";
const TAIL: &str = "</soapenv:Body></soapenv:Envelope>";

/// A method's call on an object. `arguments` writes what follows `_this`, in the order of the WSDL.
pub(crate) fn envelope(method: &str, this: &Ref, arguments: impl FnOnce(Xml) -> Xml) -> Vec<Part> {
    let open = Xml::new().raw(HEAD).raw(&format!("<{method} xmlns=\"urn:vim25\">")).reference("_this", this);
    arguments(open).raw(&format!("</{method}>")).raw(TAIL).into_parts()
}

/// The HTTP request that carries an envelope.
pub(crate) fn request(url: &str, cookie: Option<&str>, parts: Vec<Part>) -> Request {
    let request = Request::post(url)
        .timeout_ms(TIMEOUT_MS)
        .header("Content-Type", "text/xml; charset=utf-8")
        .header("SOAPAction", format!("\"urn:vim25/{API_VERSION}\""))
        .parts(parts);
    match cookie {
        Some(cookie) => request.header("Cookie", format!("vmware_soap_session={cookie}")),
        None => request,
    }
}

/// The session cookie's value that an answer sets, quotes kept: servers compare it as it was sent.
pub(crate) fn session_cookie(response: &Response) -> Option<String> {
    let value = response
        .header("Set-Cookie")
        .filter_map(|line| line.split(';').next()?.trim().strip_prefix("vmware_soap_session="))
        .last()?;
    let safe = !value.is_empty() && value.chars().all(|ch| ch.is_ascii_graphic() && ch != ',');
    safe.then(|| value.to_owned())
}

/// The `<MethodResponse>` of an answer.
///
/// The outer error is one of the transport or of the answer's form, the inner one the server's fault.
pub(crate) fn answer(method: &str, response: &Response) -> Result<Result<Element, Fault>> {
    let looks_like_xml = response.body.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'<');
    if !matches!(response.status, 200 | 500) || !looks_like_xml {
        return Err(not_soap(method, response.status));
    }
    let root = Element::parse(response.text()?)?;
    let body = root.child("Body").ok_or_else(|| not_soap(method, response.status))?;
    if let Some(fault) = body.child("Fault") {
        return Ok(Err(Fault::from_soap(fault)));
    }
    match body.children.first() {
        Some(element) if element.name.strip_suffix("Response") == Some(method) => Ok(Ok(element.clone())),
        Some(element) => Err(Error::corrupt(format!("{method} was answered with {}", element.name))),
        None => Err(Error::corrupt(format!("{method} was answered with an empty body"))),
    }
}

fn not_soap(method: &str, status: u16) -> Error {
    match status {
        401 | 403 => Error::auth(format!("{method}: the server refuses the request (HTTP {status})")),
        404 => Error::config(format!("{method}: there is no vSphere web service at /sdk (HTTP 404)")),
        429 => Error::throttled(format!("{method}: too many requests (HTTP 429)"), 5_000),
        500..=599 => Error::unavailable(format!("{method}: the server failed (HTTP {status})")),
        200 => Error::corrupt(format!("{method}: the answer is no SOAP envelope")),
        _ => Error::unavailable(format!("{method}: unexpected answer (HTTP {status})")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemark_plugin::ErrorKind;

    fn response(status: u16, body: &str) -> Response {
        Response { status, headers: Vec::new(), body: body.into() }
    }

    #[test]
    fn an_envelope_is_well_formed_and_names_the_object_first() {
        let parts = envelope("Destroy", &Ref::new("View", "v<1>"), |xml| xml.element("x", "1"));
        let [Part::Bytes(bytes)] = parts.as_slice() else { panic!("one part") };
        let root = Element::parse(std::str::from_utf8(bytes).unwrap()).unwrap();
        let call = &root.child("Body").unwrap().children[0];
        assert_eq!(call.name, "Destroy");
        assert_eq!(call.ref_of("_this"), Some(Ref::new("View", "v<1>")));
    }

    #[test]
    fn the_last_session_cookie_counts() {
        let line = |text: &str| ("set-cookie".to_owned(), text.to_owned());
        let mut response = response(200, "");
        response.headers =
            vec![line("other=1; Path=/"), line("vmware_soap_session=\"52ab\"; Path=/; HttpOnly; Secure")];
        assert_eq!(session_cookie(&response).as_deref(), Some("\"52ab\""));
        response.headers = vec![line("vmware_soap_session=a b")];
        assert_eq!(session_cookie(&response), None);
    }

    #[test]
    fn what_is_no_envelope_is_an_error_by_its_status() {
        for (status, kind) in
            [(503, ErrorKind::Unavailable), (404, ErrorKind::Config), (401, ErrorKind::Auth)]
        {
            assert_eq!(answer("M", &response(status, "<html/>")).unwrap_err().kind, kind, "{status}");
        }
        assert_eq!(answer("M", &response(500, "oops")).unwrap_err().kind, ErrorKind::Unavailable);
        let other = "<Envelope><Body><OtherResponse/></Body></Envelope>";
        assert_eq!(answer("M", &response(200, other)).unwrap_err().kind, ErrorKind::Corrupt);
    }
}
