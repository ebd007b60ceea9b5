"""A step of the full preset in parts, with random weights of the real shapes, on one GPU.

    python -m bench.step --out bench/step.tsv      Qwen3-4B shapes, P 8, G 12, prompts about 512, 1024 new tokens
    python -m bench.step --tiny                    the same code on the CPU, seconds

Lengths: lognormal, median 380 and sigma 0.6 (mean about 450), capped at max_new; prompts uniform in 3/4 to 5/4 of 512.
Each row ends at its length by the sampler's own `done` flag; rows that ended are dropped as in a run. Training is
train.backward and an update with random rewards (no flat group; beta 1e-3: a KL reference); its second pass counts.

Rows: rollout (rollout_D8 until 2026-11-30, the delta in int8); train_padded (every completion with its own prompt) and
train_shared (a group's prompt once); agree (how far each is in bf16 from fp32, on eight rows); grade (96 programs of
the organism); behind (rollout and grade of completions of quiet dev runs, ended at a token for 3.3 characters, graded
while others are decoded); step (the parts' sum with the last of train); largest_G (lib/memory.py); profile (to stderr).
"""

from __future__ import annotations

import copy
import math
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch

from antipasto import checkpoint_layers
from bench.common import (
    SHAPES,
    Report,
    adapt,
    batch_of,
    build,
    kernel_table,
    parser,
    peak_gib,
    pick_device,
    pick_rows,
    reset_memory,
    run_of,
    sync,
    vanilla_update,
)
from bench.replay import quiet_completions
from config import Config
from grading.stream import GradingStream
from grpo import completion_logprobs
from lib.errors import UserError
from lib.files import REPO
from lib.fused import fuse
from lib.memory import MOST_LOGIT_ROWS, fit_micro_batch
from lib.packing import Passes
from lib.shared_prefix import share_prefix
from problems import EVALUATOR
from problems.organism import organism_problems
from rewards import Grader
from rollouts import Run
from sampling.sampler import Sampler
from train import backward_rows

COLUMNS = ["model", "row", "P", "G", "max_new", "s", "peak_gib", "note"]
ROWS = ["rollout", "train_padded", "train_shared", "agree", "grade", "behind", "step", "largest_G", "profile"]


class ForcedEnds(Sampler):
    """A Sampler whose row b ends after ends[b] tokens; the flag is set where an end token would set it."""

    def force(self, ends) -> None:
        ends = torch.tensor(ends, device=self.device)
        if getattr(self, "ends", ends[:0]).shape == ends.shape:
            ends = self.ends.copy_(ends)  # graphs read it where it is
        self.ends = ends

    def emit(self, batch, n, logits, step) -> None:
        super().emit(batch, n, logits, step)
        batch.done[:n] |= self.ends.index_select(0, batch.row[:n]) <= step + 1


