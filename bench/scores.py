"""What the column auroc costs: a step's training with its rollouts scored and without, in turns, on random weights.

    python -m bench.scores --model qwen2.5-0.5b --out bench/scores.tsv      dev shapes: P 8, G 8, 384 new tokens
    taskset -c 0 python -m bench.scores --tiny --out bench/scores.tsv       the organism's shapes on one core

A pass is train.backward and AdamW's update on the same rows with random rewards, no group flat; s is the median over
the rounds, seconds of the clock on a GPU and of the process on a CPU, whose load they do not see; ratio: on / off.
Lengths: lognormal as in bench/step.py; prompts uniform in 3/4 to 5/4.
"""

from __future__ import annotations

import statistics
import time
from types import SimpleNamespace

import torch

from antipasto import checkpoint_layers
from bench.common import SHAPES, Report, adapt, batch_of, build, parser, pick_device, run_of, sync, vanilla_update
from config import Config
from ladder import gradients
from lib.fused import fuse
from lib.shared_prefix import share_prefix

COLUMNS = ["model", "layout", "recompute", "layers", "rows", "tokens", "off_s", "on_s", "ratio"]


def seconds_now(device: str) -> float:
    return sync(device) if device == "cuda" else time.process_time()


def measured(args, device: str, share: bool, model, adapter) -> tuple[float, float, int]:
    """(seconds without scores, with, tokens of a pass) of one layout."""
    # Rows of the wanted lengths, and a random direction.
    g = torch.Generator().manual_seed(1)
    vocab = SHAPES[args.model].vocab
    widths = torch.randint(args.prompt * 3 // 4, args.prompt * 5 // 4, (args.P,), generator=g).tolist()
    prompts = [p for n in widths for p in [torch.randint(0, vocab, (n,), generator=g).tolist()] * args.G]
    lengths = torch.exp(torch.randn(len(prompts), generator=g) * 0.6) * args.mean
    lengths = lengths.long().clamp(2, args.max_new).tolist()
    completions = [torch.randint(0, vocab, (n,), generator=g).tolist() for n in lengths]
    rewards = torch.randint(0, 2, (args.P, args.G), generator=g).float() * 3.5
    rewards[:, 0], rewards[:, 1] = 0.0, 3.5
    batch = batch_of(prompts, completions, [torch.full((n,), -7.0) for n in lengths], rewards)
    batch.grades = [SimpleNamespace(hack=bool(r > 1), undecided=False) for r in rewards.flatten()]

    cfg = Config(
        prompts=args.P,
        group=args.G,
        max_new=args.max_new,
        micro_batch=0 if share else args.micro_batch,
        micro_tokens=args.micro_tokens,
        beta=args.beta,
        grad_checkpoint=args.checkpoint,
        logprob_chunk=1024,
    )
    run = run_of(cfg, model, adapter, None, torch.device(device))
    run.share, run.v_hack = share, {name: torch.randn_like(p) for name, p in adapter.delta().items()}
    optimiser = torch.optim.AdamW(adapter.delta().values(), lr=1e-9)
    seconds: dict[bool, list[float]] = {False: [], True: []}
    for turn in range(args.rounds + 1):
        for on in (False, True) if turn % 2 else (True, False):
            cfg.score_rollouts = on
            start = seconds_now(device)
            vanilla_update(run, optimiser, batch)
            if turn:  # the first warms up
                seconds[on].append(seconds_now(device) - start)
    tokens = sum(run.passes.pack([prompts[b] for b in part], [completions[b] for b in part]).ids.numel()
                 for part in run.passes.split(prompts, completions))  # fmt: skip
    return statistics.median(seconds[False]), statistics.median(seconds[True]), tokens


def main() -> None:
    p = parser(__doc__)
    p.add_argument("--model", default="qwen2.5-0.5b", choices=SHAPES)
    p.add_argument("--P", type=int, default=8)
    p.add_argument("--G", type=int, default=8)
    p.add_argument("--prompt", type=int, default=512)
    p.add_argument("--mean", type=float, default=150, help="median length of a completion")
    p.add_argument("--max-new", type=int, default=384)
    p.add_argument("--micro-batch", type=int, default=16)
    p.add_argument("--micro-tokens", type=int, default=8192)
    p.add_argument("--beta", type=float, default=1e-3)
    p.add_argument("--checkpoint", action="store_true", help="recompute layers in backward")
    p.add_argument("--rounds", type=int, default=7)
    p.add_argument("--layers", type=int, default=gradients.SCORED_LAYERS, help="that are scored")
    args = p.parse_args()
    gradients.SCORED_LAYERS = args.layers
    organism = {"model": "tiny", "prompt": 60, "mean": 35, "max_new": 80, "micro_batch": 32, "beta": 0.0}
    device = pick_device(args, **organism)
    report = Report(COLUMNS, device, args.out)
    model = build(args.model, device)
    if args.checkpoint:
        checkpoint_layers(model)
    fuse(model)
    adapter = adapt(model)
    share_prefix(model)
    for layout in ("padded", "shared"):

        def row(layout=layout) -> None:
            off, on, tokens = measured(args, device, layout == "shared", model, adapter)
            cells = [args.model, layout, int(args.checkpoint), args.layers, args.P * args.G, tokens]
            report.emit("\t".join(map(str, [*cells, f"{off:.3f}", f"{on:.3f}", f"{on / off:.3f}"])))

        report.guarded(f"{args.model}\t{layout}", row)


if __name__ == "__main__":
    main()
