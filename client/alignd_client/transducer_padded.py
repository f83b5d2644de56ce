"""Transducer lattices of a padded batch in terms of ragged items."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from alignd_client.arguments import padded_lengths
from alignd_client.arrays import (
    NUMPY,
    Kind,
    integers,
    require_dimensions,
    scores,
    to_int32,
)
from alignd_client.errors import InvalidRequestError
from alignd_client.family import Answers, collect
from alignd_client.transducer_items import TransducerItem, fault_of, reduced

AXES = "B, frames, labels + 1, vocabulary"


class TransducerAlignJob:
    """`items` go in, `assemble` makes the padded arrays."""

    def __init__(
        self,
        log_probs: Any,
        targets: Any,
        input_lengths: Any,
        target_lengths: Any,
        blank: int,
        device: str | None = None,
    ) -> None:
        require_dimensions(log_probs, "log_probs", AXES)
        B, T, nodes, V = log_probs.shape
        if nodes < 1:
            raise InvalidRequestError(
                "log_probs", f"[B, frames, labels + 1, vocabulary] has one more than labels, not {nodes}"
            )
        self._targets = None if targets is None else to_int32(integers(targets, "targets", "B, labels"))
        if self._targets is None and V != 2:
            raise InvalidRequestError(
                "targets", f"log_probs of {V} columns need them; without, blank and label are given"
            )
        if self._targets is None and blank:
            raise InvalidRequestError("blank", f"without targets column 0 is the blank, not {blank}")
        if self._targets is not None and self._targets.shape != (B, nodes - 1):
            shape, wanted = list(self._targets.shape), [B, nodes - 1]
            raise InvalidRequestError(
                "targets", f"their shape is {shape}, but log_probs {list(log_probs.shape)} ask for {wanted}"
            )
        self._frames = padded_lengths(input_lengths, "input_lengths", B, T)
        self._labels = padded_lengths(target_lengths, "target_lengths", B, nodes - 1)
        self._kind, self._blank, self._vocabulary = Kind.of(log_probs), blank, V
        arcs = log_probs if self._targets is None else reduced(log_probs, self._targets, blank)
        self._arcs, self._data_type = scores(arcs, "log_probs", AXES, device)

    @property
    def items(self) -> Iterator[TransducerItem]:
        for b, (arcs, frames, labels) in enumerate(zip(self._arcs, self._frames, self._labels)):
            fault = None
            if self._targets is not None:
                fault = fault_of(self._targets[b, :labels], self._vocabulary, self._blank)
            own = arcs[:frames, : labels + 1]
            yield TransducerItem(own, self._data_type, frames, labels, NUMPY, fault=fault)

    def assemble(self, stream: Iterable[Answers[Any]]) -> tuple[Any, Any, Any]:
        """Emission frames [B, labels], durations [B, labels] and scores [B]. Raises `InvalidItemsError`."""
        B, _, nodes, _ = self._arcs.shape
        starts, durations = np.zeros((B, nodes - 1), np.int32), np.zeros((B, nodes - 1), np.int32)
        totals = np.zeros(B, np.float64)
        for b, alignment in enumerate(collect(stream)):
            labels = self._labels[b]
            starts[b, :labels], durations[b, :labels] = alignment.emission_frames, alignment.durations
            totals[b] = alignment.score
        return self._kind.wrap(starts), self._kind.wrap(durations), self._kind.wrap(totals)
