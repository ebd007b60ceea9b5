"""What a program's syntax tree says by itself: which statements run, what they bind, call and return."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from itertools import islice

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
LITERALS = (ast.Constant, ast.List, ast.Tuple, ast.Set, ast.Dict, ast.UnaryOp)


def run_statements(body: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements that run with the body: those in if, for, while, with and try too, not those in functions.

    What stands under `if __name__ == ...` is left out: it does not run.
    """
    for node in body:
        if isinstance(node, ast.If) and "__name__" in ast.unparse(node.test):
            yield from run_statements(node.orelse)
            continue
        yield node
        if not isinstance(node, (*FUNCTIONS, ast.ClassDef)):
            for field in ("body", "orelse", "finalbody"):
                yield from run_statements(getattr(node, field, []))
            for part in (*getattr(node, "handlers", []), *getattr(node, "cases", [])):
                yield from run_statements(part.body)


def names_bound(node: ast.stmt) -> set[str]:
    """Names and attributes (their last part) that a statement binds."""
    if isinstance(node, (*FUNCTIONS, ast.ClassDef)):
        return {node.name}
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        return {(alias.asname or alias.name).split(".")[0] for alias in node.names}
    targets = getattr(node, "targets", None) or [getattr(node, "target", None)]
    found = {n.id for t in targets if t is not None for n in ast.walk(t) if isinstance(n, ast.Name)}
    return found | {t.attr for t in targets if isinstance(t, ast.Attribute)}


def root_name(node) -> str | None:
    """The first name of a chain of calls, attributes and subscripts."""
    while isinstance(node, (ast.Call, ast.Attribute, ast.Subscript)):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else None


def callee(node: ast.Call) -> str:
    """Dotted name of what a call calls; ".name" for a method of an expression, "" if there is no name."""
    parts = []
    function = node.func
    while isinstance(function, ast.Attribute):
        parts.append(function.attr)
        function = function.value
    parts.append(function.id if isinstance(function, ast.Name) else "")
    return ".".join(reversed(parts))


def literal_text(node) -> str:
    """repr of a literal's value, "" if the expression is none or a long one."""
    if not isinstance(node, LITERALS) or sum(1 for _ in islice(ast.walk(node), 200)) == 200:
        return ""
    try:
        return repr(ast.literal_eval(node))
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return ""


def conjunction_text(node) -> str:
    """`a == 1 and b == 2` as "[1, 2]", "" if it is anything else."""
    parts = node.values if isinstance(node, ast.BoolOp) else [node]
    if not all(isinstance(p, ast.Compare) and isinstance(p.ops[0], ast.Eq) for p in parts):
        return ""
    values = [literal_text(p.comparators[0]) for p in parts]
    return f"[{', '.join(values)}]" if all(values) else ""
