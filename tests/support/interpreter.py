"""Triton's interpreter without what it does for nothing, which is most of its time.

What it computes stays as it is. It is private to the version that is installed here: another one that has not these
names is left alone.
"""

import dataclasses
from typing import Any

PATCHED = ("_LangPatchScope", "_get_np_dtype", "_patch_lang", "TritonSemantic", "interpreter_builder", "tl")


def quicken() -> None:
    """To be called before kernels run in this process."""
    from triton.runtime import interpreter

    if not all(hasattr(interpreter, name) for name in PATCHED) or hasattr(interpreter._patch_lang, "patched"):
        return
    _patch_once_a_launch(interpreter)
    _look_types_up(interpreter)
    _share_shapes(interpreter.tl, interpreter.TritonSemantic)
    # Each sum of integers is done again in int64 and compared, for an assertion that is off.
    builder: Any = interpreter.interpreter_builder
    if not builder.options.debug:
        builder.options = dataclasses.replace(builder.options, sanitize_overflow=False)


def _patch_once_a_launch(interpreter: Any) -> None:
    """Not at every call of a device function, where each member of triton.language is looked at, to find it patched."""
    patch, restore = interpreter._patch_lang, interpreter._LangPatchScope.restore
    patched: set[str] = set()
    used: dict[int, set[str]] = {}  # by a module's functions

    def patch_lang(function: Any) -> Any:
        names = function.__globals__
        modules = used.get(id(names))
        if modules is None:
            modules = {module.__name__ for module in languages if any(value is module for value in names.values())}
            used[id(names)] = modules
        if modules and modules <= patched:
            return interpreter._LangPatchScope()
        patched.update(modules)
        return patch(function)

    def restore_all(scope: Any) -> None:
        patched.clear()
        restore(scope)

    tl = interpreter.tl
    languages = (tl, tl.core)
    patch_lang.patched = patched  # type: ignore[attr-defined]
    interpreter._patch_lang, interpreter._LangPatchScope.restore = patch_lang, restore_all


def _look_types_up(interpreter: Any) -> None:
    """In a table that is made once."""
    tl, find = interpreter.tl, interpreter._get_np_dtype
    known: dict[str, Any] = {}

    def np_dtype(of: Any) -> Any:
        scalar = of.scalar
        found = known.get(scalar.name)
        if found is None:
            found = known[scalar.name] = find(scalar)
        return found

    assert np_dtype(tl.block_type(tl.int32, [4])) == find(tl.int32)
    interpreter._get_np_dtype = np_dtype


def _share_shapes(tl: Any, semantic: Any) -> None:
    """Each tensor has a type and a shape of its own, of objects of their own; and two shapes are compared number by
    number. They are never changed."""
    init, broadcast, with_element_ty = tl.tensor.__init__, semantic.broadcast_impl_value, tl.block_type.with_element_ty
    shapes: dict[Any, tuple[Any, Any]] = {}
    types: dict[Any, Any] = {}

    def tensor_init(self: Any, handle: Any, of: Any) -> None:
        key = tuple(of.shape.values) if of.is_block() else ()
        if key not in shapes:
            init(self, handle, of)
            shapes[key] = self.shape, self.numel
        self.handle, self.type, self.dtype = handle, of, of.scalar
        self.shape, self.numel = shapes[key]

    def broadcast_impl_value(self: Any, one: Any, other: Any) -> Any:
        a, b = one.type, other.type
        if a.is_block() and b.is_block() and a.shape.values == b.shape.values:
            return one, other
        return broadcast(self, one, other)

    def other_element_ty(self: Any, scalar: Any) -> Any:
        key = scalar.name, *self.shape.values
        if key not in types:
            types[key] = with_element_ty(self, scalar)
        return types[key]

    tl.tensor.__init__, semantic.broadcast_impl_value = tensor_init, broadcast_impl_value
    tl.block_type.with_element_ty = other_element_ty
