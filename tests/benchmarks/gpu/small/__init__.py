"""Small batches of odd sizes of every family against its reference, a module a family.

Each has `KERNELS`, modules whose `warm_up` compiles what is launched, and `check(place, dtype, count)`, which takes
that many of its shapes and raises `WrongAnswerError`.
"""
