"""`tests/benchmarks/gpu.sh`: everything that needs a GPU, in stages, from the source tree.

- `stages`: commands with time limits, one after another; `plan`: which; `summary`: what came out.
- `place`: the CUDA device, or in a rehearsal Triton's interpreter on the CPU.
- `cases`, `real_shapes`: what `timings` times; `losses`, `alignments`: what `functions` does; `rnnt`: a table.
- `peers`: beside whom; `rehearsal`: who stands in for them.
- `engine`: where a batch's time goes; `small_cases` and `memcheck`: no access out of bounds.
"""
