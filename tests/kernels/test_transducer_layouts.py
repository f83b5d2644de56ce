"""Where transducers' items lie changes nothing: pitches, buffers, reduced or not, far offsets, other machines."""

import mmap
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from kernels.strategies import GENERATORS, dyadic, normal, same_results
from kernels.subprocesses import COMPILED_FOR_AARCH64, WITHOUT_AVX_512, X86, run_script
from kernels.transducer_strategies import (
    check_transducer,
    random_labels,
    scattered,
    status_of_labels,
    transducer_arcs,
    transducer_batch,
    transducer_batches,
    transducer_item,
)

from alignd_kernels.dtypes import DType
from alignd_kernels.ragged import offsets_of
from alignd_kernels.status import Status
from alignd_kernels.transducer import cpu
from alignd_kernels.transducer.batch import TransducerBatch, reduced

SETTINGS = settings(max_examples=60, deadline=None, derandomize=True)


@SETTINGS
@given(transducer_batches(), GENERATORS)
def test_items_may_lie_in_several_buffers(batch: TransducerBatch, rng: np.random.Generator) -> None:
    same_results(cpu.align(scattered(batch, rng)), cpu.align(batch))


@SETTINGS
@given(transducer_batches(kinds=[dyadic, normal], flawed=False))
def test_reduced_log_probs_give_the_same(batch: TransducerBatch) -> None:
    arcs = [transducer_arcs(batch, b) for b in range(len(batch))]
    # Each arc is a value of the batch's type: nothing is rounded. After the last label, any number may stand.
    flat = np.concatenate([np.where(np.isinf(x), np.nan, x).reshape(-1) for x in arcs] or [np.zeros(0)])
    whole = transducer_batch([(flat.reshape(1, 1, -1), np.zeros(0, np.int32), 0)], batch.dtype).log_probs
    offsets = offsets_of(2 * batch.frames * (batch.labels + 1))[:-1]
    other = reduced(whole, batch.dtype, offsets, batch.frames, batch.labels, modified=batch.modified)
    same_results(cpu.align(other), cpu.align(batch))


@pytest.mark.parametrize("modified", [False, True])
@pytest.mark.parametrize("dtype", DType)
def test_pitches_columns_and_the_place_of_blank_change_nothing(dtype: DType, modified: bool) -> None:
    rng = np.random.default_rng(6)
    arcs = normal(rng, (70, 41, 2))
    expected = None
    for V, blank in ((2, 0), (2, 1), (3, 0), (3, 2), (40, 17)):
        labels = random_labels(rng, 40, V, blank)
        log_probs = np.full((70, 41, V), np.nan)
        log_probs[:, np.arange(40), labels] = arcs[:, :40, 1]
        log_probs[:, :, blank] = arcs[:, :, 0]
        for paddings in ({}, {"node_padding": 1}, {"frame_padding": 5}, {"gap": 3, "node_padding": 7}):
            batch = transducer_batch([(log_probs, labels, blank)] * 2, dtype, modified=modified, **paddings)
            found = cpu.align(batch)
            assert found.statuses.tolist() == [Status.OK] * 2
            same_results(found, expected or found)
            expected = found


@pytest.mark.parametrize("dtype", DType)
def test_read_only_and_unaligned_buffers(dtype: DType) -> None:
    rng = np.random.default_rng(3)
    batch = transducer_batch([(normal(rng, (20, 6, 2)), np.ones(5, np.int32), 0)], dtype)
    expected = cpu.align(batch)
    raw = b"x" + batch.log_probs.tobytes()
    unaligned = np.frombuffer(raw, batch.log_probs.dtype, offset=1)
    assert not unaligned.flags.writeable
    same_results(cpu.align(replace(batch, log_probs=unaligned)), expected)
    read_only = np.frombuffer(batch.log_probs.tobytes(), batch.log_probs.dtype)
    targets = np.frombuffer(batch.targets.tobytes(), np.int32)
    same_results(cpu.align(replace(batch, log_probs=read_only, targets=targets)), expected)


@pytest.mark.parametrize("V", [2, 3])
def test_offsets_beyond_32_bits(V: int) -> None:
    size = (1 << 31) + 5000  # bytes that are never touched cost no memory
    log_probs = np.frombuffer(mmap.mmap(-1, 4 * size), np.float32)
    near = transducer_batch([(dyadic(np.random.default_rng(7), (60, 18, V)), np.ones(17), 0)], DType.FLOAT32)
    far = replace(near, log_probs=log_probs, offsets=np.array([size - 60 * 18 * V]))
    log_probs[size - 60 * 18 * V :] = near.log_probs
    same_results(cpu.align(far), cpu.align(near))
    check_transducer(near, cpu.align(far))


