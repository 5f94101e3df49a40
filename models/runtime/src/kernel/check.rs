//! A kernel is used if it answers as the engine does: to the card's golden questions, and to drawn ones, the same at every load.

use super::{agree, ranker, retrieval};
use crate::card::Golden;
use crate::engine::Session;
use crate::features::Schema;
use crate::tensor::{Tensor, Values};

/// Drawn questions.
const DRAWS: usize = 64;

/// True: the kernel ranks as the session does.
pub(crate) fn ranker(kernel: &ranker::Kernel, session: &Session, schema: &Schema, golden: &[Golden]) -> bool {
    let mut draws = Draws(1);
    let fields = (0..DRAWS).flat_map(|_| &schema.fields);
    let ids: Vec<i64> = fields.map(|field| (field.offset + draws.below(field.cardinality)) as i64).collect();
    let numbers: Vec<f32> = (0..DRAWS * schema.dense.len()).map(|_| draws.number()).collect();
    let known = golden.iter().filter_map(|golden| match golden.inputs.as_slice() {
        [Tensor::I64(ids), Tensor::F32(numbers)] => Some((ids.as_slice(), numbers.as_slice())),
        _ => None,
    });
    known.chain([(ids.as_slice(), numbers.as_slice())]).all(|(ids, numbers)| {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        let rows = ids.chunks_exact(schema.fields.len()).zip(numbers.chunks_exact(schema.dense.len()));
        let answered =
            rows.map(|(ids, numbers)| kernel.row(ids, numbers, schema)).collect::<Result<Vec<_>, _>>();
        let ran = session.run(&[Values::I64(ids), Values::F32(numbers)], &mut theirs);
        ours.extend(answered.into_iter().flatten());
        ran.is_ok() && agree(&ours, &theirs)
    })
}

/// True: the kernel scores as the session does; `items` items, histories of `len`.
pub(crate) fn retrieval(
    kernel: &retrieval::Kernel,
    session: &Session,
    (len, items): (usize, usize),
    golden: &[Golden],
) -> bool {
    let mut draws = Draws(2);
    let mut row = |n: usize| {
        // From an empty history to a full one; one with holes; each newest last.
        let from = len - (n * len).div_ceil(DRAWS - 1).min(len);
        let id = |at: usize, draws: &mut Draws| match at < from || (n % 7 == 5 && draws.below(3) == 0) {
            true => 0,
            false => 1 + draws.below(items) as i64,
        };
        (0..len).map(|at| id(at, &mut draws)).collect::<Vec<_>>()
    };
    let drawn = (0..DRAWS).map(&mut row);
    let known = golden.iter().flat_map(|golden| match golden.inputs.as_slice() {
        [Tensor::I64(ids)] => ids.chunks_exact(len).map(<[i64]>::to_vec).collect(),
        _ => Vec::new(),
    });
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    known.chain(drawn).all(|row| {
        let ran =
            kernel.scores(&row, &mut ours).is_ok() && session.run(&[Values::I64(&row)], &mut theirs).is_ok();
        ran && agree(&ours, &theirs)
    })
}

/// SplitMix64 (Steele, Lea, Flood 2014).
struct Draws(u64);

impl Draws {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    /// From -2 to 2.
    fn number(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 22) as f32 - 2.0
    }
}
