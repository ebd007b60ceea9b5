"""Notices a loop that cannot end: one that comes back to a state REPEATS times and does nothing but read.

After 0.1 s of CPU, and at doubling intervals, a signal has up to EVENTS instructions of the program traced. If each of
them only reads, computes and jumps (PURE), or calls a function that does no more (Python's are traced, C's stand in
PURE_CALLS), the future depends on the variables alone; if those are the same at the same jump back, it is the past
again. A loop of SIMPLE instructions has no way out at all, and its integers may change. Whatever else is met ends the
look: `for` loops, as their iterators hold state, anything that stores into an object, calls of types, generators,
exceptions. So a program that would end is never taken for one that would not.
"""

import signal
import sys
from opcode import opname

# CPU seconds before the first look; how many looks, instructions of a look, and equal states in a row that are proof.
FIRST_S = 0.1
LOOKS = 8
EVENTS = 4000
REPEATS = 20
# Frames below the recursion limit that a look may need: none is begun or goes on with fewer.
HEADROOM = 50

# Arguments of BINARY_OP for + and -, and from which on it works in place, which may change a list or set.
PLUS_MINUS = (0, 10, 13, 23)
IN_PLACE = 13
# Instructions without effect but on the stack and on variables, by their names in CPython 3.11 to 3.14. SIMPLE ones
# have no condition and raise nothing, as long as BINARY_OP adds or subtracts integers.
JUMPS = {"JUMP_BACKWARD", "JUMP_BACKWARD_NO_INTERRUPT", "POP_JUMP_BACKWARD_IF_FALSE", "POP_JUMP_BACKWARD_IF_TRUE",
         "POP_JUMP_BACKWARD_IF_NONE", "POP_JUMP_BACKWARD_IF_NOT_NONE"}  # fmt: skip
CALLS = {"CALL", "CALL_KW"}
STORES = {"STORE_FAST", "STORE_NAME", "STORE_DEREF"}
SIMPLE = {"CACHE", "RESUME", "NOP", "LOAD_CONST", "LOAD_SMALL_INT", "LOAD_FAST", "LOAD_FAST_BORROW",
          "LOAD_FAST_LOAD_FAST", "LOAD_FAST_BORROW_LOAD_FAST_BORROW", "STORE_FAST", "BINARY_OP",
          "JUMP_BACKWARD"}  # fmt: skip
PURE = JUMPS | CALLS | STORES | SIMPLE | {
    "NOT_TAKEN", "PRECALL", "KW_NAMES", "PUSH_NULL", "POP_TOP", "COPY", "SWAP", "MAKE_CELL", "COPY_FREE_VARS",
    "LOAD_FAST_CHECK", "LOAD_NAME", "LOAD_GLOBAL", "LOAD_DEREF", "LOAD_CLOSURE", "LOAD_ATTR", "LOAD_METHOD",
    "UNARY_POSITIVE", "UNARY_NEGATIVE", "UNARY_NOT", "UNARY_INVERT", "TO_BOOL", "BINARY_SUBSCR", "BINARY_SLICE",
    "BUILD_TUPLE", "BUILD_SLICE", "COMPARE_OP", "IS_OP", "CONTAINS_OP", "UNPACK_SEQUENCE", "JUMP_FORWARD",
    "JUMP_IF_FALSE_OR_POP", "JUMP_IF_TRUE_OR_POP", "POP_JUMP_FORWARD_IF_FALSE", "POP_JUMP_FORWARD_IF_TRUE",
    "POP_JUMP_FORWARD_IF_NONE", "POP_JUMP_FORWARD_IF_NOT_NONE", "POP_JUMP_IF_FALSE", "POP_JUMP_IF_TRUE",
    "POP_JUMP_IF_NONE", "POP_JUMP_IF_NOT_NONE", "RETURN_VALUE", "RETURN_CONST",
}  # fmt: skip
PURE_CALLS = (len, min, max, abs, sum, ord, chr, divmod, isinstance, pow, round)
# Loads that say which value is on top of the stack, and types in which `in` only looks: of an iterator it takes.
TOP_LOADS = {"LOAD_CONST", "LOAD_FAST", "LOAD_FAST_BORROW", "LOAD_NAME", "LOAD_DEREF", "LOAD_GLOBAL"}
CONTAINERS = (list, tuple, dict, set, frozenset, str, bytes, range)
# Values of these types are compared; others must be the very same object.
SCALARS = (int, float, bool, str, bytes, complex, type(None))
# The file of the code that runs programs.
HARNESS = __file__.replace("loops.py", "child.py")
# Code that suspends and goes on: generators, coroutines, asynchronous generators.
SUSPENDS = 0x20 | 0x80 | 0x200


