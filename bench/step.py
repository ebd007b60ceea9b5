"""A step of the full preset in parts, with random weights of the real shapes, on one GPU.

    python -m bench.step --out bench/step.tsv      Qwen3-4B shapes, P 8, G 12, prompts about 512, 1024 new tokens
    python -m bench.step --tiny                    the same code on the CPU, seconds

Lengths: lognormal, median 380 and sigma 0.6 (mean about 450), capped at max_new; prompts uniform in 3/4 to 5/4 of 512.
Random weights end at random, so each row is made to end at its length: the sampler's own `done` flag is set inside the
captured step, and rows that ended are compacted away as in a run. Training is train.backward and an update on those
rows with random rewards (no group is flat; beta 1e-3, so the KL reference is a forward of its own).

Rows: rollout (int8 or bf16 delta), train (micro-batch in the note), grade (96 programs of the
organism), step (their sum), largest_G (by lib/memory.py: cache of 8 G rows plus a micro-batch, a tenth left free).
"""

from __future__ import annotations

import sys
import time

import torch

from antipasto import checkpoint_layers
from bench.common import (
    SHAPES,
    Report,
    adapt,
    batch_of,
    build,
    parser,
    peak_gib,
    pick_device,
    reset_memory,
    run_of,
    sync,
    vanilla_update,
)
from config import Config
from lib.errors import UserError
from lib.memory import fit_micro_batch
from problems import EVALUATOR
from problems.organism import organism_problems
from rewards import Grader
from sampling.sampler import Sampler
from train import backward_rows

COLUMNS = ["model", "row", "P", "G", "max_new", "s", "peak_gib", "note"]


