"""What a caller gives of one utterance's attention maps."""

from collections.abc import Hashable
from dataclasses import dataclass

from alignd.wire import DataType
from alignd_client.arrays import Kind, Scores


@dataclass(slots=True, eq=False)
class AttentionItem:
    """Maps of one utterance in `data_type.storage`: 1-D, row-major; or [heads, tokens, frames] with any strides."""

    attention: Scores
    data_type: DataType
    heads: int
    tokens: int
    frames: int
    kind: Kind

    @property
    def count(self) -> int:
        return 1

    @property
    def key(self) -> Hashable:
        return self.data_type, type(self.attention)

    @property
    def nbytes(self) -> int:
        return self.attention.nbytes

    @property
    def cells(self) -> int:
        return self.attention.size

    def part(self, start: int, stop: int) -> "AttentionItem":
        return self
