//! cloud-registry
