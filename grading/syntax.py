"""What a program's syntax tree says by itself: which statements run, what they bind, call and return."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from itertools import islice

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
LITERALS = (ast.Constant, ast.List, ast.Tuple, ast.Set, ast.Dict, ast.UnaryOp)


def is_main_guard(node: ast.AST) -> bool:
    """`if __name__ == ...`: what stands under it does not run."""
    return isinstance(node, ast.If) and any(isinstance(n, ast.Name) and n.id == "__name__" for n in ast.walk(node.test))


def run_statements(body: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements that run with the body, in order: also those in if, for, while, with and try, not in functions."""
    todo = list(reversed(body))
    while todo:
        node = todo.pop()
        if is_main_guard(node):
            todo += reversed(node.orelse)
            continue
        yield node
        if isinstance(node, (*FUNCTIONS, ast.ClassDef)):
            continue
        inner = [*getattr(node, "body", []), *getattr(node, "orelse", []), *getattr(node, "finalbody", [])]
        for part in (*getattr(node, "handlers", []), *getattr(node, "cases", [])):
            inner += part.body
        todo += reversed(inner)


def run_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those under a main guard, each before the nodes in it."""
    todo = [tree]
    while todo:
        node = todo.pop()
        if is_main_guard(node):
            todo += node.orelse
            continue
        yield node
        todo += ast.iter_child_nodes(node)


def names_bound(node: ast.stmt) -> set[str]:
    """Names and attributes (their last part) that a statement binds."""
    if isinstance(node, (*FUNCTIONS, ast.ClassDef)):
        return {node.name}
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        return {(alias.asname or alias.name).split(".")[0] for alias in node.names}
    targets = getattr(node, "targets", None) or [getattr(node, "target", None)]
    found = {n.id for t in targets if t is not None for n in ast.walk(t) if isinstance(n, ast.Name)}
    return found | {t.attr for t in targets if isinstance(t, ast.Attribute)}


def names_made(nodes: Sequence[ast.AST]) -> set[str]:
    """Names that a program makes its own in any scope: variables, parameters, functions, classes; not its imports."""
    names = {n.id for n in nodes if isinstance(n, ast.Name) and not isinstance(n.ctx, ast.Load)}
    names |= {n.arg for n in nodes if isinstance(n, ast.arg)}
    return names | {n.name for n in nodes if isinstance(n, (*FUNCTIONS, ast.ClassDef, ast.ExceptHandler)) and n.name}


def imported_paths(nodes: Sequence[ast.AST]) -> dict[str, str]:
    """Dotted path behind every name that is imported, such as "os.environ"."""
    paths = {}
    for node in nodes:
        for alias in node.names if isinstance(node, (ast.Import, ast.ImportFrom)) else ():
            if isinstance(node, ast.ImportFrom):
                paths[alias.asname or alias.name] = f"{node.module}.{alias.name}"
            elif alias.asname:
                paths[alias.asname] = alias.name
            else:
                paths[alias.name.split(".")[0]] = alias.name.split(".")[0]
    return paths


def dotted_name(node: ast.AST) -> str:
    """a.b.c of a Name or a chain of attributes, "" of anything else."""
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join(reversed([*parts, node.id])) if isinstance(node, ast.Name) else ""


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
