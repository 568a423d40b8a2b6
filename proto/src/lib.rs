//! The protocol of deltabus: types generated from `proto/deltabus/**/*.proto`, where their meaning is documented.

/// Version 1 of what travels over the bus.
#[expect(missing_docs, reason = "generated; the .proto files carry the docs")]
pub mod v1 {
    include!(concat!(env!("OUT_DIR"), "/deltabus.v1.rs"));
}

/// The management server's services.
#[cfg(feature = "manager")]
pub mod manager {
    /// Version 1.
    #[expect(missing_docs, clippy::all, reason = "generated; the .proto files carry the docs")]
    pub mod v1 {
        include!(concat!(env!("OUT_DIR"), "/deltabus.manager.v1.rs"));
    }

    /// The services' description (a `google.protobuf.FileDescriptorSet`), for reflection.
    pub const DESCRIPTION: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/manager.fds"));
}
