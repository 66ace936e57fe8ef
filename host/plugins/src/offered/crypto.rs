//! Keyed digests over secrets that the guest never sees.

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};

use crate::bindings::host::tidemark::plugin::crypto::{Host, Key, SecretKey};
use crate::bindings::host::tidemark::plugin::types;
use crate::state::{State, guest_error};

impl Host for State {
    async fn hmac_sha256(
        &mut self,
        key: Key,
        data: Vec<u8>,
    ) -> wasmtime::Result<Result<Vec<u8>, types::Error>> {
        self.spend(1)?;
        let key = match key {
            Key::Bytes(bytes) => bytes,
            Key::Secret(SecretKey { name, prefix }) => match self.secrets.get(&name) {
                Some(secret) => format!("{prefix}{secret}").into_bytes(),
                None => {
                    let message = format!("the connection has no secret '{name}'");
                    return Ok(Err(guest_error(types::ErrorKind::Config, message)));
                }
            },
        };
        Ok(Hmac::<Sha256>::new_from_slice(&key)
            .map(|mac| mac.chain_update(&data).finalize().into_bytes().to_vec())
            .map_err(|error| guest_error(types::ErrorKind::Config, error.to_string())))
    }

    async fn sha256(&mut self, data: Vec<u8>) -> wasmtime::Result<Vec<u8>> {
        self.spend(1)?;
        Ok(Sha256::digest(&data).to_vec())
    }
}
