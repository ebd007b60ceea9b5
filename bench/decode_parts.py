"""Where a decode step's time goes: microseconds of each part over all layers, and block sizes of the kernels.

bench/decode.py's rows `parts` and `tune`, with its model, prompts and report.
"""

from __future__ import annotations

from itertools import product

import torch

from bench.common import sync
from sampling import noise
from sampling.delta_net import DeltaNetLayer
from sampling.layers import DecoderLayer
from sampling.sampler import Sampler

# BLOCK, warps, stages, and programs that fill the device by prompts and by completions, of the attention.
ATTEND_SIZES = ((64, 4, 3), (64, 4, 2), (64, 4, 4), (64, 8, 3), (128, 4, 2), (128, 8, 2), (32, 4, 4))
PROGRAMS = ((128, 256), (128, 512), (256, 256), (256, 512), (384, 512), (512, 512), (512, 1024), (1024, 2048))
# A layer's products, by attribute: of attention, of a gated delta net, of the MLP.
PRODUCTS = ("qkv", "o", "into", "out", "gate_up", "down")


class StepParts:
    """Timings of the parts of `sampler`'s step; bench: bench.decode.Bench."""

    def __init__(self, bench, sampler: Sampler):
        self.bench, self.sampler = bench, sampler

    def time_us(self, fn, repeats: int = 5) -> float:
        """Microseconds of fn, captured as a graph on a GPU."""
        fn()
        if self.bench.device == "cuda":
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                fn()
            fn = graph.replay
            fn()
        start = sync(self.bench.device)
        for _ in range(repeats):
            fn()
        return (sync(self.bench.device) - start) / repeats * 1e6

    def halfway(self):
        """The sampler's batch with its prompts in the cache, set to half of the new tokens."""
        batch = self.sampler.fill_cache(self.bench.prompts, self.bench.args.new)
        batch.step.fill_(self.bench.args.new // 2)
        return batch

    @torch.no_grad()
    def parts(self, name: str) -> None:
        """Microseconds a step of each part, over all layers."""
        b, layers, kernels = self.halfway(), self.sampler.decoder.layers, self.sampler.decoder.kernels
        n, c = len(self.bench.prompts), self.bench.model.config
        x = torch.randn(n, c.hidden_size, device=self.bench.device, dtype=self.bench.model.lm_head.weight.dtype)
        logits, timed = self.bench.model.lm_head(x), {}

        # The products by name, over the layers that have them.
        for part in PRODUCTS:
            products = [getattr(layer, part) for layer in layers if hasattr(layer, part)]
            if products:
                given = torch.randn(n, products[0].d_in, device=self.bench.device, dtype=x.dtype)
                timed[part] = lambda products=products, given=given: [product(given) for product in products]
        timed["lm_head"] = lambda: self.bench.model.lm_head(x)
        draw = kernels.draws.draw if kernels and kernels.draws.fits(logits, 20) else noise.draw
        timed["draw"] = lambda: draw(logits, b.keys[:n], b.step, 1.0, 20)
        if kernels:
            timed |= self.kernel_parts(b, x)
        for part, fn in timed.items():
            try:
                self.bench.report.emit(f"{self.bench.name}\t{name}:{part}\t{self.time_us(fn):.0f} us")
            except Exception as error:
                self.bench.report.emit(f"{self.bench.name}\t{name}:{part}\tfailed: {str(error).splitlines()[0][:100]}")
        self.sampler.free()

    def attention(self, b, n: int) -> dict:
        """{name: a function that runs the attention of every layer that has it}: n rows with a prompt of their own, and
        12 to a prompt."""
        kernels, device = self.sampler.decoder.kernels, self.bench.device
        mixers = zip(self.sampler.decoder.layers, b.prompt_cache, b.cache, strict=True)
        mixers = [m for m in mixers if isinstance(m[0], DecoderLayer)]
        first = mixers[0][0]
        q = torch.randn(n, first.heads, first.head_dim, device=device, dtype=self.bench.model.lm_head.weight.dtype)

        def attend(group: torch.Tensor) -> list[torch.Tensor]:
            return [kernels.attend(q, *prompt, *own, b.lengths[:n], group, b.step) for _, prompt, own in mixers]

        shared = torch.arange(n, device=device) // 12 * 12
        return {"own": lambda: attend(b.group[:n]), "shared12": lambda: attend(shared)}

    def kernel_parts(self, b, x: torch.Tensor) -> dict:
        """What is no product: {name: a function that runs it in every layer that has it}."""
        layers, kernels, n = self.sampler.decoder.layers, self.sampler.decoder.kernels, len(x)
        mixers = list(zip(layers, b.prompt_cache, b.cache, strict=True))
        attention = [m for m in mixers if isinstance(m[0], DecoderLayer)]
        nets = [m for m in mixers if isinstance(m[0], DeltaNetLayer)]
        first = attention[0][0]
        qkv, gate_up, attend = first.qkv(x), first.gate_up(x), self.attention(b, n)

        parts = {
            "norm": lambda: [kernels.norm(x, norm) for layer in layers for norm in layer.norms],
            "prepare": lambda: [
                kernels.prepare(qkv, *own, layer.head_norm, b.rotary, b.lengths, b.step, gated=layer.gated)
                for layer, _, own in attention
            ],
            "attend": attend["own"],
            "attend_shared12": attend["shared12"],
            "silu_mul": lambda: [kernels.silu_mul(gate_up) for _ in layers],
        }
        if nets:
            y = nets[0][0].into(x)
            mixed = kernels.convolve(y, nets[0][0].net.conv1d.weight, nets[0][2][0])
            parts["convolve"] = lambda: [kernels.convolve(y, m.net.conv1d.weight, own[0]) for m, _, own in nets]
            for warps in (4, 8, 16):
                parts[f"delta_step_{warps}"] = lambda warps=warps: [
                    kernels.delta_step(
                        mixed, y, own[1], m.net.A_log, m.net.dt_bias, m.net.norm, m.key_heads, num_warps=warps
                    )
                    for m, _, own in nets
                ]
        return parts

    @torch.no_grad()
    def tune(self) -> None:
        """Microseconds of attention over all layers, by block and programs: prompts of a row's own, and of 12 rows."""
        kernels, attention = self.sampler.decoder.kernels, self.attention(self.halfway(), len(self.bench.prompts))
        before = kernels.ATTEND, kernels.SHARED_PROGRAMS, kernels.OWN_PROGRAMS
        for (block, warps, stages), programs in product(ATTEND_SIZES, PROGRAMS):
            kernels.ATTEND = {"BLOCK": block, "num_warps": warps, "num_stages": stages}
            kernels.SHARED_PROGRAMS, kernels.OWN_PROGRAMS = programs
            for name, attend in attention.items():
                sizes = f"block {block} warps {warps} stages {stages} programs {programs}"
                self.try_time(f"tune:attend {name} {sizes}", attend)
        kernels.ATTEND, kernels.SHARED_PROGRAMS, kernels.OWN_PROGRAMS = before
        self.sampler.free()

    def try_time(self, label: str, fn) -> None:
        try:
            self.bench.report.emit(f"{self.bench.name}\t{label}\t{self.time_us(fn, repeats=20):.0f} us")
        except Exception as error:
            self.bench.report.emit(f"{self.bench.name}\t{label}\tfailed: {str(error).splitlines()[0][:100]}")
