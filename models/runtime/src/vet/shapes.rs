//! Arithmetic of shapes, as the ONNX operator specification has it (<https://onnx.ai/onnx/operators/>). All sizes are
//! known, so every answer is exact. An error says what does not fit.

/// Sizes, outermost first.
pub(super) type Shape = Vec<usize>;
type Result<T> = std::result::Result<T, String>;

/// An axis counted from the end if negative.
pub(super) fn axis(axis: i64, rank: usize) -> Result<usize> {
    let from_end = if axis < 0 { axis + rank as i64 } else { axis };
    usize::try_from(from_end).ok().filter(|at| *at < rank).ok_or_else(|| format!("axis {axis} of {rank}"))
}

fn all_axes(axes: &[i64], rank: usize) -> Result<Vec<usize>> {
    let mut all = axes.iter().map(|at| axis(*at, rank)).collect::<Result<Vec<_>>>()?;
    all.sort_unstable();
    let len = all.len();
    all.dedup();
    if all.len() == len { Ok(all) } else { Err("an axis is given twice".to_owned()) }
}

/// Multidirectional (numpy) broadcasting.
pub(super) fn broadcast(a: &[usize], b: &[usize]) -> Result<Shape> {
    let rank = a.len().max(b.len());
    let at = |dims: &[usize], i: usize| (i + dims.len()).checked_sub(rank).map_or(1, |i| dims[i]);
    (0..rank)
        .map(|i| match (at(a, i), at(b, i)) {
            (x, y) if x == y => Ok(x),
            (1, y) => Ok(y),
            (x, 1) => Ok(x),
            _ => Err(format!("{a:?} and {b:?} do not broadcast")),
        })
        .collect()
}

/// The product's shape, and the length that is summed over.
pub(super) fn matmul(a: &[usize], b: &[usize]) -> Result<(Shape, usize)> {
    let ([a_outer @ .., rows, inner], [b_outer @ .., also_inner, columns]) = (a, b) else {
        return Err(format!("{a:?} by {b:?}: both need two dimensions"));
    };
    if inner != also_inner {
        return Err(format!("{a:?} by {b:?}"));
    }
    let mut dims = broadcast(a_outer, b_outer)?;
    dims.extend([*rows, *columns]);
    Ok((dims, *inner))
}

pub(super) fn split(len: usize, parts: usize, given: Option<&[i64]>) -> Result<Vec<usize>> {
    if parts == 0 {
        return Err("no outputs".to_owned());
    }
    let sizes: Vec<usize> = match given {
        Some(sizes) => sizes.iter().filter_map(|size| usize::try_from(*size).ok()).collect(),
        None if len.is_multiple_of(parts) => vec![len / parts; parts],
        None => return Err(format!("{len} does not split into {parts} equal parts")),
    };
    let sum = sizes.iter().try_fold(0usize, |sum, size| sum.checked_add(*size));
    if sizes.len() != parts || sum != Some(len) || sizes.contains(&0) {
        return Err(format!("{len} does not split into {given:?} for {parts} outputs"));
    }
    Ok(sizes)
}

pub(super) fn slice(
    dims: &[usize],
    starts: &[i64],
    ends: &[i64],
    axes: Option<&[i64]>,
    steps: Option<&[i64]>,
) -> Result<Shape> {
    let count = starts.len();
    let lens = [ends.len(), axes.map_or(count, <[i64]>::len), steps.map_or(count, <[i64]>::len)];
    if lens.iter().any(|len| *len != count) || count > dims.len() {
        return Err("starts, ends, axes and steps differ in length".to_owned());
    }
    if steps.is_some_and(|steps| steps.iter().any(|step| *step != 1)) {
        return Err("only steps of 1".to_owned());
    }
    let places: Vec<i64> = axes.map_or_else(|| (0..count as i64).collect(), <[i64]>::to_vec);
    all_axes(&places, dims.len())?;
    let mut sliced = dims.to_vec();
    for ((place, start), end) in places.iter().zip(starts).zip(ends) {
        let at = axis(*place, dims.len())?;
        let len = dims[at] as i64;
        let bound = |n: i64| if n < 0 { n.saturating_add(len) } else { n }.clamp(0, len);
        sliced[at] = usize::try_from(bound(*end) - bound(*start)).unwrap_or(0);
        if sliced[at] == 0 {
            return Err(format!("nothing is left of axis {at}"));
        }
    }
    Ok(sliced)
}

