"""Parser of loss expressions such as "ohem(thresh=0.7)+0.5*dice"; never runs what it reads."""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from typing import Any

from segtrain.errors import UsageError

EXAMPLE = "write for example ohem, ohem(thresh=0.7), ohem(focal) or ohem+0.5*dice"


@dataclass(frozen=True)
class Term:
    """`weight` times the loss family `name`, built with `arguments` around the loss `inner`."""

    weight: float
    name: str
    arguments: dict[str, Any] = field(default_factory=dict)
    inner: Term | None = None

    def __str__(self) -> str:
        inside = [str(self.inner)] if self.inner else []
        inside += [f"{key}={value!r}" for key, value in self.arguments.items()]
        weight = "" if self.weight == 1 else f"{self.weight!r}*"
        return f"{weight}{self.name}" + (f"({', '.join(inside)})" if inside else "")


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


def _weight(value: Any) -> float:
    if type(value) not in (int, float) or not abs(value) <= 1e30:  # a bool is an int, too
        raise ValueError(value)
    return float(value)


def _term(node: ast.expr, weight: float) -> Term:
    match node:
        case ast.Name(name):
            return Term(weight, name)
        case ast.Call(ast.Name(name), inner, keywords):
            arguments = {k.arg: _value(k.value) for k in keywords if k.arg}
            if len(arguments) == len(keywords) and len(inner) <= 1:  # none comes twice or as **
                return Term(weight, name, arguments, _term(inner[0], 1.0) if inner else None)
    raise ValueError(ast.unparse(node))


def _value(node: ast.expr) -> Any:
    """A literal, or a word without quotes such as present or median-frequency."""
    match node:
        case ast.Name(word):
            return word
        case ast.BinOp(ast.Name(first), ast.Sub(), ast.Name(second)):
            return f"{first}-{second}"
    return ast.literal_eval(node)