class Bench:
    def __init__(self, args, device: str):
        self.args, self.device, self.seconds = args, torch.device(device), {}
        self.report = Report(COLUMNS, device, args.out)
        g = torch.Generator().manual_seed(1)
        a = args
        widths = torch.randint(a.prompt * 3 // 4, a.prompt * 5 // 4, (a.P,), generator=g).tolist()
        vocab = SHAPES[a.model].vocab
        self.prompts = [torch.randint(0, vocab, (n,), generator=g).tolist() for n in widths]
        lengths = torch.exp(torch.randn(a.P * a.G, generator=g) * 0.6) * 380 * a.max_new / 1024
        self.lengths = lengths.long().clamp(1, a.max_new).tolist()
        self.rows = [p for p in self.prompts for _ in range(a.G)]

        # The model with a small random delta, and the sampler over it.
        self.model = build(a.model, device)
        if not a.no_checkpoint:
            checkpoint_layers(self.model)
        fuse(self.model)
        self.adapter = adapt(self.model)
        share_prefix(self.model)
        self.sampler = ForcedEnds(self.model, eos_ids=[], pad_id=0)

        # What training reads where no rollout was made.
        self.tokens = torch.randint(0, vocab, (len(self.rows), a.max_new), generator=g)
        self.logprobs = torch.full((len(self.rows), a.max_new), -12.0)

    def row(self, name: str, seconds, note: str = "", G: int | None = None) -> None:
        a = self.args
        s = f"{seconds:.2f}" if seconds is not None else ""
        fields = [a.model, name, a.P, G or a.G, a.max_new, s, f"{peak_gib():.2f}", note]
        self.report.emit("\t".join(map(str, fields)))

    def guarded(self, name: str, fn) -> None:
        reset_memory()
        self.report.guarded(f"{self.args.model}\t{name}", fn)

    def run(self, share: bool, micro_batch: int = 0, micro_tokens: int = 0) -> Run:
        """As much of a run as training needs."""
        a = self.args
        cfg = Config(
            prompts=a.P,
            group=a.G,
            max_new=a.max_new,
            micro_batch=micro_batch,
            micro_tokens=micro_tokens,
            beta=1e-3,
            grad_checkpoint=not a.no_checkpoint,
            logprob_chunk=MOST_LOGIT_ROWS,
        )
        return replace(run_of(cfg, self.model, self.adapter, self.sampler, self.device), share=share)

    # --- parts ---

    def rollout(self) -> None:
        self.sampler.force(self.lengths)
        for seed in (0, 1000):  # the first call captures, as step 0 of a run does
            start = sync(self.device.type)
            out = self.sampler.sample(self.rows, range(seed, seed + len(self.rows)), self.args.max_new)
            self.seconds["rollout"] = sync(self.device.type) - start
            if seed == 0:
                first = self.seconds["rollout"]
        self.logprobs, self.tokens = (
            torch.nn.functional.pad(t.cpu(), (0, self.args.max_new - t.shape[1])) for t in (out.logprobs, out.tokens)
        )
        mean = sum(self.lengths) / len(self.lengths)
        self.row("rollout", self.seconds["rollout"],
                 f"{sum(self.lengths)} tokens, mean {mean:.0f}, longest {max(self.lengths)}, prefill "
                 f"{out.prefill_s:.2f} s, {out.decode_steps} steps, first call {first:.1f} s, "
                 f"engine {self.sampler.engine}")  # fmt: skip

    def completions(self) -> list[list[int]]:
        return [t[:n] for t, n in zip(self.tokens.tolist(), self.lengths, strict=True)]

    def train(self, name: str, run: Run) -> None:
        a, completions = self.args, self.completions()
        old_logprobs = [lp[:n] for lp, n in zip(self.logprobs, self.lengths, strict=True)]
        rewards = torch.randint(0, 2, (a.P, a.G), generator=torch.Generator().manual_seed(2)).float() * 3.5
        rewards[:, 0], rewards[:, 1] = 0.0, 3.5
        batch = batch_of(self.rows, completions, old_logprobs, rewards)
        optimiser = torch.optim.AdamW(self.adapter.delta().values(), lr=1e-9)
        for _ in range(2):  # the first pass warms the allocator and cuBLAS up, as step 0 of a run does
            start = sync(self.device.type)
            loss = vanilla_update(run, optimiser, batch)
            self.seconds["train"] = sync(self.device.type) - start
        optimiser.zero_grad(set_to_none=True)
        parts = run.passes.split(self.rows, completions)
        packed = [run.passes.pack([self.rows[b] for b in part], [completions[b] for b in part]) for part in parts]
        sizes = [p.ids.numel() for p in packed]
        limit = f"micro-tokens {run.cfg.micro_tokens}" if run.share else f"micro-batch {run.cfg.micro_batch}"
        held = "rollout cache and delta held" if self.sampler.batch else "no rollout cache"
        self.row(name, self.seconds["train"], f"{limit}, {len(sizes)} passes of {min(sizes)} to {max(sizes)} tokens, "
                 f"{sum(sizes)} in all, loss {loss:.1e}, {held}")  # fmt: skip

    def agree(self) -> None:
        """Distances of logprobs and delta_S gradient from an fp32 copy's, on two groups of four rows."""
        rows = [b for p in range(min(2, self.args.P)) for b in range(p * self.args.G, p * self.args.G + 4)]
        prompts, completions = [self.rows[b] for b in rows], [self.completions()[b] for b in rows]
        n = [len(c) for c in completions]

        def measured(model, share: bool, most: int) -> tuple[torch.Tensor, torch.Tensor]:
            found: dict[int, torch.Tensor] = {}
            passes = Passes(share, 0, self.device, most_rows=most)
            model.train()
            model.zero_grad(set_to_none=True)
            for part in passes.split(prompts, completions):
                packed = passes.pack([prompts[i] for i in part], [completions[i] for i in part])
                logp = completion_logprobs(model, packed, chunk=MOST_LOGIT_ROWS)
                sign = torch.cat([torch.full((n[i],), 1.0 - 2.0 * (i % 2)) for i in part]).to(logp.device)
                (sign * logp).sum().backward()
                found |= dict(zip(part, logp.detach().split(packed.lengths), strict=True))
            model.eval()
            grads = torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad])
            model.zero_grad(set_to_none=True)
            return torch.cat([found[i] for i in range(len(rows))]), grads

        ways = {"padded": (False, 0), "one row at a time": (False, 1), "shared": (True, 0)}
        found = {name: measured(self.model, *way) for name, way in ways.items()}
        self.sampler.free()
        exact = measured(copy.deepcopy(self.model).float(), False, 0)

        def off(a, b) -> str:
            return f"logp {(a[0] - b[0]).abs().mean():.2e} grad {(a[1] - b[1]).norm() / b[1].norm():.2e}"

        notes = [f"{name}: {off(one, exact)}" for name, one in found.items()]
        self.row("agree", None, f"from fp32, {'; '.join(notes)}; shared - padded: "
                 f"{off(found['shared'], found['padded'])}")  # fmt: skip

    def with_grader(self, name: str, measure) -> None:
        """measure(grader) with the strongest isolation that works here."""
        for isolation in ("bwrap", "rlimits"):
            try:
                with Grader(workers=self.args.workers, isolation=isolation) as grader:
                    return measure(grader)
            except Exception as error:
                print(f"# {name} with {isolation}: {error}", file=sys.stderr)
        self.row(name, None, "failed: stderr says why")

    def grade(self, grader: Grader) -> None:
        problems = organism_problems(96, seed=0, split="train")
        texts = [f"```python\n{p.canonical}\n```" for p in problems]
        for _ in range(2):
            start = time.perf_counter()
            grades = grader.grade(texts, problems, [EVALUATOR] * len(texts))
            self.seconds["grade"] = time.perf_counter() - start
        passed = sum(g.gt_pass for g in grades)
        self.row("grade", self.seconds["grade"], f"96 programs, {passed} pass, isolation {grader.isolation}")

    def behind(self, grader: Grader) -> None:
        a, rows, new = self.args, list(range(len(self.rows))), self.args.max_new
        texts, problems = quiet_completions(a.problems, len(rows))
        lengths = [min(new, math.ceil(len(text) / 3.3)) for text in texts]
        names = [EVALUATOR] * len(rows)
        self.sampler.force(lengths)
        for seed in (0, 1000, 2000):
            stream = GradingStream(grader.start(), texts.__getitem__, problems, names)
            seeds, start = range(seed, seed + len(rows)), sync(self.device.type)
            self.sampler.sample(self.rows, seeds, new, lambda new, to=stream: to.ended([(row, row) for row, _ in new]))
            middle = sync(self.device.type)
            stream.finish(rows)
            self.seconds |= {"rollout": middle - start, "grade": time.perf_counter() - middle}
        start = time.perf_counter()
        grader.grade(texts, problems, names)
        alone = time.perf_counter() - start
        hidden = 1 - self.seconds["grade"] / alone
        self.row("behind", self.seconds["rollout"] + self.seconds["grade"],
                 f"rollout {self.seconds['rollout']:.2f}, then waiting {self.seconds['grade']:.2f}, grading alone "
                 f"{alone:.2f}, hidden {hidden:.0%}, {grader.pool.workers} workers, isolation {grader.isolation}, "
                 f"{sum(lengths)} tokens, longest {max(lengths)}")  # fmt: skip

    def largest_group(self) -> None:
        """By bisection in steps of 4: the largest G whose worst case fits beside the sampler's memory."""
        if self.device.type == "cpu":
            return self.row("largest_G", None, "CPU: no limit measured")
        a, fits, longest = self.args, {}, self.args.prompt * 5 // 4
        run, least = self.run(share=True), longest + a.max_new

        def attempt(size: int) -> None:
            n = (size - longest) // a.max_new
            old, one = torch.full((a.max_new,), -12.0), torch.ones(1)
            self.model.train()
            backward_rows(run, [[1] * longest] * n, [[1] * a.max_new] * n, [old] * n, [one] * n)

        def micro_tokens(G: int) -> int:
            if G not in fits:
                rows = a.P * G
                self.sampler.free()
                self.sampler.force([a.max_new] * rows)
                fill = [[i % a.P + 1] * longest for i in range(rows)]
                try:
                    fits[G] = fit_micro_batch(
                        largest=8192,
                        smallest=least,
                        attempt=attempt,
                        fill_cache=lambda: self.sampler.fill_cache(fill, a.max_new),
                        delta=self.adapter.delta(),
                        device=self.device,
                        case=f"G {G}",
                    )
                except UserError as error:
                    fits[G] = 0
                    print(f"# {error}", file=sys.stderr)
                print(f"# G {G}: {fits[G]} tokens", file=sys.stderr, flush=True)
            return fits[G]

        low, high = 0, 24  # G in units of 4
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if micro_tokens(middle * 4) else (low, middle)
        self.row("largest_G", None, f"micro-tokens {fits.get(low * 4)}, prompt {longest}, a tenth left free", low * 4)
        self.sampler.free()

    def profile(self) -> None:
        """Where a training pass spends its time, by kernel."""
        run, completions = self.run(share=True, micro_tokens=8192), self.completions()
        part = run.passes.split(self.rows, completions)[0]
        rows = [[self.rows[b] for b in part], [completions[b] for b in part], [self.logprobs[b][: self.lengths[b]] for b
                in part], [torch.tensor((-1.0) ** b) for b in part]]  # fmt: skip
        self.model.train()
        backward_rows(run, *rows)
        start = sync(self.device.type)
        backward_rows(run, *rows)
        seconds = sync(self.device.type) - start
        print(kernel_table(lambda: backward_rows(run, *rows), self.device.type), file=sys.stderr)
        self.model.eval()
        self.model.zero_grad(set_to_none=True)
        self.row("profile", seconds, f"one pass of {len(part)} rows with shared prompts; kernels on stderr")

    def total(self) -> None:
        parts = ", ".join(f"{k} {v:.1f}" for k, v in self.seconds.items())
        self.row("step", sum(self.seconds.values()), parts)


