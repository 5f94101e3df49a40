//! Tiny valid models, cards and signed bundles, so that other crates' tests need no training.
