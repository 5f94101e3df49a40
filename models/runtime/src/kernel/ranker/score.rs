//! The inner loops of the ranker.

use pulp::{Simd, WithSimd};

use super::{Kernel, Layout, Network, padded};
use crate::kernel::matrix::{LINE, Matrix, ONE, product, sum};

/// One product, for whatever vectors the machine has.
pub(super) struct Products<'a> {
    pub(super) matrix: &'a Matrix<ONE>,
    pub(super) x: &'a [f32],
    pub(super) out: &'a mut [f32],
}

impl WithSimd for Products<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        self.matrix.add_product(simd, [self.x], self.out);
    }
}

/// All candidates of one visitor.
pub(super) struct Scores<'a> {
    pub(super) kernel: &'a Kernel,
    /// All items' halves.
    pub(super) items: &'a [f32],
    /// The visitor's half.
    pub(super) visitor: &'a [f32],
    pub(super) places: &'a [u32],
    /// Rows of what depends on both, padded.
    pub(super) both: &'a [f32],
    pub(super) pair: Pair<'a>,
    /// Log-odds go to its end.
    pub(super) out: &'a mut Vec<f32>,
}

/// Memory for what is computed of two rows, one after the other. Two at a time, as one alone would have the processor wait for
/// its sums most of the time.
pub(super) struct Pair<'a> {
    pub(super) linear: &'a mut [f32],
    pub(super) downs: &'a mut [f32],
    pub(super) ups: &'a mut [f32],
}

/// What is known of a row before anything is computed.
#[derive(Clone, Copy)]
struct Known<'a> {
    /// The item's columns.
    item: &'a [f32],
    /// What is linear in them.
    linear: &'a [f32],
    /// The numbers that depend on both.
    both: &'a [f32],
}

impl WithSimd for Scores<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { kernel, items, visitor, places, both, mut pair, out } = self;
        let (item_stride, stride) = (kernel.item_stride(), padded(kernel.own.both_len));
        for (places, both) in places.chunks(2).zip(both.chunks(2 * stride)) {
            // A last row without a partner is its own.
            let other = places.len() - 1;
            let one =
                Known::of(kernel, &items[places[0] as usize * item_stride..][..item_stride], &both[..stride]);
            let two = &items[places[other] as usize * item_stride..][..item_stride];
            let two = Known::of(kernel, two, &both[other * stride..][..stride]);
            let logits = kernel.logits(simd, &one, &two, visitor, &mut pair);
            out.extend_from_slice(&logits[..places.len()]);
        }
    }
}

impl Kernel {
    /// The answers' log-odds for two rows.
    #[inline(always)]
    fn logits<S: Simd>(
        &self,
        simd: S,
        first: &Known<'_>,
        second: &Known<'_>,
        visitor: &[f32],
        pair: &mut Pair<'_>,
    ) -> [f32; 2] {
        let layout = &self.network.layout;
        let (visitor_crossed, visitor_linear) = visitor.split_at(layout.crossed());
        let (one, two) = pair.linear.split_at_mut(layout.linear());
        sum(simd, first.linear, visitor_linear, one);
        sum(simd, second.linear, visitor_linear, two);
        let both = [&first.both[..self.own.both_len], &second.both[..self.own.both_len]];
        self.own.linear.add_product(simd, both, pair.linear);
        let (one, two) = pair.linear.split_at(layout.linear());
        let (one, two) = (Linear::of(one, layout), Linear::of(two, layout));

        // a V₂ and l U₁ of the rows' own columns.
        let ups = [&one.up[..layout.rank2], &two.up[..layout.rank2]];
        let lows = [&one.low[..layout.rank1], &two.low[..layout.rank1]];
        self.own.down.set_product(simd, ups, pair.downs);
        self.own.up.set_product(simd, lows, pair.ups);

        let (mut first_total, mut second_total) = (simd.splat_f32s(0.0), simd.splat_f32s(0.0));
        // Σ aₖ Tₖ of the visitor, then times l.
        for (at, line) in visitor_crossed.chunks_exact(LINE * layout.rank2).enumerate() {
            let [first, second] = product::<S, LINE, 2>(simd, ups, line);
            first_total = add_dot(simd, first_total, &first, &one.low[at * LINE..][..LINE]);
            second_total = add_dot(simd, second_total, &second, &two.low[at * LINE..][..LINE]);
        }
        let (downs, more_downs) = pair.downs.split_at(self.own.down.columns());
        let (ups, more_ups) = pair.ups.split_at(self.own.up.columns());
        let first_total = first.add_own(simd, first_total, downs, ups);
        let second_total = second.add_own(simd, second_total, more_downs, more_ups);
        let first_total = self.network.add_linear(simd, first_total, &one);
        let second_total = self.network.add_linear(simd, second_total, &two);
        let plain_at = layout.plain_at;
        [
            simd.reduce_sum_f32s(first_total) + one.sums[plain_at],
            simd.reduce_sum_f32s(second_total) + two.sums[plain_at],
        ]
    }
}

