"""How results show themselves: in a few lines, however long their arrays are."""

import sys
from dataclasses import fields
from typing import Any, Final

import numpy as np

from alignd_client.arrays import is_tensor, to_numpy

_WHOLE: Final = 8
"""So many values are shown; of more the ends."""

_ENDS: Final = 3


class Brief:
    """A dataclass whose `repr` shows the ends of long arrays and tuples."""

    __slots__ = ()

    def __repr__(self) -> str:
        shown = (f"{field.name}={_shown(getattr(self, field.name))}" for field in fields(self) if field.repr)  # type: ignore[arg-type]
        return f"{type(self).__qualname__}({', '.join(shown)})"


def _shown(value: Any) -> str:
    if isinstance(value, np.ndarray) or is_tensor(value):
        return _array(value)
    if isinstance(value, tuple) and len(value) > _WHOLE:
        ends = [*map(repr, value[:_ENDS]), "...", *map(repr, value[-_ENDS:])]
        return f"({', '.join(ends)})"
    return repr(value)


def _array(value: Any) -> str:
    with np.printoptions(threshold=_WHOLE, edgeitems=_ENDS, linewidth=sys.maxsize):
        text = " ".join(repr(to_numpy(value)).split())
    if not is_tensor(value):
        return text
    device = "" if value.device.type == "cpu" else f", device='{value.device}'"
    return f"tensor{text.removeprefix('array')[:-1]}{device})"
