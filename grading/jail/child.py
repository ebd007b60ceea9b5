"""In the child: one program is loaded and evaluated, and every step is said at once, as a line [tag, value] of JSON.

    ["c", true]     the program compiles; said before any line of it runs
    ["l", defined]  it is loaded; whether it holds the name that was watched for
    ["v", [...]]    a test's results, encoded
    ["f", true]     every test and the call ran to the end
    ["e", text]     an exception ended the run
                    an endless loop (loops.py) ends it as well
    ["x", text]     the child could not be locked down (the first line, or a forgery)

From ["c", true] on the program shares this process, so every line may be its own.
"""

import json
import os
import sys
from collections import deque

# Values and nesting depth within one encoded result.
MAX_ITEMS = 200_000
MAX_DEPTH = 100


# --- encoding ---


def encode(value, budget: list[int], depth: int = 0):
    """JSON form of a result: None, bool, int, float and str as they are, the rest as [tag, ...].

    Subclasses are written as the builtin that they extend, from its own data, so that __eq__ and friends of the program
    count for nothing. List and tree nodes (val and next, or val, left and right) are written structurally. Anything
    else is ["o", type name], which equals nothing. Raises ValueError where MAX_ITEMS or MAX_DEPTH is exceeded.
    """
    kind = type(value)
    if value is None or kind is bool or kind is float:
        return value
    if kind is str:
        return encode_text(value)
    if kind is int:
        return value if -(1 << 62) < value < 1 << 62 else ["i", hex(value)]
    if depth > MAX_DEPTH:
        raise ValueError("result is nested too deeply")

    # Containers, by the iterator of the builtin type.
    for base, tag, items in CONTAINERS:
        if issubclass(kind, base):
            parts = list(items(value))
            budget[0] -= len(parts) + 1
            if budget[0] < 0:
                raise ValueError("result is too large")
            if base is dict:
                return [tag, *([encode(k, budget, depth + 1), encode(v, budget, depth + 1)] for k, v in parts)]
            return [tag, *(encode(item, budget, depth + 1) for item in parts)]

    # Subclasses of scalars, by the builtin's own conversion.
    if issubclass(kind, int):
        return encode(int.__index__(value), budget, depth)
    if issubclass(kind, str):
        return encode_text(str.__str__(value))
    if issubclass(kind, float):
        return float.__float__(value)
    if issubclass(kind, complex):
        return ["c", value.real, value.imag]
    if issubclass(kind, (bytes, bytearray)):
        return ["b", bytes(value).hex()]

    # Nodes of lists and trees, by their structure.
    if hasattr(value, "val") and hasattr(value, "next"):
        return ["n", *(encode(v, budget, depth + 1) for v in walk_list(value, budget))]
    if hasattr(value, "val") and hasattr(value, "left") and hasattr(value, "right"):
        return ["r", *(v and [encode(v[0], budget, depth + 1)] for v in walk_tree(value, budget))]
    return ["o", kind.__name__]


CONTAINERS = (
    (list, "l", list.__iter__), (tuple, "t", tuple.__iter__), (dict, "d", dict.items), (set, "s", set.__iter__),
    (frozenset, "s", frozenset.__iter__), (type({}.keys()), "s", iter), (deque, "q", deque.__iter__),
)  # fmt: skip


def encode_text(value: str):
    """A str as it is, or ["w", UTF-32 in hex] where it holds surrogates: JSON would join two into one character."""
    if value.isascii():
        return value
    try:
        value.encode()
    except UnicodeEncodeError:
        return ["w", value.encode("utf-32-le", "surrogatepass").hex()]
    return value


def walk_list(node, budget: list[int]) -> list:
    """Values along .next; a cycle exhausts the budget."""
    values = []
    while node is not None:
        budget[0] -= 1
        if budget[0] < 0:
            raise ValueError("linked list has a cycle or is too long")
        values.append(node.val)
        node = node.next
    return values


def walk_tree(root, budget: list[int]) -> list:
    """Values breadth first, [value] for a node and None for a missing child, without trailing gaps."""
    values = []
    level = deque([root])
    while level:
        node = level.popleft()
        budget[0] -= 1
        if budget[0] < 0:
            raise ValueError("tree has a cycle or is too large")
        values.append(None if node is None else [node.val])
        if node is not None:
            level.extend((node.left, node.right))
    while values and values[-1] is None:
        values.pop()
    return values


# --- running ---


def find_evaluator(namespace: dict, name: str):
    """The program's own evaluator: module function, else bound method of a fresh Solution; None if there is none."""
    if name in namespace:
        return namespace[name]
    solution = namespace.get("Solution")
    return getattr(solution(), name) if isinstance(solution, type) and hasattr(solution, name) else None


def describe(error: BaseException) -> str:
    """Type and start of the message, whatever the exception's own __str__ does."""
    try:
        return f"{type(error).__name__}: {error}"[:300]
    except BaseException:
        return type(error).__name__


def run_program(job: dict, setup, say) -> None:
    """Compile, load, evaluate; `say(tag, value)` streams one line each. Never returns normally on a program's error."""
    try:
        code = compile(job["source"], "<solution>", "exec", dont_inherit=True)
    except BaseException as error:
        return say("e", describe(error))
    say("c", True)
    module = type(sys)("solution")
    sys.modules["solution"] = module
    namespace = vars(module)
    try:
        # Load, with the trusted setup in the same namespace first.
        exec(setup, namespace)
        exec(code, namespace)
        name = job["watch"]
        say("l", bool(name) and (name in namespace or hasattr(namespace.get("Solution"), name)))

        # Evaluate the tests' program calls, then the program's own evaluator.
        for expressions in job["tests"]:
            say("v", [encode(eval(text, namespace), [MAX_ITEMS]) for text in expressions])
        if job["call"]:
            evaluator = find_evaluator(namespace, job["call"])
            if evaluator is None:
                return say("e", f"no {job['call']}() is defined")
            result = evaluator()
            if hasattr(result, "cr_frame") or hasattr(result, "gi_frame") or hasattr(result, "ag_frame"):
                return say("e", f"{job['call']}() is a coroutine or generator: its body never ran")
        say("f", True)
    except BaseException as error:
        say("e", describe(error))


def live(receive, trainer: int, size: int, setups: dict, lockdown, watch_loops, pipe: int) -> None:
    """The forked child's whole life: its job, no descriptor but the results' on fd 3, the lockdown, the program."""

    def say(tag: str, value, write=os.write, dumps=json.dumps) -> None:
        """Write one line: at once, since what is said before a hang may settle the Grade."""
        data = f"{dumps([tag, value])}\n".encode()
        while data:
            data = data[write(3, data) :]

    def end_loop(end=os._exit) -> None:
        """The program is in a loop that cannot end."""
        say("e", "endless loop")
        end(0)

    try:
        job = json.loads(receive(trainer, size))
        null = os.open(os.devnull, os.O_RDWR)  # its own: one that is inherited has a state that others share
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        os.dup2(pipe, 3)
        os.closerange(4, 256)
        os.setsid()
        lockdown.apply()
        setup = setups[job["setup"]]
        watch_loops(end_loop)
    except BaseException as error:
        say("x", describe(error))
        os._exit(1)
    run_program(job, setup, say)
