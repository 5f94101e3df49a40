//! A vector times a matrix, and the few sums of vectors that the kernels need, for whatever vectors the machine has.
//!
//! Everything is padded with zeros to whole [`LINE`]s, which are whole vectors on every machine; so no loop has a rest.
//! Loops, not closures: what runs the widest instructions must be inlined into the function that was made for them, and a
//! closure may not be.

use std::ops::{Deref, DerefMut};

use pulp::Simd;

/// Floats of a cache line; every length is padded to a multiple of it.
pub(super) const LINE: usize = 16;
/// Columns that are computed at a time for one vector: as many sums as the processor can work on at once.
pub(super) const ONE: usize = 4 * LINE;
/// The same for a pair of vectors.
pub(super) const PAIR: usize = 2 * LINE;

/// `len`, padded to whole lines.
pub(super) fn padded(len: usize) -> usize {
    len.next_multiple_of(LINE)
}

/// Floats that begin with a cache line, so that no vector lies across two of them.
#[derive(Debug, Default)]
pub(super) struct Lines {
    values: Vec<f32>,
    from: usize,
    len: usize,
}

impl Lines {
    /// So many zeros.
    pub(super) fn zeros(len: usize) -> Self {
        let values = vec![0.0_f32; len + LINE];
        let from = values.as_ptr().align_offset(LINE * size_of::<f32>()).min(LINE);
        Self { values, from, len }
    }

    /// These, padded with zeros to whole lines.
    pub(super) fn of(values: &[f32]) -> Self {
        let mut lines = Self::zeros(padded(values.len()));
        lines[..values.len()].copy_from_slice(values);
        lines
    }

    /// Makes it this long; what was in it is lost where it was not.
    pub(super) fn fit(&mut self, len: usize) {
        if self.len != len {
            *self = Self::zeros(len);
        }
    }
}

impl Deref for Lines {
    type Target = [f32];

    #[inline(always)]
    fn deref(&self) -> &[f32] {
        &self.values[self.from..self.from + self.len]
    }
}

impl DerefMut for Lines {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.values[self.from..self.from + self.len]
    }
}

/// A matrix to multiply vectors by. Its columns are cut into panels of `PANEL`, each stored row by row, so that a product reads
/// memory from one end to the other.
#[derive(Debug)]
pub(super) struct Matrix<const PANEL: usize> {
    rows: usize,
    columns: usize,
    /// Panels of `PANEL` columns, then of [`LINE`] columns for the rest.
    panels: Lines,
}

impl<const PANEL: usize> Matrix<PANEL> {
    /// From rows of `columns` values each.
    pub(super) fn new(columns: usize, values: &[f32]) -> Self {
        let (rows, wide) = (values.len() / columns.max(1), padded(columns));
        let mut panels = Vec::with_capacity(rows * wide);
        let mut from = 0;
        while from < wide {
            let width = if from + PANEL <= wide { PANEL } else { LINE };
            for row in values.chunks_exact(columns) {
                let known = &row[from.min(columns)..(from + width).min(columns)];
                panels.extend(known);
                panels.extend(std::iter::repeat_n(0.0, width - known.len()));
            }
            from += width;
        }
        Self { rows, columns: wide, panels: Lines::of(&panels) }
    }

    /// Columns, padded.
    pub(super) fn columns(&self) -> usize {
        self.columns
    }

    /// `y += x @ self`, for each of some vectors: `x` has a value for each row, `y` for each padded column, one vector after the
    /// other.
    #[inline(always)]
    pub(super) fn add_product<S: Simd, const N: usize>(&self, simd: S, x: [&[f32]; N], y: &mut [f32]) {
        self.product::<S, N, true>(simd, x, y);
    }

    /// The same, but `y = x @ self`.
    #[inline(always)]
    pub(super) fn set_product<S: Simd, const N: usize>(&self, simd: S, x: [&[f32]; N], y: &mut [f32]) {
        self.product::<S, N, false>(simd, x, y);
    }

    #[inline(always)]
    fn product<S: Simd, const N: usize, const ADD: bool>(&self, simd: S, x: [&[f32]; N], y: &mut [f32]) {
        assert!(
            x.iter().all(|x| x.len() == self.rows) && y.len() == N * self.columns,
            "vectors fit the matrix"
        );
        let rows = self.rows.max(1);
        let wide = self.columns / PANEL * PANEL;
        let (panels, lines) = self.panels.split_at(wide * self.rows);
        for (from, panel) in (0..wide).step_by(PANEL).zip(panels.chunks_exact(PANEL * rows)) {
            let sums = product::<S, PANEL, N>(simd, x, panel);
            put_panel::<S, PANEL, N, ADD>(simd, &sums, y, from);
        }
        for (from, line) in (wide..self.columns).step_by(LINE).zip(lines.chunks_exact(LINE * rows)) {
            let sums = product::<S, LINE, N>(simd, x, line);
            put_panel::<S, LINE, N, ADD>(simd, &sums, y, from);
        }
    }
}

