"""The same GRPO step in TRL's GRPOTrainer and here, side by side, on one GPU: seconds and peak memory.

    python -m bench.trl --out bench/trl.tsv          Qwen2.5-0.5B shapes, P 8, G 8, 256 prompt + 256 new tokens
    python -m bench.trl --tiny                       the same code on the CPU

Both sides: the same random bf16 model, prompts, P, G and micro-batch (8 rows), gradient checkpointing, top-k 20 at
temperature 1, no KL term, one optimiser step, and every completion forced to full length (TRL: min_new_tokens; here:
no end token), so the work is equal. TRL trains a peft LoRA (r = 32 on the Linears that the adapter wraps) and samples
with transformers generate; here: sampling.Sampler, train.backward, AdamW on delta_S. Seconds: median step after the
first two. Needs trl and datasets, which the project itself does not.

Rows: trl; trl_liger (its Liger kernels), trl_fast (these, and transformers' static cache, compiled); ours (a group's
prompt once, as many tokens a pass as TRL's micro-batch has); ours_padded (every completion with its own prompt, as in
TRL); both without checkpointing. vLLM, which TRL can sample with, is none of these: docs/method.md.
"""

from __future__ import annotations

import statistics
import tempfile

import torch
import transformers

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
    pick_rows,
    reset_memory,
    run_of,
    sync,
    vanilla_update,
)
from bench.train import target_names
from config import Config
from lib.files import REPO
from lib.fused import fuse
from lib.memory import MOST_LOGIT_ROWS
from lib.shared_prefix import share_prefix
from problems.organism import organism_problems
from sampling.sampler import Sampler

COLUMNS = ["model", "row", "P", "G", "prompt", "new", "s", "to_trl", "roll_s", "train_s", "peak_gib", "mem_to_trl",
           "note"]  # fmt: skip
ROWS = ["trl", "ours", "ours_padded", "ours_no_checkpoint", "trl_liger", "trl_fast", "trl_no_checkpoint"]


