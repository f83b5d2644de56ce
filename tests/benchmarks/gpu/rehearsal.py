"""What stands in for the peers where there is no GPU: packages of their names whose functions are ours."""

from __future__ import annotations

from pathlib import Path

SUPER_MONOTONIC_ALIGN = '''
"""Stands in for super-monotonic-align in a rehearsal. Like that one, it leaves `value` overwritten."""

import torch

from alignd_kernels.mas.gpu_padded import maximum_path_on_gpu


def maximum_path(value, mask, dtype=torch.float32):
    path = maximum_path_on_gpu(value, mask, dtype, True)
    value.fill_(float("nan"))
    return path
'''

TORCHAUDIO = '''
"""Stands in for torchaudio in a rehearsal. Like that one, it takes one item."""

from alignd_kernels.ctc.gpu_padded import forced_align_on_gpu


def forced_align(log_probs, targets):
    assert len(log_probs) == len(targets) == 1
    return forced_align_on_gpu(log_probs, targets, None, None, 0, 0.0, True)


def rnnt_loss(logits, targets, logit_lengths, target_lengths, blank, reduction, fused_log_softmax):
    from warp_rnnt import rnnt_loss as loss

    assert (blank, reduction, fused_log_softmax) == (0, "none", False)
    return loss(logits, targets, logit_lengths, target_lengths)
'''

WARP_RNNT = '''
"""Stands in for warp-rnnt in a rehearsal."""

from benchmarks.gpu.place import Interpreter


def rnnt_loss(log_probs, labels, frames_lengths, labels_lengths, compact=False):
    return Interpreter().rnnt_loss(log_probs, labels, frames_lengths, labels_lengths, compact)
'''

WHISPER = '''
"""Stands in for whisper in a rehearsal."""

import alignd_kernels as ak


def dtw_cuda(costs):
    return ak.align_attention(-costs[None, None], mode="dtw").starts
'''


def write_peers(folder: Path) -> Path:
    """Checkouts in `folder`."""
    files = {
        "super-monotonic-align/super_monotonic_align/__init__.py": SUPER_MONOTONIC_ALIGN,
        "audio/torchaudio/__init__.py": "",
        "audio/torchaudio/functional.py": TORCHAUDIO,
        "warp-rnnt/warp_rnnt/__init__.py": WARP_RNNT,
        "whisper/whisper/__init__.py": "",
        "whisper/whisper/timing.py": WHISPER,
    }
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.lstrip())
    return folder
