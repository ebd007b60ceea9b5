"""Decode speed of the sampler against transformers' own engines, on one GPU, random weights of the real shapes.

    python -m bench.decode --out bench/decode.tsv                 every row but tune
    python -m bench.decode --models qwen3-4b --rows graph,parts   some rows
    python -m bench.decode --tiny                                 the same code on the CPU, seconds

One TSV row each: milliseconds a decode step, tokens/s, GB that a step must move (weights once, keys and values once, a
gated delta net's state once each way), and the fraction of the bandwidth floor reached: those bytes over a measured
device copy, over the step's time. Before a row of ours is timed, its tokens and logprobs are compared: graph against
eager, and the logprobs against a teacher-forced transformers forward. A row that fails prints its error and the others
go on.

Rows: hf_dynamic, hf_static (compiles for a minute), hf_batch (generate_batch), eager, graph_torch (no
Triton), graph, then with the adapter: hf_adapted, graph_3 (U and Vh apart, as in training), graph_adapted (the delta
added to the weights, as a run samples), and full_adapted: the full preset's rollouts, 8 prompts x 12 completions of at
most 1024 tokens with geometric lengths. parts: microseconds of each part of a step; tune: block sizes of the attention.
Until 2026-11-30 the delta stood apart from the weights, in bf16 (rows graph_D) or int8 (graph_D8, full_D8, parts_D8).
"""

from __future__ import annotations

import gc

import torch

from antipasto import SVDLinear
from bench.common import SHAPES, Report, adapt, build, parser, peak_gib, pick_device, pick_rows, sync
from bench.decode_parts import PRODUCTS, StepParts
from lib.memory import cache_bytes, row_bytes
from sampling.linear import StackedLinear
from sampling.sampler import Sampler

BASE_ROWS = ["hf_dynamic", "hf_static", "hf_batch", "eager", "graph_torch", "graph", "parts", "tune"]
ADAPTED_ROWS = ["hf_adapted", "graph_3", "graph_adapted", "full_adapted"]
COLUMNS = ["model", "row", "rows", "prompt", "new", "ms_step", "tok_s", "gb_step", "floor", "prefill", "note"]


class ThreeProducts(StackedLinear):
    """The adapter as in training: every module's own forward, W, Vh and U apart."""

    def refresh(self):
        return tuple(m.weight.data_ptr() for m in self.modules)

    def __call__(self, x):
        return torch.cat([m(x) for m in self.modules], -1) if len(self.modules) > 1 else self.modules[0](x)

    def add_to(self, y, x):
        y += self(x)


def copy_bandwidth(device: str) -> float:
    """Bytes/s of a large device-to-device copy, read and write counted."""
    n = 2**31 if device == "cuda" else 2**27
    a, b = (torch.empty(n, dtype=torch.uint8, device=device) for _ in range(2))
    b.copy_(a)
    start = sync(device)
    for _ in range(10):
        b.copy_(a)
    return 20 * n / (sync(device) - start)