class LoopWatch:
    """`found()` is called where the program is in a loop that cannot end; it must not return."""

    def __init__(self, found) -> None:
        self.found = found
        self.looks = 0
        self.looking = False
        self.code: dict = {}

    def arm(self) -> None:
        """Start, in the process of the program."""
        signal.signal(signal.SIGPROF, self.look)
        signal.setitimer(signal.ITIMER_PROF, FIRST_S)

    def look(self, number: int, frame) -> None:
        """`begin`, and nothing that reaches the program where its last frames leave no room even for that."""
        try:  # noqa: SIM105 (contextlib would be another frame)
            self.begin(frame)
        except RecursionError:
            pass

    def begin(self, frame) -> None:
        """Begin to trace, unless the program traces itself, is told of signals or is close to the recursion limit."""
        if self.looking:  # an earlier look has not ended
            sys.settrace(None)
            sys.setprofile(None)
        self.looks += 1
        if self.looks < LOOKS:
            signal.setitimer(signal.ITIMER_PROF, FIRST_S * 2 ** (self.looks - 1))
        self.room = sys.getrecursionlimit() - HEADROOM
        outer = frame
        while outer is not None:
            self.room -= 1
            outer = outer.f_back
        if self.room < 0:
            return
        handlers = [signal.getsignal(s) for s in signal.valid_signals() if s not in (signal.SIGPROF, signal.SIGINT)]
        harness = frame is None or frame.f_code.co_filename == HARNESS
        if harness or sys.gettrace() or sys.getprofile() or any(map(callable, handlers)):
            return
        self.events = 0
        self.call_pending = False
        self.simple = True  # nothing else since the last jump back
        self.in_place = 0  # 1 after an operation in place, 2 after the store that follows it
        self.before = None, "", 0  # the last instruction: its frame, name and argument
        self.silent = None  # a frame that was entered, of which no instruction was seen yet
        self.follow(frame)
        self.looking = True
        sys.settrace(self.trace)
        sys.setprofile(self.profile)

    def follow(self, frame) -> None:
        """Look for the loop in this frame from now on."""
        self.frame = frame
        self.visits: dict = {}
        self.watch(frame)

    def watch(self, frame):
        """Have every instruction of a frame traced."""
        frame.f_trace = self.trace
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        return self.trace

    def end(self) -> None:
        """Trace no more, and let go of the program's objects."""
        sys.settrace(None)
        sys.setprofile(None)
        self.looking = False
        self.frame = self.stored = self.silent = None
        self.before = None, "", 0
        self.visits = {}

    def profile(self, frame, event: str, argument) -> None:
        """Calls of C functions: those that only read may be followed."""
        if event == "c_call":
            self.call_pending = False
            if not any(argument is pure for pure in PURE_CALLS):
                self.end()

    def trace(self, frame, event: str, argument):
        """What sys.settrace calls. Raises nothing, as that would reach the program."""
        try:
            if event == "opcode":
                self.instruction(frame)
            elif event == "call":
                self.call_pending = False
                self.room -= 1
                if frame.f_code.co_flags & SUSPENDS or self.room < 0 or self.silent is not None:
                    self.end()
                self.silent = frame
                return self.watch(frame)
            elif event == "return":
                self.room += 1
                if self.silent is not None:
                    self.end()
                if frame is not self.frame:
                    return self.trace
                outer = frame.f_back
                if outer is None or outer.f_code.co_filename == HARNESS:
                    self.end()
                else:
                    self.follow(outer)
            elif event == "exception":
                self.end()
        except Exception:
            self.end()
        return self.trace

    def instruction(self, frame) -> None:
        """One instruction that is about to run."""
        self.events += 1
        if frame is self.silent:
            self.silent = None
        code = frame.f_code
        if id(code) not in self.code:
            self.code[id(code)] = code, code.co_code
        instructions = self.code[id(code)][1]
        at = frame.f_lasti
        name, argument = opname[instructions[at]], instructions[at + 1]
        before, self.before = self.before, (frame, name, argument)
        if name not in PURE or self.call_pending or self.events > EVENTS:  # pending: nobody said what was called
            return self.end()
        if at >= 2 and opname[instructions[at - 2]] == "EXTENDED_ARG":  # the argument is not all of it
            return self.end()

        # What a helper stores must be its own, and where it looks for something must be known.
        if name in STORES and frame is not self.frame and not is_own(code, name, argument):
            return self.end()
        if name == "CONTAINS_OP" and not (before[0] is frame and isinstance(top_value(*before), CONTAINERS)):
            return self.end()

        # An operation in place must be followed by a store, and what it stored must be a value that cannot change.
        if self.in_place == 1:
            if name not in STORES:
                return self.end()
            self.stored = frame, stored_name(code, name, argument)
            self.in_place = 2
        elif self.in_place == 2:
            where, variable = self.stored
            if where is not frame or type(frame.f_locals[variable]) not in SCALARS:
                return self.end()
            self.in_place = 0
        if name == "BINARY_OP" and argument >= IN_PLACE:
            self.in_place = 1
        self.call_pending = name in CALLS
        adds = name != "BINARY_OP" or argument in PLUS_MINUS
        self.simple = self.simple and frame is self.frame and name in SIMPLE and adds
        if name in JUMPS and frame is self.frame:
            self.compare(at, frame.f_locals)

    def compare(self, at: int, variables: dict) -> None:
        """Take note that the loop has come to this jump in this state."""
        if any(hasattr(value, "__next__") for value in variables.values()):  # `in` takes from an iterator
            return self.end()
        if at not in self.visits:
            self.visits[at] = Visits(dict(variables))
        elif self.visits[at].note(dict(variables), self.simple):
            self.end()
            self.found()
        self.simple = True


