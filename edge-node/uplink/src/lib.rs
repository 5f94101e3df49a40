//! edge-uplink
