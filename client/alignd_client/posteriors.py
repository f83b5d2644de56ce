"""The result of a sum over all paths: the same for every family."""

from dataclasses import dataclass

import numpy as np

from alignd.wire import ItemStatus, PosteriorsReply
from alignd.wire.arrays import Int64Array
from alignd_client.arrays import Kind, kind_at, owned_parts, wrapped
from alignd_client.brief import Brief
from alignd_client.family import failed_places
from alignd_client.results import Array


@dataclass(frozen=True, eq=False, repr=False)
class Posteriors(Brief):
    """How probable each node of one item's lattice is, over all paths.

    Attributes:
        posteriors: float32, of the lattice's shape.
        score: log-likelihood: the logarithm of the sum over all paths.
        status: `status.ok`, or why not; the array of an item that failed is empty, its score NaN.
    """

    posteriors: Array
    score: float
    status: ItemStatus


def unpacked(
    reply: PosteriorsReply, rows: Int64Array, columns: Int64Array, kinds: Kind | list[Kind]
) -> list[Posteriors]:
    """One result per utterance.

    Args:
        reply: one that fits.
        rows: int64 [B], of each lattice.
        columns: int64 [B].
        kinds: the caller's, of all or of each.
    """
    values = reply.posteriors.astype(np.float32, copy=False)  # of the machine's byte order
    shapes = zip(rows.tolist(), columns.tolist())
    nodes = [part.reshape(shape) for part, shape in zip(owned_parts(values, rows * columns), shapes)]
    results = list(map(Posteriors, wrapped(nodes, kinds), reply.scores.tolist(), reply.statuses))
    for place in failed_places(reply.statuses):
        results[place] = failed(kind_at(kinds, place), reply.statuses[place])
    return results


def failed(kind: Kind, status: ItemStatus) -> Posteriors:
    """The result of an item that was not aligned."""
    return Posteriors(kind.wrap(np.zeros((0, 0), np.float32)), np.nan, status)
