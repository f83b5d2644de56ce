"""What a caller gives of one utterance for CTC forced alignment."""

from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from alignd.wire import DataType
from alignd_client.arrays import Kind, Scores

Int32Array = npt.NDArray[np.int32]


@dataclass(slots=True, eq=False)
class CtcItem:
    """Emissions and labels of `count` utterances of one shape: `log_probs` 1-D, row-major and end to end, that of one
    also [frames, vocabulary] with any strides; `targets` end to end, as many labels for each. Of one that is reduced
    (`ctc_columns`) `vocabulary` counts its own columns, and `numbered` are the targets that name these; blank is 0."""

    log_probs: Scores
    data_type: DataType
    frames: int
    vocabulary: int
    targets: Int32Array
    kind: Kind
    count: int = 1
    numbered: Int32Array | None = None

    @property
    def sent(self) -> Int32Array:
        """Targets as a request has them."""
        return self.targets if self.numbered is None else self.numbered

    @property
    def labels(self) -> int:
        """Of each."""
        return len(self.targets) // self.count

    @property
    def key(self) -> Hashable:
        return self.data_type, self.vocabulary, type(self.log_probs), self.numbered is None

    @property
    def nbytes(self) -> int:
        return self.log_probs.nbytes + self.targets.nbytes

    @property
    def cells(self) -> int:
        return self.count * self.frames * (2 * self.labels + 1)

    def part(self, start: int, stop: int) -> "CtcItem":
        size, labels = self.frames * self.vocabulary, self.labels
        log_probs, targets = self.log_probs[start * size : stop * size], self.targets[start * labels : stop * labels]
        return CtcItem(log_probs, self.data_type, self.frames, self.vocabulary, targets, self.kind, stop - start)
