"""Soft monotonic alignment: what training of text-to-speech models takes of it. torch is imported by the first call."""

from alignd_kernels.mas.soft_binarize import attention_binarization_loss, binarize
from alignd_kernels.mas.soft_loss import forward_sum_loss
from alignd_kernels.mas.soft_padded import mas_posteriors
from alignd_kernels.mas.soft_prior import beta_binomial_prior

__all__ = [
    "attention_binarization_loss",
    "beta_binomial_prior",
    "binarize",
    "forward_sum_loss",
    "mas_posteriors",
]
