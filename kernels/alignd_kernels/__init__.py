"""Alignment kernels: exact best paths of monotonic alignment search, CTC and transducers, ragged, batched, on CPU and
GPU.

Importing this package imports neither Numba nor torch: the first call does, for the device that it is made on.
"""

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from alignd_kernels.attention.padded import align_attention
from alignd_kernels.ctc.batch import STAR
from alignd_kernels.ctc.loss import ctc_loss
from alignd_kernels.ctc.padded import forced_align
from alignd_kernels.ctc.priors import ctc_label_priors, subtract_label_priors
from alignd_kernels.ctc.sum_padded import ctc_posteriors
from alignd_kernels.ctc.target_columns import ctc_column_targets, ctc_target_columns
from alignd_kernels.dtypes import DType
from alignd_kernels.mas.latents_padded import maximum_path_from_latents
from alignd_kernels.mas.padded import maximum_path
from alignd_kernels.mas.soft import (
    attention_binarization_loss,
    beta_binomial_prior,
    binarize,
    forward_sum_loss,
    mas_posteriors,
)
from alignd_kernels.status import InvalidItemsError, Status
from alignd_kernels.stepwise.functions import choose_heads, focus_rate, stepwise_expectation, stepwise_hard
from alignd_kernels.transducer.loss import rnnt_loss
from alignd_kernels.transducer.padded import transducer_align
from alignd_kernels.transducer.sum_padded import transducer_posteriors

if TYPE_CHECKING:
    from alignd_kernels.stepwise.module import (
        StepwiseMonotonicMultiheadAttention as StepwiseMonotonicMultiheadAttention,
    )

__version__ = "0.1.0"

__all__ = [
    "STAR",
    "DType",
    "InvalidItemsError",
    "Status",
    "align_attention",
    "attention_binarization_loss",
    "beta_binomial_prior",
    "binarize",
    "choose_heads",
    "compile_seconds",
    "ctc_column_targets",
    "ctc_label_priors",
    "ctc_loss",
    "ctc_posteriors",
    "ctc_target_columns",
    "focus_rate",
    "forced_align",
    "forward_sum_loss",
    "mas_posteriors",
    "maximum_path",
    "maximum_path_from_latents",
    "rnnt_loss",
    "stepwise_expectation",
    "stepwise_hard",
    "subtract_label_priors",
    "transducer_align",
    "transducer_posteriors",
    "warm_up",
]


def __getattr__(name: str) -> Any:
    # A layer is made of torch's: it can be defined only once torch has been imported. It is not in `__all__`, since
    # `import *` would need torch then.
    if name == "StepwiseMonotonicMultiheadAttention":
        from alignd_kernels.stepwise.module import StepwiseMonotonicMultiheadAttention

        return StepwiseMonotonicMultiheadAttention
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def warm_up(dtypes: Iterable[DType] = tuple(DType)) -> None:
    """Compile the CPU kernels of all families for these types, or load them from the cache.

    The cache is in `ALIGND_CACHE_DIR`, by default the user's cache folder.
    """
    from alignd_kernels.attention import cpu as attention
    from alignd_kernels.ctc import cpu as ctc
    from alignd_kernels.ctc import cpu_sum as ctc_sums
    from alignd_kernels.mas import cpu as mas
    from alignd_kernels.mas import cpu_latents, cpu_sum, dense, masks, soft_blank, soft_rows
    from alignd_kernels.stepwise import cpu as stepwise
    from alignd_kernels.transducer import cpu as transducer
    from alignd_kernels.transducer import cpu_sum as transducer_sums
    from alignd_kernels.transducer import dense_gradient

    wanted = tuple(dtypes)
    ctc.warm_up(wanted)
    ctc_sums.warm_up(wanted)
    mas.warm_up(wanted)
    cpu_latents.warm_up(wanted)
    cpu_sum.warm_up(wanted)
    soft_blank.warm_up(wanted)
    soft_rows.warm_up(wanted)
    masks.warm_up()
    dense.warm_up()
    stepwise.warm_up(wanted)
    transducer.warm_up(wanted)
    transducer_sums.warm_up(wanted)
    dense_gradient.warm_up(wanted)
    attention.warm_up(wanted)


def compile_seconds() -> float:
    """Seconds that this process has spent compiling kernels, on a GPU loading them included."""
    backends = (sys.modules.get(f"alignd_kernels.{name}") for name in ("compile_cache", "gpu_common"))
    return sum((backend.compile_seconds() for backend in backends if backend), 0.0)
