//! What several tests need.

use inference::{Engine, EngineKind, ModelSpec, Retrieval, testing};

/// tract, and ONNX Runtime if its library is on this machine (`make test` fetches it).
pub fn engines() -> Vec<Engine> {
    let chosen = Engine::choose(None);
    let mut engines = vec![Engine::tract()];
    if chosen.kind() == EngineKind::Ort {
        engines.push(chosen);
    } else {
        // Fetched, and yet not used: every comparison of two engines would pass without comparing.
        let fetched = std::env::home_dir().unwrap_or_default().join(inference::engine::LIBRARY_FOLDER);
        assert!(!fetched.join("libonnxruntime.so.1.32.0").exists(), "{}", chosen.describe());
        eprintln!("without ONNX Runtime: {}", chosen.describe());
    }
    engines
}

/// Deterministic numbers (xorshift64*; Vigna, 2016).
pub struct Seeded(pub u64);

impl Seeded {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// From -1 to 1.
    pub fn float(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}

pub fn retrieval_spec(model: &testing::Model) -> ModelSpec {
    Retrieval::spec(&model.card)
}

pub fn assert_close(a: &[f32], b: &[f32]) {
    assert_eq!(a.len(), b.len());
    for (at, (a, b)) in a.iter().zip(b).enumerate() {
        assert!((a - b).abs() <= 1e-4 * b.abs().max(1.0), "{at}: {a} and {b}");
    }
}
