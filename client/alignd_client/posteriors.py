"""The result of a sum over all paths: the same for every family."""

from dataclasses import dataclass

import numpy as np

from alignd.wire import ItemStatus
from alignd_client.arrays import Kind
from alignd_client.results import Array


@dataclass(frozen=True, eq=False)
class Posteriors:
    """How probable each node of one item's lattice is, over all paths.

    Attributes:
        posteriors: float32, of the lattice's shape.
        score: log-likelihood: the logarithm of the sum over all paths.
        status: `status.ok`, or why not; the array of an item that failed is empty, its score NaN.
    """

    posteriors: Array
    score: float
    status: ItemStatus


def failed(kind: Kind, dimensions: int, status: ItemStatus) -> Posteriors:
    """The result of an item that was not aligned."""
    return Posteriors(kind.wrap(np.zeros((0,) * dimensions, np.float32)), np.nan, status)
