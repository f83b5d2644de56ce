"""What the batches of all families have on a device."""

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch

from alignd_kernels.dtypes import DType
from alignd_kernels.gpu_common import DTYPES, accumulator_of
from alignd_kernels.gpu_copies import together


class OnDevice(ABC):
    """Base of a family's batch, a dataclass of tensors.

    Attributes:
        table: int64 [rows, B + 1], numbers of each item.
    """

    __slots__ = ()

    table: torch.Tensor

    @property
    @abstractmethod
    def given(self) -> torch.Tensor:
        """The scores that the batch is made of."""

    @property
    def items(self) -> int:
        """B."""
        return int(self.table.shape[1]) - 1

    @property
    def device(self) -> torch.device:
        """Where it lies."""
        return self.given.device

    @property
    def dtype(self) -> DType:
        """Of the scores."""
        return DTYPES[self.given.dtype]

    def empty(self, size: int, dtype: torch.dtype | None = None) -> torch.Tensor:
        """Memory for so many, of the accumulator's type if none is given."""
        return torch.empty(size, dtype=accumulator_of(self.dtype) if dtype is None else dtype, device=self.device)

    def sums(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Memory for the costs, scores and statuses of `DeviceSums`. The costs' is their own: losses return them, and
        torch lets nobody change a part of something else in place."""
        scores, statuses = together(self.device, (self.items, torch.float64), (self.items, torch.int32))
        return self.empty(self.items), scores, statuses


class DeviceSums(NamedTuple):
    """Sums over all paths of a batch, on its device.

    Attributes:
        costs: of the accumulator's type [B]: negative log-likelihoods, NaN or +inf as the family's results say.
        scores: float64 [B], log-likelihoods, NaN unless OK.
        statuses: int32 [B].
        found: of the accumulator's type, posteriors or the costs' derivatives, as the function says; or None.
    """

    costs: torch.Tensor
    scores: torch.Tensor
    statuses: torch.Tensor
    found: torch.Tensor | None
