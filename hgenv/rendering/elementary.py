"""Elementary functions of single precision that a compiler can vectorize: branch-free, the same bits at any width."""

# What numba compiles is typed by numba.
# mypy: allow-untyped-defs, no-check-untyped-defs

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import types
from numba.extending import intrinsic

from ..jit import njit

_ONE, _TWO, _QUARTER = (np.float32(x) for x in (1, 2, 0.25))
_ROUNDER = np.float32(1.5 * 2**23)  # added and taken away, it leaves the nearest integer
_LIMIT = np.float32(126)
_SQRT_HALF_BITS = 0x3F3504F3
_EXP2 = tuple(np.float32(math.log(2) ** n / math.factorial(n)) for n in range(8))
_SINE = tuple(np.float32((-1) ** n * (2 * math.pi) ** (2 * n + 1) / math.factorial(2 * n + 1)) for n in range(6))
_LOG2 = tuple(np.float32(2 / math.log(2) / (2 * n + 1)) for n in range(5))

_compiled = njit(error_model="numpy")


@intrinsic
def _bits_of(_: Any, x: Any) -> Any:
    def generate(context: Any, builder: Any, _: Any, args: Any) -> Any:
        return builder.bitcast(args[0], context.get_value_type(types.int32))

    return types.int32(types.float32), generate


@intrinsic
def _from_bits(_: Any, x: Any) -> Any:
    def generate(context: Any, builder: Any, _: Any, args: Any) -> Any:
        return builder.bitcast(args[0], context.get_value_type(types.float32))

    return types.float32(types.int32), generate


@intrinsic
def sqrt(_: Any, x: Any) -> Any:
    """The square root of a number that is not negative."""

    def generate(context: Any, builder: Any, _: Any, args: Any) -> Any:
        function = builder.module.declare_intrinsic("llvm.sqrt", [context.get_value_type(types.float32)])
        return builder.call(function, args)

    return types.float32(types.float32), generate


@intrinsic
def where(_: Any, condition: Any, x: Any, y: Any) -> Any:
    """X where the condition holds, else y: both are evaluated, so that loops stay free of branches."""

    def generate(_: Any, builder: Any, __: Any, args: Any) -> Any:
        return builder.select(*args)

    return x(types.boolean, x, x), generate


@_compiled
def exp2(x):
    """2**x, for |x| <= 126."""
    x = min(max(x, -_LIMIT), _LIMIT)
    whole = (x + _ROUNDER) - _ROUNDER
    f = x - whole
    p = _EXP2[7]
    p = p * f + _EXP2[6]
    p = p * f + _EXP2[5]
    p = p * f + _EXP2[4]
    p = p * f + _EXP2[3]
    p = p * f + _EXP2[2]
    p = p * f + _EXP2[1]
    p = p * f + _EXP2[0]
    return p * _from_bits(np.int32((np.int32(whole) + 127) << 23))


@_compiled
def log2(x):
    """Logarithm of a positive normal number; 0 at 1 exactly."""
    bits = _bits_of(x)
    exponent = np.int32(np.int32(bits - _SQRT_HALF_BITS) >> 23)
    f = _from_bits(np.int32(bits - (exponent << 23))) - _ONE
    s = f / (_TWO + f)
    z = s * s
    p = _LOG2[4]
    p = p * z + _LOG2[3]
    p = p * z + _LOG2[2]
    p = p * z + _LOG2[1]
    p = p * z + _LOG2[0]
    return np.float32(exponent) + p * s


@_compiled
def cos_turns(x):
    """cos(2 pi x), for |x| < 2**22."""
    y = x - ((x + _ROUNDER) - _ROUNDER)
    y = _QUARTER - abs(y)
    z = y * y
    p = _SINE[5]
    p = p * z + _SINE[4]
    p = p * z + _SINE[3]
    p = p * z + _SINE[2]
    p = p * z + _SINE[1]
    p = p * z + _SINE[0]
    return p * y
