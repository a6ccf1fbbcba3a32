"""Dynamic time warping: which frames of two takes of one sentence belong together."""

import numpy as np


def dtw_path(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Int64 `[P, 2]`: the cheapest monotonic path of frame pairs from (0, 0) to (n-1, m-1) for features `[n, k]` and
    `[m, k]`, by L1 distance; steps (1, 0), (0, 1) and (1, 1). Ties prefer the diagonal."""
    n, m = len(first), len(second)
    distance = np.abs(first[:, None] - second[None]).sum(-1)
    total = np.full((n + 1, m + 1), np.inf)
    total[0, 0] = 0
    for diagonal in range(n + m - 1):  # cells of one anti-diagonal depend on earlier ones only
        i = np.arange(max(0, diagonal - m + 1), min(n, diagonal + 1))
        j = diagonal - i
        before = np.minimum(total[i, j], np.minimum(total[i, j + 1], total[i + 1, j]))
        total[i + 1, j + 1] = distance[i, j] + before
    path: list[tuple[int, int]] = []
    while n > 0 and m > 0:
        path.append((n - 1, m - 1))
        step = np.argmin((total[n - 1, m - 1], total[n - 1, m], total[n, m - 1]))
        n, m = n - int(step != 2), m - int(step != 1)
    return np.array(path[::-1], np.int64)


def warp_rows(reference: np.ndarray, other: np.ndarray) -> np.ndarray:
    """For each row of `reference` `[n, k]`, the index `[n]` of the row of `other` `[m, k]` that matches it (the middle
    one where several do)."""
    path = dtw_path(reference, other)
    starts = np.searchsorted(path[:, 0], np.arange(len(reference)), side="left")
    ends = np.searchsorted(path[:, 0], np.arange(len(reference)), side="right") - 1
    return path[(starts + ends) // 2, 1]
