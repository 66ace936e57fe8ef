//! The optional interface `attributes` of file-system readers, since contract 0.3.0: what a file system keeps of a node beyond
//! its kind, size, times, mode and owners.
//!
//! A reader whose volumes have it implements [`Attributes`] for them and says so in the macro:
//! `export_guest_filesystem!(Mine, attributes)`.

use crate::Result;
use crate::guest_filesystem::GuestVolume;

pub use crate::guest_filesystem::bindings::exports::tidemark::plugin0_3_0::attributes::NodeAttributes;

/// A volume that knows more of its nodes than [`GuestVolume::stat`] tells.
pub trait Attributes: GuestVolume {
    /// What is known of a node.
    ///
    /// # Errors
    /// Those of the contract, described in the WIT.
    fn attributes(&self, node: u64) -> Result<NodeAttributes>;
}

impl NodeAttributes {
    /// The words of the bits that are set, in the order of `known`, and no access list; bits without a word are left out.
    #[must_use]
    pub fn of(bits: u64, known: &[(u64, &str)]) -> Self {
        let set = known.iter().filter(|(bit, _)| bits & bit != 0);
        Self { flags: set.map(|(_, word)| (*word).to_owned()).collect(), access_list: None }
    }
}
