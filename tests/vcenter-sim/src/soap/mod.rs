//! The SOAP codec: requests in, answers and faults out. It touches no socket and no state.

pub mod envelope;
pub mod fault;
pub mod request;
pub mod schema;
pub mod value;
pub mod write;
