"""What arguments mean that several families have."""

from typing import Any

import numpy as np

from alignd_client.arrays import integers
from alignd_client.errors import InvalidRequestError


def blank_of(blank: Any) -> int:
    """Raises `InvalidRequestError` for what can be no column of any vocabulary."""
    try:
        if isinstance(blank, bool | np.bool_):
            raise TypeError
        column = int(blank.__index__())
    except (AttributeError, TypeError):
        raise InvalidRequestError("blank", f"must be an integer, not {blank!r}") from None
    if not 0 <= column < 1 << 31:
        raise InvalidRequestError("blank", f"{column} is no column")
    return column


def flag_of(value: Any, name: str) -> bool:
    """Raises `InvalidRequestError` for what is neither True nor False: a word would be taken for True, also "no"."""
    if not isinstance(value, bool | np.bool_):
        raise InvalidRequestError(name, f"must be True or False, not {value!r}")
    return bool(value)


def padded_lengths(values: Any, name: str, items: int, most: int) -> list[int]:
    """Raises `InvalidRequestError` for lengths that the padded array has no room for: none is clipped."""
    if values is None:
        return [most] * items
    array = integers(values, name, "B")
    if len(array) != items:
        raise InvalidRequestError(name, f"{len(array)} lengths for {items} items")
    lengths: list[int] = array.tolist()
    bad = [f"item {b} has {length}" for b, length in enumerate(lengths) if not 0 <= length <= most]
    if bad:
        raise InvalidRequestError(name, f"must be between 0 and {most}, the array's size: {', '.join(bad[:8])}")
    return lengths