pub(super) fn reduce(dims: &[usize], axes: Option<&[i64]>, keep: bool) -> Result<Shape> {
    let axes = match axes {
        None | Some([]) => (0..dims.len()).collect(),
        Some(axes) => all_axes(axes, dims.len())?,
    };
    let kept = dims.iter().enumerate();
    Ok(kept
        .filter_map(|(at, dim)| match axes.contains(&at) {
            false => Some(*dim),
            true => keep.then_some(1),
        })
        .collect())
}

/// 0 keeps a dimension, one -1 takes what is left.
pub(super) fn reshape(dims: &[usize], shape: &[i64]) -> Result<Shape> {
    let wrong = || format!("{dims:?} does not reshape to {shape:?}");
    let volume = |dims: &[usize]| dims.iter().try_fold(1usize, |all, dim| all.checked_mul(*dim));
    let mut out: Shape = Vec::with_capacity(shape.len());
    let mut open = None;
    for (at, dim) in shape.iter().enumerate() {
        match dim {
            0 => out.push(*dims.get(at).ok_or_else(wrong)?),
            -1 if open.is_none() => {
                open = Some(at);
                out.push(1);
            }
            dim => out.push(usize::try_from(*dim).map_err(|_| wrong())?),
        }
    }
    let (all, known) = (volume(dims).ok_or_else(wrong)?, volume(&out).filter(|v| *v > 0).ok_or_else(wrong)?);
    if let Some(at) = open {
        out[at] = all / known;
    }
    if volume(&out) == Some(all) { Ok(out) } else { Err(wrong()) }
}

pub(super) fn transpose(dims: &[usize], perm: Option<&[i64]>) -> Result<Shape> {
    let Some(perm) = perm else { return Ok(dims.iter().rev().copied().collect()) };
    if perm.len() != dims.len() || all_axes(perm, dims.len())?.len() != dims.len() {
        return Err(format!("{perm:?} is no permutation of {} axes", dims.len()));
    }
    perm.iter().map(|at| axis(*at, dims.len()).map(|at| dims[at])).collect()
}

pub(super) fn flatten(dims: &[usize], at: i64) -> Result<Shape> {
    let rank = dims.len() as i64;
    let at = if at < 0 { at + rank } else { at };
    if !(0..=rank).contains(&at) {
        return Err(format!("axis {at} of {rank}"));
    }
    let (outer, inner) = dims.split_at(at as usize);
    let volume = |dims: &[usize]| dims.iter().fold(1usize, |all, dim| all.saturating_mul(*dim));
    Ok(vec![volume(outer), volume(inner)])
}

pub(super) fn squeeze(dims: &[usize], axes: Option<&[i64]>) -> Result<Shape> {
    let axes = match axes {
        Some(axes) => all_axes(axes, dims.len())?,
        // Which axes go would depend on the batch.
        None => return Err("axes must be given".to_owned()),
    };
    if axes.iter().any(|at| dims[*at] != 1) {
        return Err(format!("axes {axes:?} of {dims:?} are not all 1"));
    }
    Ok(dims.iter().enumerate().filter(|(at, _)| !axes.contains(at)).map(|(_, dim)| *dim).collect())
}

pub(super) fn unsqueeze(dims: &[usize], axes: &[i64]) -> Result<Shape> {
    let mut out = dims.to_vec();
    for at in all_axes(axes, dims.len() + axes.len())? {
        if at > out.len() {
            return Err(format!("axes {axes:?} of {dims:?}"));
        }
        out.insert(at, 1);
    }
    Ok(out)
}

