"""Choose so that nothing is far from what was chosen."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def k_centre(points: npt.NDArray[np.float32], count: int) -> tuple[list[int], list[float]]:
    """Farthest-first traversal: each next centre is the point farthest from all centres so far.

    The largest distance of a point to its nearest centre is at most twice the smallest possible (Gonzalez, 1985; core
    sets for networks: Sener and Savarese, 2018).

    Args:
        points: (N, C); the first is the first centre, and of points equally far the first is taken.
        count: number of centres, in [1, N].

    Returns:
        Indexes in the order chosen, and for each its Euclidean distance to the nearest one before it (0 for the
        first). Fewer centres are the first of them.
    """
    chosen, distances = [0], [0.0]
    nearest = _distances(points, 0)
    taken = np.zeros(len(points), bool)
    for _ in range(count - 1):
        taken[chosen[-1]] = True
        farthest = int(np.where(taken, -1.0, nearest).argmax())
        chosen.append(farthest)
        distances.append(float(nearest[farthest]))
        nearest = np.minimum(nearest, _distances(points, farthest))
    return chosen, distances


def _distances(points: npt.NDArray[np.float32], centre: int) -> npt.NDArray[np.float64]:
    difference = points - points[centre]
    squares: npt.NDArray[np.float64] = np.einsum("nc,nc->n", difference, difference, dtype=np.float64)
    return np.sqrt(squares)