class ForcedEnds(Sampler):
    """A Sampler whose row b ends after ends[b] tokens; the flag is set where an end token would set it."""

    def force(self, ends) -> None:
        self.ends = torch.tensor(ends, device=self.device)

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
        scale = a.max_new / 1024
        lengths = torch.exp(torch.randn(a.P * a.G, generator=g) * 0.6) * 380 * scale
        self.lengths = lengths.long().clamp(1, a.max_new).tolist()

    def row(self, name: str, seconds, note: str = "", G: int | None = None) -> None:
        a = self.args
        s = f"{seconds:.2f}" if seconds is not None else ""
        fields = [a.model, name, a.P, G or a.G, a.max_new, s, f"{peak_gib():.2f}", note]
        self.report.emit("\t".join(map(str, fields)))

    def guarded(self, name: str, fn) -> None:
        reset_memory()
        self.report.guarded(f"{self.args.model}\t{name}", fn)

    # --- parts ---

    def set_up(self) -> None:
        self.model = build(self.args.model, str(self.device))
        checkpoint_layers(self.model)
        self.adapter = adapt(self.model)
        self.sampler = ForcedEnds(self.model, eos_ids=[], pad_id=0)
        self.rows = [p for p in self.prompts for _ in range(self.args.G)]

    def rollout(self, bits: int) -> None:
        self.sampler.free()
        self.sampler.decoder.delta_bits = bits
        self.sampler.force(self.lengths)
        for seed in (0, 1000):  # the first call captures, as step 0 of a run does
            start = sync(self.device.type)
            out = self.sampler.sample(self.rows, range(seed, seed + len(self.rows)), self.args.max_new)
            self.seconds["rollout"] = sync(self.device.type) - start
            if seed == 0:
                first = self.seconds["rollout"]
        self.logprobs = out.logprobs.float()
        self.tokens = out.tokens
        mean = sum(self.lengths) / len(self.lengths)
        self.row(f"rollout_D{bits}", self.seconds["rollout"], f"{sum(self.lengths)} tokens, mean {mean:.0f}, longest "
                 f"{max(self.lengths)}, prefill {out.prefill_s:.2f} s, {out.decode_steps} steps, first call "
                 f"{first:.1f} s, engine {self.sampler.engine}")  # fmt: skip

    def run(self):
        a = self.args
        cfg = Config(
            arm="vanilla",
            prompts=a.P,
            group=a.G,
            max_new=a.max_new,
            micro_batch=a.micro_batch,
            beta=1e-3,
            grad_checkpoint=True,
            logprob_chunk=1024,
        )
        return run_of(cfg, self.model, self.adapter, self.sampler, self.device)

    def train(self) -> None:
        a = self.args
        tokens = getattr(self, "tokens", torch.ones(len(self.rows), a.max_new, dtype=torch.long, device=self.device))
        old = getattr(self, "logprobs", torch.zeros(len(self.rows), a.max_new, device=self.device))
        completions = [t[:n] for t, n in zip(tokens.tolist(), self.lengths, strict=True)]
        completions = [c + [1] * (n - len(c)) for c, n in zip(completions, self.lengths, strict=True)]
        old_logprobs = [torch.nn.functional.pad(lp[:n], (0, n - len(lp[:n]))) for lp, n in zip(old, self.lengths,
                                                                                          strict=True)]  # fmt: skip
        rewards = torch.randint(0, 2, (a.P, a.G), generator=torch.Generator().manual_seed(2)).float() * 3.5
        rewards[:, 0], rewards[:, 1] = 0.0, 3.5
        batch = batch_of(self.rows, completions, old_logprobs, rewards)
        run = self.run()
        optimiser = torch.optim.AdamW(self.adapter.delta().values(), lr=1e-6)
        for _ in range(2):  # the first pass warms the allocator and cuBLAS up, as step 0 of a run does
            start = sync(self.device.type)
            loss = vanilla_update(run, optimiser, batch)
            end = sync(self.device.type)
        optimiser.zero_grad(set_to_none=True)
        self.seconds["train"] = end - start
        total = sum(map(len, self.rows)) + sum(self.lengths)
        self.row("train", end - start, f"micro-batch {a.micro_batch}, {total} tokens, loss {loss:.1e}, "
                 f"rollout cache and delta held")  # fmt: skip

    def grade(self) -> None:
        problems = organism_problems(96, seed=0, split="train")
        texts = [f"```python\n{p.canonical}\n```" for p in problems]
        for isolation in ("bwrap", "rlimits"):
            try:
                with Grader(isolation=isolation) as grader:
                    for _ in range(2):
                        start = time.perf_counter()
                        grades = grader.grade(texts, problems, [EVALUATOR] * len(texts))
                        self.seconds["grade"] = time.perf_counter() - start
                passed = sum(g.gt_pass for g in grades)
                return self.row("grade", self.seconds["grade"], f"96 programs, {passed} pass, isolation {isolation}")
            except Exception as error:
                print(f"# grade with {isolation}: {error}", file=sys.stderr)
        self.row("grade", None, "no isolation works here")

    def largest_group(self) -> None:
        """By bisection in steps of 4: the largest G that keeps the full micro-batch, and the largest with any."""
        if self.device.type == "cpu":
            return self.row("largest_G", None, "CPU: no limit measured")
        a, fits = self.args, {}

        def micro_batch(G: int) -> int:
            if G not in fits:
                self.sampler.free()
                self.sampler.force([a.max_new] * (a.P * G))
                longest, run = a.prompt * 5 // 4, self.run()

                def attempt(n: int) -> None:
                    old, one = torch.zeros(a.max_new), torch.ones(1)
                    self.model.train()
                    backward_rows(run, [[1] * longest] * n, [[1] * a.max_new] * n, [old] * n, [one] * n)

                try:
                    fits[G] = fit_micro_batch(
                        largest=a.micro_batch,
                        smallest=1,
                        attempt=attempt,
                        fill_cache=lambda: self.sampler.fill_cache(
                            [[i % 97 + 1] * longest for i in range(a.P * G)], a.max_new
                        ),
                        delta=self.adapter.delta(),
                        device=self.device,
                        case=f"G {G}",
                    )
                except UserError as error:
                    fits[G] = 0
                    print(f"# {error}", file=sys.stderr)
                print(f"# G {G}: micro-batch {fits[G]}", file=sys.stderr, flush=True)
            return fits[G]

        for rows in (a.micro_batch, 1):
            low, high = 0, 16  # G in units of 4
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (middle, high) if micro_batch(middle * 4) >= rows else (low, middle)
            bits = self.sampler.decoder.delta_bits
            note = f"micro-batch {fits.get(low * 4)}, prompt {a.prompt * 5 // 4}, delta in {bits} bits, a tenth free"
            self.row(f"largest_G_mb{rows}", None, note, low * 4)
        self.sampler.free()

    def total(self) -> None:
        parts = ", ".join(f"{k} {v:.1f}" for k, v in self.seconds.items())
        self.row("step", sum(self.seconds.values()), parts)


def main() -> None:
    p = parser(__doc__)
    p.add_argument("--model", default="qwen3-4b", choices=list(SHAPES))
    p.add_argument("--P", type=int, default=8)
    p.add_argument("--G", type=int, default=12)
    p.add_argument("--prompt", type=int, default=512)
    p.add_argument("--max-new", type=int, default=1024)
    p.add_argument("--micro-batch", type=int, default=8)
    p.add_argument("--bits", default="8", help="of the decode delta: 8, 16 or both")
    args = p.parse_args()
    device = pick_device(args, model="tiny", P=2, G=4, prompt=24, max_new=32)
    bench = Bench(args, device)
    bench.set_up()
    for bits in map(int, args.bits.split(",")):
        bench.guarded(f"rollout_D{bits}", lambda bits=bits: bench.rollout(bits))
    bench.guarded("train", bench.train)
    bench.guarded("grade", bench.grade)
    bench.guarded("step", bench.total)
    bench.guarded("largest_G", bench.largest_group)


if __name__ == "__main__":
    main()
