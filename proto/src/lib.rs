//! The protocol of deltabus: types generated from `proto/deltabus/v1/*.proto`, where their meaning is documented.

/// Version 1 of the protocol.
#[expect(missing_docs, reason = "generated; the .proto files carry the docs")]
pub mod v1 {
    include!(concat!(env!("OUT_DIR"), "/deltabus.v1.rs"));
}
