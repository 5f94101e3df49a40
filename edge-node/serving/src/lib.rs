//! edge-serving
