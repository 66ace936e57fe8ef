//! The generated bindings, one private module a world. The host's interfaces are generated once and shared, so that
//! each is implemented once, whichever world imports it.
#![allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::too_many_lines,
    clippy::allow_attributes_without_reason,
    reason = "generated from sdk/wit, where the documentation is"
)]

/// What the host offers to all worlds.
pub(crate) mod host {
    wasmtime::component::bindgen!({
        inline: "
            package tidemark:host-bindings;
            world offered {
                import tidemark:plugin/types@0.1.0;
                import tidemark:plugin/log@0.1.0;
                import tidemark:plugin/clock@0.1.0;
                import tidemark:plugin/http@0.1.0;
                import tidemark:plugin/crypto@0.1.0;
                import tidemark:plugin/disk@0.1.0;
            }
        ",
        path: "../../sdk/wit",
        world: "tidemark:host-bindings/offered",
        imports: { default: async | trappable },
    });
}

pub(crate) mod connector {
    wasmtime::component::bindgen!({
        path: "../../sdk/wit",
        world: "tidemark:plugin/connector",
        imports: { default: async | trappable },
        exports: { default: async },
        with: {
            "tidemark:plugin/types": crate::bindings::host::tidemark::plugin::types,
            "tidemark:plugin/log": crate::bindings::host::tidemark::plugin::log,
            "tidemark:plugin/clock": crate::bindings::host::tidemark::plugin::clock,
            "tidemark:plugin/http": crate::bindings::host::tidemark::plugin::http,
        },
    });
}

/// The optional interface of connectors that the contract 0.2.0 brought.
pub(crate) mod about {
    wasmtime::component::bindgen!({
        inline: "
            package tidemark:host-bindings;
            world optional {
                export tidemark:plugin/about@0.2.0;
            }
        ",
        path: ["../../sdk/wit", "../../sdk/wit/0.2"],
        world: "tidemark:host-bindings/optional",
        exports: { default: async },
        with: {
            "tidemark:plugin/types@0.1.0": crate::bindings::host::tidemark::plugin::types,
        },
    });
}

pub(crate) mod storage {
    wasmtime::component::bindgen!({
        path: "../../sdk/wit",
        world: "tidemark:plugin/storage-target",
        imports: { default: async | trappable },
        exports: { default: async },
        with: {
            "tidemark:plugin/types": crate::bindings::host::tidemark::plugin::types,
            "tidemark:plugin/log": crate::bindings::host::tidemark::plugin::log,
            "tidemark:plugin/crypto": crate::bindings::host::tidemark::plugin::crypto,
        },
    });
}

pub(crate) mod filesystem {
    wasmtime::component::bindgen!({
        path: "../../sdk/wit",
        world: "tidemark:plugin/guest-filesystem",
        imports: { default: async | trappable },
        exports: { default: async },
        with: {
            "tidemark:plugin/types": crate::bindings::host::tidemark::plugin::types,
            "tidemark:plugin/log": crate::bindings::host::tidemark::plugin::log,
            "tidemark:plugin/disk": crate::bindings::host::tidemark::plugin::disk,
        },
    });
}

/// What is set for a node: an optional interface of file-system readers that the contract 0.3.0 brought, with the one whose
/// volumes it is asked about.
pub(crate) mod attributes {
    wasmtime::component::bindgen!({
        inline: "
            package tidemark:host-bindings;
            world optional {
                export tidemark:plugin/filesystem@0.1.0;
                export tidemark:plugin/attributes@0.3.0;
            }
        ",
        path: ["../../sdk/wit", "../../sdk/wit/0.2", "../../sdk/wit/0.3"],
        world: "tidemark:host-bindings/optional",
        exports: { default: async },
        with: {
            "tidemark:plugin/types@0.1.0": crate::bindings::host::tidemark::plugin::types,
        },
    });
}

/// Where files lie: the other interface that it brought.
pub(crate) mod placement {
    wasmtime::component::bindgen!({
        inline: "
            package tidemark:host-bindings;
            world optional {
                export tidemark:plugin/filesystem@0.1.0;
                export tidemark:plugin/placement@0.3.0;
            }
        ",
        path: ["../../sdk/wit", "../../sdk/wit/0.2", "../../sdk/wit/0.3"],
        world: "tidemark:host-bindings/optional",
        exports: { default: async },
        with: {
            "tidemark:plugin/types@0.1.0": crate::bindings::host::tidemark::plugin::types,
        },
    });
}

pub(crate) mod volumes {
    wasmtime::component::bindgen!({
        path: "../../sdk/wit",
        world: "tidemark:plugin/volume-reader",
        imports: { default: async | trappable },
        exports: { default: async },
        with: {
            "tidemark:plugin/types": crate::bindings::host::tidemark::plugin::types,
            "tidemark:plugin/log": crate::bindings::host::tidemark::plugin::log,
            "tidemark:plugin/disk": crate::bindings::host::tidemark::plugin::disk,
        },
    });
}

pub(crate) mod policy {
    wasmtime::component::bindgen!({
        path: "../../sdk/wit",
        world: "tidemark:plugin/policy",
        imports: { default: async | trappable },
        exports: { default: async },
        with: {
            "tidemark:plugin/types": crate::bindings::host::tidemark::plugin::types,
            "tidemark:plugin/log": crate::bindings::host::tidemark::plugin::log,
        },
    });
}