class Bench:
    def __init__(self, args, device: str):
        self.args, self.device = args, device
        self.bandwidth = copy_bandwidth(device)
        copied = f"copy {self.bandwidth / 1e12:.2f} TB/s"
        self.report = Report(COLUMNS, device, args.out, append=False, more=copied)
        self.emit = self.report.emit

    def row(self, name: str, ms: float, rows: int, width: int, new: int, extra: float = 0.0, **more) -> None:
        """extra: bytes a step reads beyond the base model's weights and its keys and values."""
        size = self.model.lm_head.weight.element_size()
        read = sum(m.weight.numel() for _, m in self.model.named_modules()
                   if isinstance(m, torch.nn.Linear | SVDLinear)) * size + extra  # fmt: skip
        config, dtype = self.model.config, self.model.dtype
        read += rows * (cache_bytes(config, dtype) * (width + new / 2) + 2 * row_bytes(config, dtype))
        values = dict(model=self.name, row=name, rows=rows, prompt=width, new=new, ms_step=f"{ms:.2f}",
                      tok_s=f"{rows / ms * 1e3:.0f}", gb_step=f"{read / 1e9:.2f}",
                      floor=f"{read / self.bandwidth * 1e3 / ms:.2f}", prefill="", note="") | more  # fmt: skip
        self.emit("\t".join(str(values[c]) for c in COLUMNS))

    def sampler(self, engine: str, eos=(), **attributes) -> Sampler:
        s = Sampler(self.model, eos_ids=list(eos), pad_id=0, engine=engine if self.device == "cuda" else "eager")
        for key, value in attributes.items():
            setattr(s.decoder, key, value)
        return s

    # --- rows ---

    def hf_generate(self, **kwargs) -> float:
        """Milliseconds a step of transformers generate: 33 against 1 new tokens, so that prefill drops out."""
        ids, seconds = torch.tensor(self.prompts, device=self.device), {}
        kwargs |= dict(do_sample=True, top_k=20, top_p=1.0, temperature=1.0, pad_token_id=0)
        for new in (2, 2, 34):
            start = sync(self.device)
            mask = torch.ones_like(ids)
            self.model.generate(ids, attention_mask=mask, max_new_tokens=new, min_new_tokens=new, **kwargs)
            seconds[new] = sync(self.device) - start
        return (seconds[34] - seconds[2]) / 32 * 1e3

    def hf(self, name: str) -> None:
        kwargs = {"hf_static": dict(cache_implementation="static")}.get(name, {})
        if name == "hf_static":
            self.hf_generate(**kwargs)
        self.row(name, self.hf_generate(**kwargs), len(self.prompts), self.args.prompt, 32, note="32 steps")

    def hf_batch(self) -> None:
        from transformers import GenerationConfig

        config = GenerationConfig(max_new_tokens=64, do_sample=True, top_k=20, eos_token_id=-1, pad_token_id=0)
        kwargs = {}
        try:
            from transformers import ContinuousBatchingConfig

            kwargs["continuous_batching_config"] = ContinuousBatchingConfig(max_memory_percent=0.5)
        except ImportError:
            pass
        for _ in range(2):
            start = sync(self.device)
            out = self.model.generate_batch(self.prompts, generation_config=config, **kwargs)
            seconds = sync(self.device) - start
        tokens = sum(len(o.generated_tokens) for o in out.values())
        self.row("hf_batch", seconds / tokens * len(self.prompts) * 1e3, len(self.prompts), self.args.prompt, 64,
                 note="64 new, prefill included")  # fmt: skip

    def ours(self, name: str, sampler: Sampler, extra: float = 0.0, check: bool = True) -> None:
        new, seeds = 32 if name == "eager" else self.args.new, list(range(len(self.prompts)))
        sampler.sample(self.prompts, seeds, new)  # warms up and captures
        rows = min(8, len(self.prompts))
        out = sampler.sample(self.prompts, seeds, new)
        try:
            note = self.check(sampler, out, rows) if check else ""
        except RuntimeError as error:  # the timing stands, unchecked
            note = f"check failed: {' '.join(str(error).split())[:200]}"
        self.row(name, out.decode_s / out.decode_steps * 1e3, len(self.prompts), self.args.prompt, new, extra,
                 prefill=f"{out.prefill_s:.2f}", note=f"{sampler.engine} {note}")  # fmt: skip
        sampler.free()

    @torch.no_grad()
    def check(self, sampler: Sampler, out, rows: int) -> str:
        """Tokens and logprobs against the uncaptured step, and logprobs against teacher forcing."""
        ids = torch.cat([torch.tensor(self.prompts[:rows], device=self.device), out.tokens[:rows]], 1)
        logits = self.model(ids, logits_to_keep=out.tokens.shape[1] + 1).logits[:, :-1].float()
        forced = logits.log_softmax(-1).gather(-1, out.tokens[:rows, :, None])[..., 0]
        off = (forced - out.logprobs[:rows]).abs()
        note = f"forced |d| {off.mean():.1e} max {off.max():.1e}"
        if sampler.engine == "graph":
            n = min(16, self.args.new)
            engine, sampler.engine = sampler.engine, "eager"
            graphs, sampler.graphs = sampler.graphs, {}
            plain = sampler.sample(self.prompts, list(range(len(self.prompts))), n)
            sampler.engine, sampler.graphs = engine, graphs
            same = (plain.tokens == out.tokens[:, :n]).float().mean()
            note += f", graph = eager {same:.3f} |d| {(plain.logprobs - out.logprobs[:, :n]).abs().mean():.1e}"
        return note

    def full(self, sampler: Sampler) -> None:
        """8 x 12 completions, prompts of 400 to 640 tokens, one in 400 tokens ends a row."""
        g = torch.Generator().manual_seed(1)
        vocab, new = self.model.config.vocab_size, 1024 if self.device == "cuda" else 32
        lengths = torch.randint(self.args.prompt * 3 // 4, self.args.prompt * 5 // 4, (8,), generator=g).tolist()
        distinct = [torch.randint(0, vocab, (n,), generator=g).tolist() for n in lengths]
        sampler.eos = torch.randint(0, vocab, (max(1, vocab // 400),), generator=g).to(self.device)
        for seeds in (range(96), range(96, 192)):
            start = sync(self.device)
            out = sampler.sample([p for p in distinct for _ in range(12)], list(seeds), new)
            seconds = sync(self.device) - start
        tokens = int(out.lengths.sum())
        self.row("full_adapted", out.decode_s / out.decode_steps * 1e3, 96, self.args.prompt, new,
                 tok_s=f"{tokens / seconds:.0f}", prefill=f"{out.prefill_s:.2f}", floor="",
                 note=f"{seconds:.1f} s, {tokens} tokens, {out.decode_steps} steps, peak {peak_gib():.1f} GiB",
                 )  # fmt: skip
        sampler.free()

    # --- the run ---

    def dispatch(self, row: str) -> None:
        if row in ("hf_dynamic", "hf_static", "hf_adapted"):
            self.hf(row)
        elif row == "hf_batch":
            self.hf_batch()
        elif row in ("eager", "graph", "graph_adapted"):
            self.ours(row, self.sampler(row.removesuffix("_adapted")))
        elif row == "graph_torch":
            self.ours(row, self.sampler("graph", kernels=None))
        elif row == "graph_3":
            s = self.sampler("graph")
            for layer in s.decoder.layers:
                for part in [p for p in PRODUCTS if hasattr(layer, p)]:
                    setattr(layer, part, ThreeProducts(*getattr(layer, part).modules))
                layer.linears = tuple(getattr(layer, p) for p in PRODUCTS if hasattr(layer, p))
            factors = sum(m.U.nbytes + m.Vh.nbytes for m in self.model.modules() if isinstance(m, SVDLinear))
            self.ours(row, s, extra=factors)
        elif row == "full_adapted":
            self.full(self.sampler("graph"))
        elif row == "parts":
            StepParts(self, self.sampler("graph")).parts(row)
        elif row == "tune":
            StepParts(self, self.sampler("graph")).tune()

    def model_rows(self, name: str, wanted: list[str]) -> None:
        self.name, self.model = name, build(name, self.device)
        g = torch.Generator().manual_seed(0)
        vocab = self.model.config.vocab_size
        self.prompts = torch.randint(0, vocab, (self.args.rows_n, self.args.prompt), generator=g).tolist()
        for rows, prepare in ((BASE_ROWS, None), (ADAPTED_ROWS, adapt)):
            rows = [r for r in wanted if r in rows]
            if rows and prepare:
                prepare(self.model)
            for row in rows:
                self.report.guarded(f"{name}\t{row}", lambda row=row: self.dispatch(row))
        self.model = None
        gc.collect()


def main() -> None:
    default = [r for r in BASE_ROWS + ADAPTED_ROWS if r != "tune"]
    p = parser(__doc__, out="write the TSV here, row by row")
    p.add_argument("--models", default="qwen3-4b,qwen2.5-0.5b", help=f"of {', '.join(SHAPES)}")
    p.add_argument("--rows", default=",".join(default), help="rows to run, by name")
    p.add_argument("--rows-n", type=int, default=64, help="sequences decoded together")
    p.add_argument("--prompt", type=int, default=512, help="prompt tokens")
    p.add_argument("--new", type=int, default=256, help="new tokens")
    args = p.parse_args()
    small = args.models if args.models.startswith("tiny") else "tiny"
    device = pick_device(args, models=small, prompt=min(args.prompt, 60), new=min(args.new, 60))
    wanted = pick_rows(p, args.rows, BASE_ROWS + ADAPTED_ROWS)
    bench = Bench(args, device)
    for name in args.models.split(","):
        bench.model_rows(name, wanted)


if __name__ == "__main__":
    main()
