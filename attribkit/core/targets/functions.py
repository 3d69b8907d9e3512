"""Which functions are the same: by their code, and by the values that they see."""

import builtins
from collections.abc import Callable, Hashable
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import Any

_PLAIN = (bool, bytes, complex, float, int, str, type(None))


def key_of_function(function: Callable[..., Any]) -> Hashable:
    """Equal for functions that give the same; None where that cannot be known, as of one that sees a list.

    Counted are the code, the defaults, the closure and the global names that the code mentions.
    """
    try:
        return _key(function, ())
    except _Unknown:
        return None


class _Unknown(Exception):
    """A value that may change, or of which nothing is known."""


def _key(value: Any, outer: tuple[Any, ...]) -> Hashable:
    if isinstance(value, _PLAIN):
        return type(value), value
    if isinstance(value, tuple):
        return tuple(_key(each, outer) for each in value)
    if isinstance(value, ModuleType | BuiltinFunctionType | type):
        return value
    if isinstance(value, FunctionType) and value not in outer:
        return _of_python(value, (*outer, value))
    raise _Unknown


def _of_python(function: FunctionType, outer: tuple[Any, ...]) -> Hashable:
    code = function.__code__
    if any(isinstance(each, CodeType) for each in code.co_consts):
        raise _Unknown  # a function inside, whose names are not among these
    cells = tuple(_key(cell.cell_contents, outer) for cell in function.__closure__ or ())
    names = [name for name in code.co_names if name in function.__globals__ and not hasattr(builtins, name)]
    seen = tuple((name, _key(function.__globals__[name], outer)) for name in names)
    defaults = _key((*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).items()), outer)
    return code, cells, seen, defaults
