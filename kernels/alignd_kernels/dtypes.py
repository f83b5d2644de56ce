"""The floating-point types of scores, and how they are stored.

NumPy has no bfloat16 and Numba no float16, so both halves are stored as uint16 and widened inside the kernels.
"""

import enum

import numpy as np
import numpy.typing as npt


class DType(enum.Enum):
    """Type of the scores; the value is the field's name for it (NumPy's, torch's)."""

    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"
    FLOAT32 = "float32"
    FLOAT64 = "float64"

    @property
    def storage(self) -> np.dtype[np.generic]:
        """dtype of the arrays that hold such values."""
        return np.dtype(np.uint16 if self in (DType.FLOAT16, DType.BFLOAT16) else self.value)

    @property
    def accumulator(self) -> type[np.floating]:
        """Type in which paths are summed: float64 for float64, float32 for all others."""
        return np.float64 if self is DType.FLOAT64 else np.float32


def to_storage(array: npt.NDArray[np.generic]) -> tuple[npt.NDArray[np.generic], DType]:
    """View `array` in its storage type, without a copy.

    Raises:
        TypeError: for anything but float16, bfloat16 (the `ml_dtypes` type), float32 and float64.
    """
    try:
        dtype = DType(array.dtype.name)
    except ValueError:
        raise TypeError(f"scores must be float16, bfloat16, float32 or float64, not {array.dtype.name}") from None
    return array.view(dtype.storage), dtype


def widen(storage: npt.NDArray[np.generic], dtype: DType) -> npt.NDArray[np.floating]:
    """The values of a storage array in the accumulator's type (exact)."""
    if dtype is DType.FLOAT16:
        return storage.view(np.float16).astype(np.float32)
    if dtype is DType.BFLOAT16:
        return (storage.astype(np.uint32) << 16).view(np.float32)
    return storage.view(dtype.value)
