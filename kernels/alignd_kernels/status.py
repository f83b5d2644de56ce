"""Why an item of a batch has, or has not, been aligned. The numbers are those of `alignd.v1.ItemCode`."""

import enum


class Status(enum.IntEnum):
    """Outcome of one item. Zero is never a status: it marks an output that no kernel has written."""

    OK = 1
    EMPTY = 2
    TOO_FEW_FRAMES = 3
    NOT_FINITE = 4
    NO_FINITE_PATH = 5
    TARGET_OUT_OF_RANGE = 6
    TARGET_IS_BLANK = 7
    ADJACENT_STARS = 8
    OUT_OF_MEMORY = 9
    INTERNAL = 10
    AUDIO_UNREADABLE = 11
    AUDIO_SILENT = 12
    TEXT_UNSUPPORTED = 13
    AUDIO_TOO_LONG = 14
    MALFORMED = 15
    TOO_LARGE = 16


class InvalidItemsError(ValueError):
    """Some items of a batch cannot be aligned.

    Attributes:
        statuses: the `Status` of each bad item, by its index in the batch.
        reasons: a sentence for each.
    """

    def __init__(self, statuses: dict[int, Status], reasons: dict[int, str]) -> None:
        self.statuses = statuses
        self.reasons = reasons
        listed = "; ".join(f"item {index}: {reasons[index]}" for index in list(statuses)[:8])
        more = f"; and {len(statuses) - 8} more" if len(statuses) > 8 else ""
        super().__init__(f"{len(statuses)} item(s) cannot be aligned: {listed}{more}")

    def __reduce__(self) -> tuple[type["InvalidItemsError"], tuple[dict[int, Status], dict[int, str]]]:
        return InvalidItemsError, (self.statuses, self.reasons)
