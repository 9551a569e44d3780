"""Loss expressions: "ohem(thresh=0.7)+0.5*dice" to terms, by Python's own parser, never eval."""

import ast
import math
from dataclasses import dataclass, field
from typing import Any

from segtrain.errors import UsageError

EXAMPLE = "write for example ohem, ohem(thresh=0.7) or ohem+0.5*dice"


@dataclass(frozen=True)
class Term:
    """`weight` times the loss family `name`, built with `arguments`."""

    weight: float
    name: str
    arguments: dict[str, Any] = field(default_factory=dict)


def parse_loss(expression: str) -> list[Term]:
    """The terms of a weighted sum of losses. Raises UsageError where it is none."""
    try:
        return _terms(ast.parse(expression.strip(), mode="eval").body)
    except (SyntaxError, ValueError, TypeError, RecursionError) as error:
        raise UsageError(f"loss: {expression!r} is not a loss expression; {EXAMPLE}") from error


def _terms(node: ast.expr) -> list[Term]:
    match node:
        case ast.BinOp(left, ast.Add(), right):
            return _terms(left) + _terms(right)
        case ast.BinOp(ast.Constant(weight), ast.Mult(), loss):
            return [_term(loss, _weight(weight))]
        case ast.BinOp(loss, ast.Mult(), ast.Constant(weight)):
            return [_term(loss, _weight(weight))]
    return [_term(node, 1.0)]


def _weight(value: object) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):  # a bool is an int, too
        raise ValueError(value)
    return float(value)


def _term(node: ast.expr, weight: float) -> Term:
    match node:
        case ast.Name(name):
            return Term(weight, name)
        case ast.Call(ast.Name(name), [], keywords) if all(k.arg for k in keywords):
            arguments = {k.arg: ast.literal_eval(k.value) for k in keywords}
            if len(arguments) == len(keywords):  # none is given twice
                return Term(weight, name, arguments)
    raise ValueError(ast.unparse(node))