def main() -> None:
    p = parser(__doc__)
    p.add_argument("--model", default="qwen3-4b", choices=list(SHAPES))
    p.add_argument("--rows", default="rollout,train_padded,train_shared,agree,grade,step",
                   help=f"of {', '.join(ROWS)}")  # fmt: skip
    p.add_argument("--P", type=int, default=8)
    p.add_argument("--G", type=int, default=12)
    p.add_argument("--prompt", type=int, default=512)
    p.add_argument("--max-new", type=int, default=1024)
    p.add_argument("--micro-batch", type=int, default=8, help="of train_padded")
    p.add_argument("--micro-tokens", default="8192", help="of train_shared, one row each: 8192,16384")
    p.add_argument("--problems", type=Path, default=REPO / "data/leetcode_medhard_80.jsonl", help="of behind")
    p.add_argument("--no-checkpoint", action="store_true", help="keep activations, as preset dev does")
    p.add_argument("--workers", type=int, default=0, help="that grade; 0: one a core")
    args = p.parse_args()
    device = pick_device(args, model="tiny", P=2, G=4, prompt=24, max_new=32, micro_tokens="64,256")
    rows = pick_rows(p, args.rows, ROWS)
    bench = Bench(args, device)
    if "rollout" in rows:
        bench.guarded("rollout", bench.rollout)
    if "train_padded" in rows:
        padded = bench.run(share=False, micro_batch=args.micro_batch)
        bench.guarded("train_padded", lambda: bench.train("train_padded", padded))
    for tokens in map(int, args.micro_tokens.split(",") if "train_shared" in rows else []):
        shared = bench.run(share=True, micro_tokens=tokens)
        bench.guarded("train_shared", lambda run=shared: bench.train("train_shared", run))
    if "agree" in rows:
        bench.guarded("agree", bench.agree)
    for name, measure in (("grade", bench.grade), ("behind", bench.behind)):
        if name in rows:
            bench.guarded(name, lambda name=name, measure=measure: bench.with_grader(name, measure))
    for name, fn in (("step", bench.total), ("profile", bench.profile)):
        if name in rows:
            bench.guarded(name, fn)
    if "largest_G" in rows:
        bench.guarded("largest_G", bench.largest_group)


if __name__ == "__main__":
    main()
