//! cloud-storage