pub(super) fn expand(dims: &[usize], shape: &[i64]) -> Result<Shape> {
    let shape = shape.iter().map(|dim| usize::try_from(*dim).ok().filter(|dim| *dim > 0));
    let shape = shape.collect::<Option<Shape>>().ok_or("dimensions must be at least 1")?;
    broadcast(dims, &shape)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broadcasting_is_numpy_s() {
        assert_eq!(broadcast(&[2, 1, 4], &[3, 1]).unwrap(), [2, 3, 4]);
        assert_eq!(broadcast(&[], &[5]).unwrap(), [5]);
        assert!(broadcast(&[2], &[3]).is_err());
    }

    #[test]
    fn products_sum_over_the_inner_dimension() {
        assert_eq!(matmul(&[7, 2, 3], &[3, 5]).unwrap(), (vec![7, 2, 5], 3));
        assert_eq!(matmul(&[4, 1, 2, 3], &[6, 3, 5]).unwrap(), (vec![4, 6, 2, 5], 3));
        assert!(matmul(&[2, 3], &[2, 3]).is_err());
        assert!(matmul(&[3], &[3, 2]).is_err());
    }

    #[test]
    fn reshaping_keeps_the_volume() {
        assert_eq!(reshape(&[2, 6], &[0, 3, -1]).unwrap(), [2, 3, 2]);
        assert_eq!(reshape(&[2, 6], &[-1]).unwrap(), [12]);
        assert_eq!(reshape(&[1], &[]).unwrap(), Vec::<usize>::new());
        for shape in [&[5][..], &[-1, -1], &[-1, 5], &[-2, 6], &[2, 6, 0], &[i64::MAX, i64::MAX]] {
            assert!(reshape(&[2, 6], shape).is_err(), "{shape:?}");
        }
    }

    #[test]
    fn slices_are_cut_at_the_ends() {
        let cut = |start, end| slice(&[3, 10], &[start], &[end], Some(&[1]), None);
        assert_eq!(cut(2, i64::MAX).unwrap(), [3, 8]);
        assert_eq!(cut(-1, 10).unwrap(), [3, 1]);
        assert_eq!(cut(i64::MIN, -9).unwrap(), [3, 1]);
        assert!(cut(5, 5).is_err());
        assert!(cut(6, 5).is_err());
        assert!(slice(&[3], &[0], &[3], None, Some(&[-1])).is_err());
        assert!(slice(&[3], &[0, 0], &[3], None, None).is_err());
        assert!(slice(&[3], &[0], &[3], Some(&[1]), None).is_err());
    }

    #[test]
    fn axes_come_and_go() {
        assert_eq!(squeeze(&[2, 1, 3], Some(&[-2])).unwrap(), [2, 3]);
        assert!(squeeze(&[2, 1, 3], None).is_err());
        assert_eq!(unsqueeze(&[2, 3], &[0, -1]).unwrap(), [1, 2, 3, 1]);
        assert!(unsqueeze(&[2, 3], &[0, 0]).is_err());
        assert!(unsqueeze(&[2, 3], &[7]).is_err());
        assert_eq!(transpose(&[2, 3, 4], None).unwrap(), [4, 3, 2]);
        assert_eq!(transpose(&[2, 3, 4], Some(&[1, 2, 0])).unwrap(), [3, 4, 2]);
        assert!(transpose(&[2, 3], Some(&[0])).is_err());
        assert_eq!(flatten(&[2, 3, 4], 2).unwrap(), [6, 4]);
        assert_eq!(flatten(&[2, 3, 4], 0).unwrap(), [1, 24]);
        assert!(flatten(&[2, 3], 3).is_err());
    }

    #[test]
    fn reductions_keep_or_drop_their_axes() {
        assert_eq!(reduce(&[2, 3, 4], Some(&[1]), false).unwrap(), [2, 4]);
        assert_eq!(reduce(&[2, 3, 4], Some(&[-1, 0]), true).unwrap(), [1, 3, 1]);
        assert_eq!(reduce(&[2, 3], None, false).unwrap(), Vec::<usize>::new());
        assert!(reduce(&[2, 3], Some(&[2]), true).is_err());
    }

    #[test]
    fn splits_cover_the_whole() {
        assert_eq!(split(6, 3, None).unwrap(), [2, 2, 2]);
        assert_eq!(split(6, 2, Some(&[1, 5])).unwrap(), [1, 5]);
        for given in [&[6][..], &[0, 6], &[-1, 7], &[i64::MAX, i64::MAX]] {
            assert!(split(6, 2, Some(given)).is_err(), "{given:?}");
        }
        assert!(split(7, 2, None).is_err());
        assert!(split(7, 0, None).is_err());
    }
}
