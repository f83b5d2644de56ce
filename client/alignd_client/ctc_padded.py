"""torchaudio's `forced_align`: a padded batch in terms of ragged items."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from alignd.wire import STAR, DataType
from alignd_client.arguments import padded_lengths
from alignd_client.arrays import NUMPY, Kind, integers, is_tensor, scores, to_int32, to_numpy
from alignd_client.ctc_columns import Columns, large
from alignd_client.ctc_items import CtcItem
from alignd_client.errors import InvalidRequestError
from alignd_client.family import Answers, collect
from alignd_client.results import CtcAlignment


class ForcedAlignJob:
    """`items` go in, `assemble` makes the padded pair."""

    def __init__(
        self,
        log_probs: Any,
        targets: Any,
        input_lengths: Any,
        target_lengths: Any,
        blank: int,
        star_score: float | None,
        device: str | None,
        columns: Columns | None = None,
    ) -> None:
        self._blank, self._star_score = blank, star_score
        self._columns = columns if large(log_probs, 3) else None
        # Of a large vocabulary nothing is moved or converted before it is known what travels.
        known = log_probs if self._columns is None else log_probs[:0]
        array, self._data_type = scores(known, "log_probs", "B, frames, vocabulary", device)
        self._array: Any = array if self._columns is None else log_probs
        given = integers(targets, "targets", "B, labels")
        self._targets = to_int32(given)
        B, T, V = self._array.shape
        if self._blank >= V:
            raise InvalidRequestError("blank", f"{self._blank} is no column of a vocabulary of {V}")
        if self._blank > np.iinfo(given.dtype).max:
            reason = f"{self._blank} does not fit {given.dtype}, the dtype of targets and so of the paths"
            raise InvalidRequestError("blank", reason)
        if len(self._targets) != B:
            raise InvalidRequestError("targets", f"{len(self._targets)} rows for the {B} items of log_probs")
        self._frames = padded_lengths(input_lengths, "input_lengths", B, T)
        self._labels = padded_lengths(target_lengths, "target_lengths", B, self._targets.shape[1])
        self._scores_kind, self._scores_dtype = Kind.of(log_probs), log_probs.dtype
        typed = is_tensor(targets) or isinstance(targets, np.ndarray)
        self._paths_kind = Kind.of(targets) if typed else self._scores_kind
        self._paths_dtype = targets.dtype if typed else self._paths_kind.dtype("int64")

    @property
    def items(self) -> Iterator[CtcItem]:
        rows = zip(self._array, self._targets, self._frames, self._labels)
        for matrix, targets, frames, labels in rows:
            yield self._item(matrix[:frames], targets[:labels])

    def _item(self, matrix: Any, targets: npt.NDArray[np.int32]) -> CtcItem:
        if self._columns is not None:
            item = self._columns.reduced(matrix, self._data_type, targets, NUMPY)
            if item is not None:
                return item
            matrix, _ = scores(matrix, "log_probs", "frames, vocabulary")
        frames, vocabulary = matrix.shape
        return CtcItem(matrix, self._data_type, frames, vocabulary, targets, NUMPY)

    def assemble(self, stream: Iterable[Answers[CtcAlignment]]) -> tuple[Any, Any]:
        """Labels of the frames [B, T] and their log-probs [B, T]. Raises `InvalidItemsError`."""
        B, T, _ = self._array.shape
        double = self._data_type is DataType.FLOAT64
        paths = np.full((B, T), self._blank, np.int32)
        frame_scores = np.zeros((B, T), np.float64 if double else np.float32)
        for b, alignment in enumerate(collect(stream)):
            frames = self._frames[b]
            paths[b, :frames] = alignment.labels
            frame_scores[b, :frames] = self._gather(b, alignment) if double else alignment.frame_scores
        return (
            self._paths_kind.cast(paths, self._paths_dtype),
            self._scores_kind.cast(frame_scores, self._scores_dtype),
        )

    def _gather(self, b: int, alignment: CtcAlignment) -> npt.NDArray[np.float64]:
        """Frame scores in float64, which the reply has in float32."""
        labels, matrix = alignment.labels, self._array[b]
        if is_tensor(matrix) and matrix.device.type == "cpu":
            matrix = to_numpy(matrix)  # as in `taken`
        stars = np.flatnonzero(labels == STAR)
        found = to_numpy(matrix[np.arange(len(labels)), labels])  # of a star, any column
        if self._star_score is None:
            found[stars] = np.delete(to_numpy(matrix[stars]), self._blank, 1).max(1, initial=-np.inf)
        else:
            found[stars] = self._star_score
        return found