class Bench:
    def __init__(self, args, device: str):
        self.args, self.device, self.trl = args, torch.device(device), None
        try:
            from importlib.metadata import version

            versions = f"trl {version('trl')} peft {version('peft')}"
        except Exception as error:
            versions = f"trl missing ({error})"
        self.report = Report(COLUMNS, device, args.out, more=versions)
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(REPO / "organism", padding_side="left")
        programs = "\n".join(p.canonical for p in organism_problems(400, seed=0, split="train"))
        text = self.tokenizer(programs, add_special_tokens=False)["input_ids"]
        parts = [text[i * args.prompt : (i + 1) * args.prompt] for i in range(args.P)]
        self.texts = [self.tokenizer.decode(p) for p in parts]
        self.prompts = [self.tokenizer(t, add_special_tokens=False)["input_ids"] for t in self.texts]

    def row(self, name: str, seconds: float, roll: str, train: str, note: str = "") -> None:
        a = self.args
        peak = peak_gib()
        if name == "trl":
            self.trl = (seconds, peak)
        ratio = f"{seconds / self.trl[0]:.3f}" if self.trl else ""
        memory = f"{peak / self.trl[1]:.3f}" if self.trl and self.trl[1] else ""
        prompt = round(sum(map(len, self.prompts)) / len(self.prompts))
        fields = [a.model, name, a.P, a.G, prompt, a.new, f"{seconds:.3f}", ratio, roll, train, f"{peak:.2f}", memory,
                  note]  # fmt: skip
        self.report.emit("\t".join(map(str, fields)))

    def guarded(self, name: str, fn) -> None:
        reset_memory()
        self.report.guarded(f"{self.args.model}\t{name}", fn)

    # --- TRL ---

    def run_trl(self, name: str) -> None:
        from datasets import Dataset
        from peft import LoraConfig
        from trl import GRPOConfig, GRPOTrainer

        a, steps, cpu = self.args, [], self.device.type == "cpu"
        model = build(a.model, self.device.type)
        model.requires_grad_(True)  # as from_pretrained leaves it
        model.config.pad_token_id = self.tokenizer.pad_token_id
        device = self.device.type

        class Clock(transformers.TrainerCallback):
            def on_step_begin(self, *_, **__):
                steps.append(sync(device))

            def on_step_end(self, *_, **__):
                steps[-1] = sync(device) - steps[-1]

        lengths = []

        def reward(completions, completion_ids=None, **_):
            lengths.extend(len(c) for c in completion_ids or [])
            return [float(i % 2) for i in range(len(completions))]

        with tempfile.TemporaryDirectory() as out:
            config = GRPOConfig(
                output_dir=out, per_device_train_batch_size=a.micro_batch,
                gradient_accumulation_steps=a.P * a.G // a.micro_batch, num_generations=a.G, max_steps=a.steps,
                max_completion_length=a.new, generation_kwargs={"min_new_tokens": a.new}, temperature=1.0, top_k=20,
                beta=0.0, num_iterations=1, loss_type="dr_grpo", scale_rewards="none", bf16=not cpu, use_cpu=cpu,
                gradient_checkpointing=name != "trl_no_checkpoint",
                gradient_checkpointing_kwargs={"use_reentrant": False},
                learning_rate=7e-5, report_to="none", save_strategy="no", logging_steps=1, disable_tqdm=True,
                remove_unused_columns=False, dataloader_num_workers=0,
                use_liger_kernel=name in ("trl_liger", "trl_fast"),
                cache_implementation="static" if name == "trl_fast" else None,
            )  # fmt: skip
            trainer = GRPOTrainer(
                model=model, reward_funcs=reward, args=config, processing_class=self.tokenizer,
                train_dataset=Dataset.from_list([{"prompt": t} for t in self.texts]),
                peft_config=LoraConfig(r=32, lora_alpha=32, target_modules=target_names(model)), callbacks=[Clock()],
            )  # fmt: skip
            trainer.train()
        note = f"{len(steps)} steps, completion tokens {min(lengths, default=0)} to {max(lengths, default=0)}"
        self.row(name, statistics.median(steps[2:] or steps), "", "", note)

    # --- ours ---

    def run_ours(self, name: str) -> None:
        a = self.args
        model = build(a.model, self.device.type)
        grad_checkpoint = name != "ours_no_checkpoint"
        if grad_checkpoint:
            checkpoint_layers(model)
        fuse(model)
        adapter = adapt(model)
        sampler = Sampler(model, eos_ids=[], pad_id=self.tokenizer.pad_token_id)
        share = name != "ours_padded" and share_prefix(model)
        rows_of_tokens = a.micro_batch * (a.prompt + a.new)  # as many as TRL's micro-batch has
        cfg = Config(
            prompts=a.P,
            group=a.G,
            max_new=a.new,
            micro_batch=0 if share else a.micro_batch,
            micro_tokens=rows_of_tokens if share else 0,
            beta=0.0,
            logprob_chunk=MOST_LOGIT_ROWS,
            grad_checkpoint=grad_checkpoint,
        )
        run = run_of(cfg, model, adapter, sampler, self.device, self.tokenizer.pad_token_id)
        run.share = share
        optimiser = torch.optim.AdamW(adapter.delta().values(), lr=7e-5)
        rows, times = [p for p in self.prompts for _ in range(a.G)], []
        rewards = (torch.arange(a.P * a.G) % 2).float().view(a.P, a.G)
        for step in range(a.steps):
            start = sync(self.device.type)
            out = sampler.sample(rows, range(step * 1000, step * 1000 + len(rows)), a.new)
            middle = sync(self.device.type)
            completions = out.tokens.tolist()
            vanilla_update(run, optimiser, batch_of(rows, completions, list(out.logprobs), rewards))
            end = sync(self.device.type)
            times.append((end - start, middle - start, end - middle))
        total, roll, train = (statistics.median(t) for t in zip(*(times[2:] or times), strict=True))
        note = f"engine {sampler.engine}, completion tokens {int(out.lengths.min())} to {int(out.lengths.max())}"
        self.row(name, total, f"{roll:.3f}", f"{train:.3f}", note)
        sampler.free()


def main() -> None:
    p = parser(__doc__)
    p.add_argument("--model", default="qwen2.5-0.5b", choices=list(SHAPES))
    p.add_argument("--P", type=int, default=8)
    p.add_argument("--G", type=int, default=8)
    p.add_argument("--prompt", type=int, default=256)
    p.add_argument("--new", type=int, default=256)
    p.add_argument("--micro-batch", type=int, default=8)
    p.add_argument("--steps", type=int, default=4)
    p.add_argument("--rows", default=",".join(ROWS[:-1]), help=f"of {', '.join(ROWS)}")
    args = p.parse_args()
    rows = pick_rows(p, args.rows, ROWS)
    device = pick_device(args, model="tiny", P=2, G=4, prompt=24, new=16, micro_batch=4)
    bench = Bench(args, device)
    for row in rows:
        run = bench.run_trl if row.startswith("trl") else bench.run_ours
        bench.guarded(row, lambda row=row, run=run: run(row))


if __name__ == "__main__":
    main()
