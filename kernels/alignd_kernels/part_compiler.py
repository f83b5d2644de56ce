"""Numba's compiler for functions that only kernels call.

A part is linked, as LLVM's intermediate code, into each kernel that calls it, and optimised there with the rest. To
optimise it and turn it into machine code on its own too, as Numba does for what Python calls, took a fifth of the time
that kernels take to compile.
"""

from typing import Any

from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler


class _PartLibrary(JITCodeLibrary):  # type: ignore[misc]
    """What is compiled of one part: never run, only linked."""

    def _optimize_final_module(self) -> None:
        pass

    def _finalize_final_module(self) -> None:
        self._finalized = True

    def get_pointer_to_function(self, name: str) -> int:
        return 0

    @property
    def codegen(self) -> "_PartLibrary":
        return self

    def set_env(self, name: str, environment: Any) -> None:
        """Where machine code would find Python's objects: a part has none, see `compile_cache.part`."""


class PartCompiler(Compiler):  # type: ignore[misc]
    def define_pipelines(self) -> Any:
        state = self.state
        state.library = _PartLibrary(state.targetctx.codegen(), state.func_id.func_qualname)
        return super().define_pipelines()
