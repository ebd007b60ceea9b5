"""One program of a batch: what is run of it, and what came of the runs."""

from __future__ import annotations

from collections.abc import Sequence

from grading.asserts import Test, judge_of
from grading.attempts import classify
from grading.execution import Execution, ExecutionReport
from grading.pool import Session
from grading.program import MAX_SOURCE
from problems import Problem


class Candidate:
    """A program, the tests that it should pass, and the reports of its runs, as far as they are in."""

    def __init__(self, program: str | None, problem: Problem, evaluator: str, tests: Sequence[Test]) -> None:
        self.program = program
        self.problem = problem
        self.evaluator = evaluator
        self.tests = tests
        self.truth: ExecutionReport | None = None
        """Of the ground truth; None where there is nothing to run."""
        self.called: ExecutionReport | None = None
        """Of the own evaluator; None where none was run."""
        self.labels = False, ""
        """(whether its text defines the evaluator, the flavour of its attempt)."""

    def submit(self, session: Session) -> None:
        """Run the ground truth, and the own evaluator beside it if its name is written: both may take long."""
        if self.program is None or len(self.program) > MAX_SOURCE:
            return
        setup, expressions = self.problem.setup_code, tuple(test.calls for test in self.tests)
        truth = Execution(setup, self.program, expressions, watch=self.evaluator)
        call = Execution(setup, self.program, call=self.evaluator)
        early = self.evaluator in self.program

        def take_truth(report: ExecutionReport) -> None:
            """Label the program; run the own evaluator of one that made it without writing the name."""
            self.truth = report
            if report.compiled or report.unknown:
                self.labels = classify(self.program, self.evaluator, self.problem)
            if report.defined and not early:
                session.submit(call, None, self.take_call, last=True)

        session.submit(truth, judge_of(self.tests), take_truth)
        if early:
            session.submit(call, None, self.take_call)

    def take_call(self, report: ExecutionReport) -> None:
        """Note how the own evaluator ended."""
        self.called = report

    @property
    def own(self) -> ExecutionReport | None:
        """The run of its own evaluator; None if it has none, whatever was run on suspicion."""
        return self.called if self.truth is not None and self.truth.defined else None
