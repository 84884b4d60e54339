"""Distances between two sets of features: Fréchet, and the kernel distance (KID)."""

import numpy as np

from ssl_jax.evals.checks import check_count


def frechet(x: np.ndarray, y: np.ndarray) -> float:
    """Squared Fréchet distance of the normal distributions with the means and covariances of two
    sets of features (N, D) and (M, D): the formula of FID (Heusel et al. 2017, arXiv:1706.08500),
    of whatever features. It grows as the sets get smaller; compare sets of one size.
    """
    means = np.sum(np.square(x.mean(0) - y.mean(0)))
    # The roots of the eigenvalues of a product of covariances are the singular values of the
    # product of the centred features.
    a, b = ((z - z.mean(0)) / np.sqrt(len(z) - 1) for z in (x, y))
    shared = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    return float(max(means + np.sum(a * a) + np.sum(b * b) - 2 * shared, 0.0))


def kernel_distance(x: np.ndarray, y: np.ndarray) -> float:
    """Unbiased squared distance of the means of two sets of features (N, D) and (M, D) under the
    kernel `(a.b / D + 1)^3`: KID (Binkowski et al. 2018, arXiv:1801.01401), of whatever features
    and over all rows, not over subsets. It may be slightly negative.
    """

    def within(z: np.ndarray) -> float:
        products = kernel(z, z)
        count = len(z)
        return float((products.sum() - np.trace(products)) / (count * (count - 1)))

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.asarray((a @ b.T / a.shape[1] + 1) ** 3)

    return within(x) + within(y) - 2 * float(kernel(x, y).mean())


def distances(features: np.ndarray, target: np.ndarray) -> dict[str, float]:
    """Return `frechet` and `kid` of features (N, D) from those of a target (M, D).

    Both sets are first moved and scaled, all features alike, so that those of the target have mean
    0 and deviations whose mean square is 1: the distances do not depend on the features' scale.

    Raises:
      NotMeasurable: fewer than two examples in a set.
    """
    for rows in (features, target):
        check_count(len(rows), 2)
    x, y = (np.asarray(rows, np.float64) for rows in (features, target))
    scale = max(float(np.sqrt(np.mean(y.var(0)))), np.finfo(np.float32).tiny)
    x, y = ((rows - y.mean(0)) / scale for rows in (x, y))
    return {"frechet": frechet(x, y), "kid": kernel_distance(x, y)}
