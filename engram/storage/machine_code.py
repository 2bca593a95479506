"""Functions compiled by numba, whose machine code is kept on disk where that works."""

from collections.abc import Callable
from functools import wraps
from typing import Any


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Return a decorator that compiles a function when it is first called.

    Other compiled functions cannot call the result; what they call is compiled with numba's njit.

    Args:
        **options: Options of numba's njit.
    """

    def compile_function(function: Callable[..., Any]) -> Any:
        from numba import njit

        try:
            kernel = njit(cache=True, **options)(function)
        except RuntimeError:  # no folder to keep machine code in
            return njit(**options)(function)

        @wraps(function)
        def call(*arguments: Any) -> Any:
            nonlocal kernel
            try:
                return kernel(*arguments)
            except Exception:
                # The machine code could not be kept, or what is kept there is damaged.
                kernel = njit(**options)(function)
                return kernel(*arguments)

        return call

    return compile_function


def prefetch(builder: Any, pointer: Any) -> None:
    """Have compiled code fetch the line of a pointer into all caches, to be written.

    Args:
        builder: llvmlite's, of a function of numba's `intrinsic`.
        pointer: A value of it.
    """
    from llvmlite import ir

    byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
    kind = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
    call = builder.module.declare_intrinsic("llvm.prefetch", (byte,), kind)
    # To be written, kept in all caches, data.
    builder.call(call, [builder.bitcast(pointer, byte), number(1), number(3), number(1)])
