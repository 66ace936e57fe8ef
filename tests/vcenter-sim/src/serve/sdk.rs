//! `POST /sdk`: one SOAP call.

use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{HeaderValue, SET_COOKIE};
use hyper::{Request, StatusCode};
use roxmltree::Document;
use tokio::time::Instant;

use super::http::{Answer, answer, read_body, session_cookie};
use super::https::Dropped;
use crate::objects::property_collector::wait::Wait;
use crate::objects::{Outcome, dispatch};
use crate::soap::request::{Operation, read};
use crate::soap::schema::TypeRef;
use crate::soap::value::Value;
use crate::soap::{envelope, fault::Fault};
use crate::state::Simulator;
use crate::state::faults::FaultName;

const LARGEST_REQUEST: usize = 4 << 20;
/// A wait without a limit ends after this long; the client asks again.
const LONGEST_WAIT: Duration = Duration::from_secs(30 * 60);

pub(super) async fn post(simulator: &Simulator, request: Request<Incoming>) -> Result<Answer, Dropped> {
    let cookie = session_cookie(request.headers());
    let body = match read_body(request.into_body(), LARGEST_REQUEST).await {
        Ok(body) => body,
        Err(refusal) => return Ok(refusal.answer()),
    };
    let slow = simulator.lock().faults.number(FaultName::SlowAnswers, 500);
    if let Some(delay_ms) = slow {
        tokio::time::sleep(Duration::from_millis(delay_ms)).await;
    }
    let outcome = carry_out(simulator, cookie.as_deref(), &String::from_utf8_lossy(&body))?;
    Ok(match outcome {
        Ok(Outcome::Done { method, value, cookie }) => {
            let mut answer = success(&method, value.as_ref());
            let set = cookie.map(|cookie| {
                format!("vmware_soap_session=\"{cookie}\"; Path=/; HttpOnly; Secure; SameSite=Strict")
            });
            if let Some(Ok(value)) = set.map(|set| HeaderValue::from_str(&set)) {
                answer.headers_mut().insert(SET_COOKIE, value);
            }
            answer
        }
        Ok(Outcome::Wait(wait)) => match wait_for(simulator, &wait).await {
            Ok(value) => {
                let update_set = TypeRef { name: "UpdateSet", array: false };
                success(wait.method, value.map(|value| (update_set, value)).as_ref())
            }
            Err(fault) => failure(&fault),
        },
        Err(fault) => failure(&fault),
    })
}

/// Everything up to the first point of waiting; the parsed request does not outlive it.
fn carry_out(
    simulator: &Simulator,
    cookie: Option<&str>,
    text: &str,
) -> Result<Result<Outcome, Fault>, Dropped> {
    // Entities and document types are refused by the parser's default options.
    let document = match Document::parse(text) {
        Ok(document) => document,
        Err(error) => return Ok(Err(Fault::invalid_request(format!("The request is no XML: {error}")))),
    };
    let request = match read(&document) {
        Ok(request) => request,
        Err(fault) => return Ok(Err(fault)),
    };
    let method = match request.operation {
        Operation::Method(method) => method.name,
        Operation::Fetch => "Fetch",
    };
    if simulator.lock().faults.strikes(FaultName::DropConnections, method) {
        return Err(Dropped);
    }
    Ok(dispatch(simulator, cookie, &request))
}

fn success(method: &str, value: Option<&(TypeRef, Value)>) -> Answer {
    let returned = value.map(|(ty, value)| (*ty, value));
    answer(StatusCode::OK, "text/xml; charset=utf-8", envelope::response(method, returned))
}

fn failure(fault: &Fault) -> Answer {
    answer(StatusCode::INTERNAL_SERVER_ERROR, "text/xml; charset=utf-8", envelope::fault(fault))
}

async fn wait_for(simulator: &Simulator, wait: &Wait) -> Result<Option<Value>, Fault> {
    let deadline = Instant::now() + wait.limit.unwrap_or(LONGEST_WAIT).min(LONGEST_WAIT);
    let mut changes = simulator.subscribe();
    loop {
        changes.borrow_and_update();
        let found = wait.poll(&mut simulator.lock())?;
        if found.is_some() || Instant::now() >= deadline {
            return Ok(found);
        }
        tokio::select! {
            _ = changes.changed() => {}
            () = tokio::time::sleep_until(deadline) => {}
        }
    }
}