#[inline(always)]
fn put_panel<S: Simd, const WIDTH: usize, const N: usize, const ADD: bool>(
    simd: S,
    sums: &[[S::f32s; WIDTH]; N],
    y: &mut [f32],
    from: usize,
) {
    let columns = y.len() / N;
    for n in 0..N {
        let (y, _) = S::as_mut_simd_f32s(&mut y[n * columns + from..][..WIDTH]);
        for at in 0..WIDTH / S::F32_LANES {
            y[at] = if ADD { simd.add_f32s(y[at], sums[n][at]) } else { sums[n][at] };
        }
    }
}

/// Vectors times a panel, each in as many vectors of the machine as the panel is wide. There are more in the arrays; they
/// are never touched, and cost nothing once the loops are unrolled.
#[inline(always)]
pub(super) fn product<S: Simd, const WIDTH: usize, const N: usize>(
    simd: S,
    x: [&[f32]; N],
    panel: &[f32],
) -> [[S::f32s; WIDTH]; N] {
    let (panel, _) = S::as_simd_f32s(panel);
    let vectors = WIDTH / S::F32_LANES;
    let mut sums = [[simd.splat_f32s(0.0); WIDTH]; N];
    let rows = panel.len() / vectors;
    // Said once here, so that the loop below need not ask.
    let mut x = x;
    for x in &mut x {
        *x = &x[..rows];
    }
    for (at_row, row) in panel.chunks_exact(vectors).enumerate() {
        for n in 0..N {
            let x = simd.splat_f32s(x[n][at_row]);
            for at in 0..vectors {
                sums[n][at] = simd.mul_add_e_f32s(x, row[at], sums[n][at]);
            }
        }
    }
    sums
}

/// Sum of the products.
#[inline(always)]
pub(super) fn dot<S: Simd>(simd: S, a: &[f32], b: &[f32]) -> f32 {
    let ((a, _), (b, _)) = (S::as_simd_f32s(a), S::as_simd_f32s(b));
    let mut sum = simd.splat_f32s(0.0);
    for (a, b) in a.iter().zip(b) {
        sum = simd.mul_add_e_f32s(*a, *b, sum);
    }
    simd.reduce_sum_f32s(sum)
}

/// `y += scale * x`.
#[inline(always)]
pub(super) fn add_scaled<S: Simd>(simd: S, scale: f32, x: &[f32], y: &mut [f32]) {
    let ((x, _), (y, _)) = (S::as_simd_f32s(x), S::as_mut_simd_f32s(y));
    let scale = simd.splat_f32s(scale);
    for (y, x) in y.iter_mut().zip(x) {
        *y = simd.mul_add_e_f32s(scale, *x, *y);
    }
}

/// `out = a + b`.
#[inline(always)]
pub(super) fn sum<S: Simd>(simd: S, a: &[f32], b: &[f32], out: &mut [f32]) {
    let ((a, _), (b, _), (out, _)) = (S::as_simd_f32s(a), S::as_simd_f32s(b), S::as_mut_simd_f32s(out));
    for (out, (a, b)) in out.iter_mut().zip(a.iter().zip(b)) {
        *out = simd.add_f32s(*a, *b);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_product_of_any_shape_is_what_it_should_be() {
        struct Product<'a>(&'a Matrix<PAIR>, &'a [f32], &'a mut [f32]);
        impl pulp::WithSimd for Product<'_> {
            type Output = ();
            fn with_simd<S: Simd>(self, simd: S) {
                let (one, two) = self.1.split_at(self.1.len() / 2);
                self.0.add_product(simd, [one, two], self.2);
            }
        }
        for (rows, columns) in [(1, 1), (3, 15), (7, 16), (5, 17), (64, 64), (9, 81), (2, 200)] {
            let values: Vec<f32> = (0..rows * columns).map(|n| (n % 13) as f32 - 6.0).collect();
            let x: Vec<f32> = (0..2 * rows).map(|n| (n % 5) as f32 - 2.0).collect();
            let matrix = Matrix::new(columns, &values);
            let mut wanted = vec![1.0; 2 * matrix.columns()];
            for (x, wanted) in x.chunks_exact(rows).zip(wanted.chunks_exact_mut(matrix.columns())) {
                for (column, wanted) in wanted[..columns].iter_mut().enumerate() {
                    *wanted += (0..rows).map(|row| x[row] * values[row * columns + column]).sum::<f32>();
                }
            }
            let mut vectors = vec![1.0; wanted.len()];
            pulp::Arch::new().dispatch(Product(&matrix, &x, &mut vectors));
            let mut scalars = vec![1.0; wanted.len()];
            Simd::vectorize(pulp::Scalar, Product(&matrix, &x, &mut scalars));
            // Small whole numbers: exact in any order.
            assert_eq!((&vectors, &scalars), (&wanted, &wanted), "{rows} x {columns}");
        }
    }
}