def test_nodes_farther_apart_than_32_bits_can_tell() -> None:
    """Frames of an item more than 2^31 elements apart."""
    pitch = (1 << 30) + 1
    log_probs = np.frombuffer(mmap.mmap(-1, 4 * (2 * pitch + 10)), np.float32)
    near = transducer_batch([(dyadic(np.random.default_rng(8), (3, 3, 2)), np.ones(2), 0)], DType.FLOAT32)
    for t in range(3):
        log_probs[t * pitch : t * pitch + 6] = near.log_probs[t * 6 : t * 6 + 6]
    same_results(cpu.align(replace(near, log_probs=log_probs, frame_pitches=np.array([pitch]))), cpu.align(near))


GUARDED = """
from dataclasses import replace
import numpy as np
from kernels.guarded import Guarded
from kernels.strategies import dyadic, same_results
from kernels.transducer_strategies import random_labels, transducer_batch
from alignd_kernels.dtypes import DType
from alignd_kernels.transducer import cpu

rng = np.random.default_rng(0)
cpu.warm_up()
for dtype in DType:
    for V in (1, 2, 3, 40):
        for T, U in ((1, 0), (1, 9), (5, 7), (8, 8), (16, 15), (17, 31), (40, 32), (33, 33), (70, 63), (130, 65)):
            labels = random_labels(rng, U if V > 1 else 0, V, 0)
            for modified in (False, True):
                plain = transducer_batch([(dyadic(rng, (T, len(labels) + 1, V)), labels, 0)], dtype, modified=modified)
                expected = cpu.align(plain)
                for at_end in (False, True):
                    guarded = Guarded(at_end)
                    batch = replace(
                        plain, log_probs=guarded.copy(plain.log_probs), targets=guarded.copy(plain.targets)
                    )
                    with guarded.everywhere():
                        same_results(cpu.align(batch), expected)
print("all right")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="mprotect is POSIX")
def test_nothing_is_read_or_written_beyond_an_array_and_scratch_need_not_be_clean() -> None:
    assert run_script(GUARDED) == ["all", "right"]


CHECKED = """
import re
import numpy as np
from kernels.strategies import KINDS
from kernels.transducer_strategies import check_transducer, random_labels, transducer_batch
from alignd_kernels.dtypes import DType
from alignd_kernels.transducer import cpu

rng = np.random.default_rng(0)
for kind in KINDS:
    for dtype in (DType.FLOAT16, DType.FLOAT64):
        for modified in (False, True):
            sizes = [(T, U, V) for T, U in ((1, 0), (17, 15), (33, 32), (50, 33), (90, 66)) for V in (2, 3)]
            items = [(kind(rng, (T, U + 1, V)), random_labels(rng, U, V, 0), 0) for T, U, V in sizes]
            batch = transducer_batch(items, dtype, modified=modified)
            check_transducer(batch, cpu.align(batch))
assembly = "".join(cpu._align_range.inspect_asm().values())
found = [bool(re.search(name + ".*ymm", assembly)) for name in ("vaddps", "vmaxps", "vmaxpd")]
print("zmm" in assembly, "vfm" in assembly, *found)
"""


@pytest.mark.skipif(not X86, reason="AVX2 is x86's, and aarch64 is compiled for from there")
def test_without_avx_512_and_for_aarch64(tmp_path: Path) -> None:
    script = CHECKED + COMPILED_FOR_AARCH64
    found = run_script(script, "alignd_kernels.transducer.cpu", ALIGND_CACHE_DIR=str(tmp_path), **WITHOUT_AVX_512)
    assert found == ["False"] * 2 + ["True"] * 3 + ["True"] * 2


@SETTINGS
@given(transducer_batches())
def test_strategies_read_back_what_they_wrote(batch: TransducerBatch) -> None:
    for b in range(len(batch)):
        log_probs, labels, blank = transducer_item(batch, b)
        again = transducer_batch([(log_probs, labels, blank)], batch.dtype, modified=batch.modified)
        same = transducer_item(again, 0)
        np.testing.assert_array_equal(same[0], log_probs)
        assert status_of_labels(again, 0) is status_of_labels(batch, b)
