"""What a caller gives of one utterance for monotonic alignment search."""

from collections.abc import Hashable
from dataclasses import dataclass

from alignd.wire import DataType
from alignd_client.arrays import Kind, Scores


@dataclass(slots=True, eq=False)
class MasItem:
    """Scores of `count` utterances of one shape in `data_type.storage`: 1-D, row-major and end to end; those of one
    also [tokens, frames] with any strides."""

    values: Scores
    data_type: DataType
    tokens: int
    frames: int
    kind: Kind
    count: int = 1

    @property
    def key(self) -> Hashable:
        return self.data_type, type(self.values)

    @property
    def nbytes(self) -> int:
        return self.values.nbytes

    @property
    def cells(self) -> int:
        return self.values.size

    def part(self, start: int, stop: int) -> "MasItem":
        size = self.tokens * self.frames
        values = self.values[start * size : stop * size]
        return MasItem(values, self.data_type, self.tokens, self.frames, self.kind, stop - start)