class Visits:
    """How often a loop came to one jump in a state that it was in before."""

    def __init__(self, variables: dict) -> None:
        self.reference = self.last = variables
        # Visits since the reference was seen, after how many another one is taken, how often it was seen.
        self.age, self.patience, self.times = 0, 4, 0
        # Visits in a row between which nothing but SIMPLE instructions ran.
        self.simple_times = 0

    def note(self, variables: dict, simple: bool) -> bool:
        """Whether this visit is proof that the loop cannot end."""
        if is_same(self.reference, variables):
            self.times += 1
            self.age = 0
        elif self.age < self.patience:
            self.age += 1
        else:
            self.reference, self.times, self.age = variables, 0, 0
            self.patience *= 2
        self.simple_times = self.simple_times + 1 if simple and is_same(self.last, variables, int) else 0
        self.last = variables
        return max(self.times, self.simple_times) >= REPEATS


def watch_loops(found) -> None:
    """Have this process looked at; `found()` is called where it is in a loop that cannot end."""
    LoopWatch(found).arm()


def is_own(code, name: str, argument: int) -> bool:
    """Whether an instruction stores to a variable that ends with its frame."""
    return name == "STORE_FAST" or (name == "STORE_DEREF" and code._varname_from_oparg(argument) in code.co_cellvars)


def top_value(frame, name: str, argument: int):
    """What an instruction has put on top of the stack, if it only loads a variable or constant."""
    code = frame.f_code
    if name not in TOP_LOADS:
        return None
    if name == "LOAD_CONST":
        return code.co_consts[argument]
    if name == "LOAD_GLOBAL":  # its lowest bit says that a call follows
        return frame.f_globals.get(code.co_names[argument >> 1])
    return frame.f_locals[code.co_names[argument] if name == "LOAD_NAME" else code._varname_from_oparg(argument)]


def stored_name(code, name: str, argument: int) -> str:
    """The variable that an instruction stores to."""
    return code.co_names[argument] if name == "STORE_NAME" else code._varname_from_oparg(argument)


def is_same(before: dict, after: dict, free: type | None = None) -> bool:
    """Whether the variables are in one state: the same objects, equal scalars of one type, or both of type `free`."""
    if before.keys() != after.keys():
        return False
    for name, a in before.items():
        b = after[name]
        kind = type(a)
        if a is b or (kind is type(b) and (kind is free or (kind in SCALARS and (by_repr(a) == by_repr(b))))):
            continue
        return False
    return True


def by_repr(value):
    """What tells two scalars of one type apart: of floats their text, as nan differs from itself and 0.0 is -0.0."""
    return repr(value) if type(value) in (float, complex) else value
