"""One training micro-batch, forward and backward, of the adapter's forms against LoRA; random weights, one GPU.

    python -m bench.train --out bench/train.tsv          Qwen3-4B shapes, 8 x (512 + 768) tokens
    python -m bench.train --model qwen2.5-0.5b
    python -m bench.train --tiny                         the same code on the CPU, seconds

Gradient checkpointing in every row, grpo.completion_logprobs for the loss, a delta that is not zero. Seconds are the
median of 5 after 2 warm-ups. weights: GiB allocated before the pass; peak: during it. applied and grad: relative error
of the applied delta (at delta_S of 7e-5) and of delta_S.grad against float64, in one Linear of 512 x 384 with its SVD.

Rows: lora (peft, r = 32, its fp32 adapter weights), lora_bf16 (adapter weights in bf16), ours (antipasto.py),
autograd (plain autograd of x W^T + ((x Vh^T) * delta_S) U^T, which rounds a small delta away: see applied),
autograd_exact (plain autograd of [x, (x Vh^T) * delta_S] [W | U]^T, which does not).
"""

from __future__ import annotations

import statistics

import torch
import torch.nn.functional as F

from antipasto import SVDLinear, checkpoint_layers, targets
from bench.common import SHAPES, Report, adapt, build, parser, peak_gib, pick_device, pick_rows, reset_memory, sync
from grpo import completion_logprobs
from lib.adapted import exact
from lib.packing import pack

ROWS = ["lora", "lora_bf16", "ours", "autograd", "autograd_exact"]
COLUMNS = ["model", "row", "batch", "tokens", "s", "to_lora", "weights_gib", "peak_gib", "applied", "grad", "note"]


def autograd(self, x):
    h = F.linear(x, self.Vh)
    return F.linear(x, self.weight, self.bias) + F.linear(h * self.delta_S.to(h.dtype), self.U)


FORWARDS = {"ours": SVDLinear.forward, "autograd": autograd, "autograd_exact": lambda self, x: exact(x, self)}


def errors(row: str, device: str) -> tuple[float, float]:
    """(applied delta at 7e-5, delta_S.grad): relative errors against float64 of one checkpointed bf16 Linear."""
    from torch.utils.checkpoint import checkpoint

    g = torch.Generator().manual_seed(0)
    linear = torch.nn.Linear(384, 512, bias=False).requires_grad_(False)
    linear.weight.data = (torch.randn(512, 384, generator=g) / 384**0.5).bfloat16().to(device)
    U, S, Vh = torch.linalg.svd(linear.weight.float(), full_matrices=False)
    module = SVDLinear(linear, U, S, Vh)
    x = torch.randn(2048, 384, generator=g).bfloat16().to(device).requires_grad_()
    up = torch.randn(2048, 512, generator=g).bfloat16().to(device)
    SVDLinear.forward = FORWARDS[row]
    with torch.no_grad():
        module.delta_S.copy_(7e-5 * torch.randn(384, generator=g).sign())
    y = checkpoint(lambda x: module(x), x, use_reentrant=False)
    y.backward(up)
    x64, U64, V64, d64 = (t.detach().double() for t in (x, module.U, module.Vh, module.delta_S))
    y = y.detach()
    h64 = x64 @ V64.T
    base, delta = x64 @ module.weight.double().T, (h64 * d64) @ U64.T
    # Both outputs are rounded to bf16, so the applied delta is read off as its share along the true one.
    applied = ((y.double() - base) * delta).sum() / delta.square().sum()
    want = (h64 * (up.double() @ U64)).sum(0)
    return abs(float(applied) - 1), float((module.delta_S.grad.double() - want).norm() / want.norm())


class Bench:
    def __init__(self, args, device: str):
        self.args, self.device, self.lora_s = args, device, None
        self.report = Report(COLUMNS, device, args.out)

    def row(self, name: str, model, applied: float, grad: float, note: str = "") -> None:
        a, times = self.args, []
        g = torch.Generator().manual_seed(0)
        rows = torch.randint(0, model.config.vocab_size, (a.batch, a.prompt + a.new), generator=g).tolist()
        packed = pack([row[: a.prompt] for row in rows], [row[a.prompt :] for row in rows], 0, self.device)
        weights = torch.cuda.memory_allocated() / 2**30 if self.device == "cuda" else 0.0
        reset_memory()
        for _ in range(7 if self.device == "cuda" else 2):
            start = sync(self.device)
            logp = completion_logprobs(model, packed)
            (-logp.mean()).backward()
            del logp
            times.append(sync(self.device) - start)
        seconds = statistics.median(times[-5:])
        if name == "lora":
            self.lora_s = seconds
        ratio = f"{seconds / self.lora_s:.3f}" if self.lora_s else ""
        finite = all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
        note = note if finite else f"{note} gradient missing or not finite"
        self.report.emit("\t".join(map(str, [a.model, name, a.batch, a.prompt + a.new, f"{seconds:.4f}", ratio,
            f"{weights:.2f}", f"{peak_gib():.2f}", f"{applied:.1e}", f"{grad:.1e}", note])))  # fmt: skip
        model.zero_grad(set_to_none=True)

    def guarded(self, name: str, fn) -> None:
        self.report.guarded(f"{self.args.model}\t{name}", fn)

    def lora(self, name: str) -> None:
        from peft import LoraConfig, get_peft_model

        model = build(self.args.model, self.device)
        checkpoint_layers(model)
        config = LoraConfig(r=32, lora_alpha=32, lora_dropout=0.0, target_modules=target_names(model))
        get_peft_model(model, config, autocast_adapter_dtype=name == "lora")
        self.row(name, model.train(), 0, 0)

    def ours(self, rows: list[str]) -> None:
        model = build(self.args.model, self.device)
        checkpoint_layers(model)
        adapter = adapt(model)
        model.train()
        reset_memory()
        for row in rows:
            self.guarded(row, lambda row=row: self.our_row(row, model))
            SVDLinear.forward = FORWARDS["ours"]
            for p in adapter.delta().values():
                p.grad = None
            reset_memory()

    def our_row(self, row: str, model) -> None:
        applied, grad = errors(row, self.device)
        SVDLinear.forward = FORWARDS[row]
        self.row(row, model, applied, grad)


def target_names(model) -> list[str]:
    """Leaf names of the Linears that the adapter wraps."""
    return sorted({name.rpartition(".")[2] for name, _ in targets(model)})


def main() -> None:
    p = parser(__doc__)
    p.add_argument("--model", default="qwen3-4b", choices=list(SHAPES))
    p.add_argument("--rows", default=",".join(ROWS))
    p.add_argument("--batch", type=int, default=8)
    p.add_argument("--prompt", type=int, default=512)
    p.add_argument("--new", type=int, default=768)
    args = p.parse_args()
    device = pick_device(args, model="tiny", batch=2, prompt=24, new=40)
    rows = pick_rows(p, args.rows, ROWS)
    bench = Bench(args, device)
    for name in (r for r in rows if r.startswith("lora")):
        bench.guarded(name, lambda name=name: bench.lora(name))
    if ours := [r for r in rows if not r.startswith("lora")]:
        bench.guarded("adapted model", lambda: bench.ours(ours))


if __name__ == "__main__":
    main()
