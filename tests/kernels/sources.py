"""What tests read off the kernels' sources."""

import ast
import inspect
from types import ModuleType


def barriers_in(module: ModuleType) -> int:
    """How many barriers the source of a module's kernels holds."""
    calls = (node for node in ast.walk(ast.parse(inspect.getsource(module))) if isinstance(node, ast.Call))
    return sum(isinstance(call.func, ast.Attribute) and call.func.attr == "debug_barrier" for call in calls)