/// Adds products, lane by lane.
#[inline(always)]
fn add_dot<S: Simd>(simd: S, mut total: S::f32s, a: &[S::f32s], b: &[f32]) -> S::f32s {
    for (a, b) in a.iter().zip(vectors::<S>(b)) {
        total = simd.mul_add_e_f32s(*a, *b, total);
    }
    total
}

/// What is linear in x₀, cut into its parts.
#[derive(Clone, Copy)]
struct Linear<'a> {
    up: &'a [f32],
    low_constant: &'a [f32],
    low: &'a [f32],
    direct: &'a [f32],
    deep: &'a [f32],
    sums: &'a [f32],
}

impl<'a> Linear<'a> {
    #[inline(always)]
    fn of(all: &'a [f32], layout: &Layout) -> Self {
        let (up, rest) = all.split_at(layout.rank2_padded);
        let (low_constant, rest) = rest.split_at(layout.rank2_padded);
        let (low, rest) = rest.split_at(layout.rank1_padded);
        let (direct, rest) = rest.split_at(layout.rank1_padded);
        let (deep, sums) = rest.split_at(layout.deep);
        Self { up, low_constant, low, direct, deep, sums }
    }
}

impl<'a> Known<'a> {
    #[inline(always)]
    fn of(kernel: &Kernel, item: &'a [f32], both: &'a [f32]) -> Self {
        let (item, linear) = item.split_at(kernel.own.item_len);
        Self { item, linear, both }
    }

    /// Adds Σ xⱼ (a·V₂ⱼ) (l·U₁ⱼ) over the row's own columns.
    #[inline(always)]
    fn add_own<S: Simd>(&self, simd: S, mut total: S::f32s, downs: &[f32], ups: &[f32]) -> S::f32s {
        let (downs, downs_both) = downs.split_at(self.item.len());
        let (ups, ups_both) = ups.split_at(self.item.len());
        for (x, downs, ups) in [(self.item, downs, ups), (self.both, downs_both, ups_both)] {
            let products = vectors::<S>(downs).iter().zip(vectors::<S>(ups));
            for (x, (down, up)) in vectors::<S>(x).iter().zip(products) {
                total = simd.mul_add_e_f32s(simd.mul_f32s(*down, *up), *x, total);
            }
        }
        total
    }
}

impl Network {
    /// All terms but those of T: a·(the part of V₂ x₁ that does not depend on l), l·(the part of d·x₁ that does), the deep layer,
    /// the sums.
    #[inline(always)]
    fn add_linear<S: Simd>(&self, simd: S, mut total: S::f32s, linear: &Linear<'_>) -> S::f32s {
        for (a, b) in [(linear.up, linear.low_constant), (linear.low, linear.direct)] {
            for (a, b) in vectors::<S>(a).iter().zip(vectors::<S>(b)) {
                total = simd.mul_add_e_f32s(*a, *b, total);
            }
        }
        let zero = simd.splat_f32s(0.0);
        for (deep, weight) in vectors::<S>(linear.deep).iter().zip(vectors::<S>(&self.deep_weights)) {
            total = simd.mul_add_e_f32s(simd.max_f32s(*deep, zero), *weight, total);
        }
        for (sum, weight) in vectors::<S>(linear.sums).iter().zip(vectors::<S>(&self.sum_weights)) {
            total = simd.mul_add_e_f32s(simd.mul_f32s(*sum, *sum), *weight, total);
        }
        total
    }
}

/// Whole lines as vectors.
#[inline(always)]
fn vectors<S: Simd>(values: &[f32]) -> &[S::f32s] {
    S::as_simd_f32s(values).0
}
