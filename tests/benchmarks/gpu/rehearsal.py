"""What stands in for the peers where there is no GPU: packages of their names whose functions are ours, on the CPU."""

from __future__ import annotations

from pathlib import Path

SUPER_MONOTONIC_ALIGN = '''
"""Stands in for super-monotonic-align in a rehearsal. Like that one, it leaves `value` overwritten."""

import alignd_kernels as ak


def maximum_path(value, mask):
    path = ak.maximum_path(value, mask)
    value.fill_(float("nan"))
    return path
'''

TORCHAUDIO = '''
"""Stands in for torchaudio in a rehearsal. Like that one, it takes one item."""

import alignd_kernels as ak


def forced_align(log_probs, targets):
    assert len(log_probs) == len(targets) == 1
    return ak.forced_align(log_probs, targets)


def rnnt_loss(logits, targets, logit_lengths, target_lengths, blank, reduction, fused_log_softmax):
    from warp_rnnt import rnnt_loss as loss

    assert (blank, reduction, fused_log_softmax) == (0, "none", False)
    return loss(logits, targets, logit_lengths, target_lengths)
'''

WARP_RNNT = '''
"""Stands in for warp-rnnt in a rehearsal."""

import alignd_kernels as ak


def rnnt_loss(log_probs, labels, frames_lengths, labels_lengths, compact=False):
    return ak.rnnt_loss(log_probs, labels, frames_lengths, labels_lengths, compact=compact)
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
