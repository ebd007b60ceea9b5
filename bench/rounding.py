"""What rounding W + D does to a policy: the ways to hold it in bf16 against the exact sum, with fp32 activations.

    python -m bench.rounding --model DIR --out bench/rounding.tsv      a minute on a GPU at 0.5B
    python -m bench.rounding --tiny                                    the same code on random weights, seconds

D = U diag(delta_S) Vh with normal delta_S, std 7e-5 and 2e-3 (a step of AdamW at the registered rate and at one of the
coder model's), ten and fifty times the latter. Forms: nearest, dithered (what the sampler holds, sampling/linear.py),
int8 (D apart, with a scale per output, as it was held until 2026-11-30), base (no D at all); and activations: the base
model in bf16, the noise that every form has on a GPU. kl: KL(exact || form), nats a token over the text of pairs.md;
slope: of the form's change of the tokens' logprobs on the exact one; weights: the same of the weights.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer

from antipasto import targets
from bench.common import Report, build, parser
from lib.files import REPO
from lib.svd import svd
from sampling.linear import dithered

COLUMNS = ["model", "std", "form", "size", "kl", "slope", "weights"]
STDS = (7e-5, 2e-3, 2e-2, 1e-1)


def slope(change: torch.Tensor, exact: torch.Tensor) -> float:
    """Of the regression through zero."""
    change, exact = change.double(), exact.double()
    return float((change * exact).sum() / (exact * exact).sum())


def int8(W: torch.Tensor, D: torch.Tensor) -> torch.Tensor:
    scale = D.abs().amax(1, keepdim=True) / 127
    return W + (D / scale).round() * scale


FORMS = {
    "nearest": lambda W, D: (W + D).bfloat16().float(),
    "dithered": lambda W, D: dithered(W + D).float(),
    "int8": int8,
    "base": lambda W, D: W,
}


class Policy:
    """A model with fp32 activations whose adapted weights are set at will, on one text."""

    def __init__(self, model, ids: torch.Tensor):
        self.model, self.ids = model, ids
        self.linears = dict(targets(model))
        self.W = {name: m.weight.data.clone() for name, m in self.linears.items()}
        self.svd = {name: svd(W) for name, W in self.W.items()}

    def delta(self, std: float) -> dict[str, torch.Tensor]:
        """D of every Linear."""
        g = torch.Generator(self.ids.device).manual_seed(0)
        return {
            name: (U * torch.randn(S.shape, generator=g, device=S.device).mul_(std)) @ Vh
            for name, (U, S, Vh) in self.svd.items()
        }

    @torch.no_grad()
    def logprobs(self, weights: dict[str, torch.Tensor]) -> torch.Tensor:
        """[L, V] fp32."""
        for name, m in self.linears.items():
            m.weight.data.copy_(weights[name])
        return self.model(self.ids).logits[0].float().log_softmax(-1)

    def of_text(self, logprobs: torch.Tensor) -> torch.Tensor:
        """[L - 1]: of the text's own tokens."""
        return logprobs[:-1].gather(1, self.ids[0, 1:, None])[:, 0]


def kl(p: torch.Tensor, q: torch.Tensor) -> float:
    """KL(p || q), nats a token, of log-probabilities [L, V]."""
    return float(F.kl_div(q, p, log_target=True, reduction="batchmean"))


def main() -> None:
    p = parser(__doc__, out="write the TSV here, row by row")
    p.add_argument("--model", default="tiny", help="local directory or hub id")
    p.add_argument("--tokens", type=int, default=512, help="of the text")
    args = p.parse_args()
    device = "cuda" if torch.cuda.is_available() and not args.tiny else "cpu"
    if args.tiny or args.model == "tiny":
        args.model, model = "tiny", build("tiny", "cpu")
        ids = torch.randint(0, 2048, (1, 64), generator=torch.Generator().manual_seed(0))
        for parameter in model.parameters():
            parameter.data = parameter.data.bfloat16().float()
    else:
        model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.bfloat16).float()
        text = (REPO / "pairs.md").read_text()
        ids = AutoTokenizer.from_pretrained(args.model)(text, return_tensors="pt").input_ids[:, : args.tokens]
    policy = Policy(model.eval().requires_grad_(False).to(device), ids.to(device))
    emit = Report(COLUMNS, device, args.out, append=False).emit

    base, name = policy.logprobs(policy.W), args.model.rstrip("/").rsplit("/", 1)[-1]
    in_bf16 = copy.deepcopy(policy.model).bfloat16()(policy.ids).logits[0].float().log_softmax(-1)
    emit(f"{name}\t0\tactivations\t\t{kl(base, in_bf16):.1e}\t\t")
    norm = sum(float(W.square().sum()) for W in policy.W.values())
    for std in STDS:
        D = policy.delta(std)
        size = (sum(float(d.square().sum()) for d in D.values()) / norm) ** 0.5
        exact = policy.logprobs({n: W + D[n] for n, W in policy.W.items()})
        for form, make in FORMS.items():
            weights = {n: make(W, D[n]) for n, W in policy.W.items()}
            got = policy.logprobs(weights)
            moved = slope(policy.of_text(got) - policy.of_text(base), policy.of_text(exact) - policy.of_text(base))
            flat = [torch.cat([t[n].flatten() for n in D]) for t in (weights, policy.W, D)]
            held = slope(flat[0] - flat[1], flat[2])
            emit(f"{name}\t{std:g}\t{form}\t{size:.4f}\t{kl(exact, got):.1e}\t{moved:.3f}\t{held:.3f}")


if __name__ == "__main__":
    main()
