# Workflows. `just` lists them; every recipe that runs Python sets up the environment first.
set shell := ["bash", "-euo", "pipefail", "-c"]
set positional-arguments

export TOKENIZERS_PARALLELISM := "false"
# Set, as in many images, every process would compile torch and transformers anew: 12 s of a core instead of 8.
export PYTHONDONTWRITEBYTECODE := ""
py := ".venv/bin/python"

# what to run first, and the recipes
default:
    @echo "First: just doctor (what this machine lacks), then just probe (the whole experiment on a small organism, no GPU, minutes)."
    @echo "On a GPU: just full-probe full --seed 41. Where a container refuses namespaces: export ISOLATION=rlimits, or --isolation rlimits after any recipe."
    @echo
    @just --list --unsorted

# what a GPU run needs, what this machine lacks, and what to do about it
[no-exit-message]
doctor *ARGS: setup
    {{py}} -m tools.doctor "$@"

# runs side by side, live from their files: just watch outputs/dev (q quits)
[no-exit-message]
watch *ARGS: setup
    {{py}} -m tools.watch "$@"

# trackio (or tensorboard) on the runs of --track: just dashboard outputs/dev
[no-exit-message]
dashboard *ARGS: setup
    {{py}} -m tools.dashboard "$@"

# create .venv from the committed lock (with the GPU extras where nvidia-smi lists one)
setup:
    #!/usr/bin/env bash
    set -euo pipefail
    locks=(requirements.lock)   # the GPU's names it and adds to it
    if command -v nvidia-smi >/dev/null && nvidia-smi -L 2>/dev/null | grep -q GPU; then locks+=(requirements-gpu.lock); fi
    # The stamp lists what the lock installed: where something of it is gone, it vouches for nothing.
    stamp=.venv/.lock-$(cat "${locks[@]}" | sha256sum | cut -c1-16)
    if ! { [ -s "$stamp" ] && xargs ls -d <"$stamp"; } >/dev/null 2>&1; then
        [ -x {{py}} ] || uv venv --quiet --clear .venv
        uv pip sync --quiet --python {{py}} "${locks[-1]}"   # named, since uv would take an active environment instead
        rm -f .venv/.lock-*
        ls -d {{py}} .venv/lib/python*/site-packages/*.dist-info >"$stamp"
    fi

# fetch LeetCode, HumanEval and MBPP problems into data/: just data --sets leetcode humaneval
[no-exit-message]
data *ARGS: setup
    {{py}} -m tools.fetch_data "$@"

# print statistics of the contrastive pairs
[no-exit-message]
pairs *ARGS: setup
    {{py}} pairs.py "$@"

# SVD of every adapted Linear into svd_cache/ (also done by whichever script comes first)
[no-exit-message]
svd-cache PRESET="full" *ARGS: setup
    {{py}} extract_vhack_grad.py --svd-only --preset "$@"

# extract v_hack from the pairs
[no-exit-message]
extract-vhack PRESET="full" *ARGS: setup
    {{py}} extract_vhack_grad.py --preset "$@"

# check v_hack on the held-out pairs: table, histogram, gate
[no-exit-message]
verify-vhack PRESET="full" *ARGS: setup
    {{py}} verify_vhack_heldout.py --preset "$@"

# print the hack x grader matrix of synthetic rollouts and fail where a cell is off
[no-exit-message]
verify-rewards *ARGS: setup
    {{py}} rewards.py "$@"

# programs a second of the grader, hostile ones mixed in
[no-exit-message]
bench-grader *ARGS: setup
    {{py}} -m bench.grader "$@"

# one run; arm and seed may be left out: just train tiny projected 1 --steps 50
[no-exit-message]
train PRESET *ARGS: setup
    #!/usr/bin/env bash
    set -euo pipefail
    words=(--preset "$1"); shift
    for name in --arm --seed; do
        if (( $# )) && [[ $1 != -* ]]; then words+=("$name" "$1"); shift; fi
    done
    {{py}} train.py "${words[@]}" "$@"

# the same on N GPUs of this host: just train-dp 2 dev projected 1
[no-exit-message]
train-dp N PRESET *ARGS: setup
    #!/usr/bin/env bash
    set -euo pipefail
    n=$1 words=(--preset "$2"); shift 2
    for name in --arm --seed; do
        if (( $# )) && [[ $1 != -* ]]; then words+=("$name" "$1"); shift; fi
    done
    {{py}} -m torch.distributed.run --standalone --nproc-per-node "$n" train.py "${words[@]}" "$@"

# plots, table, verdicts and a page with the rollouts of finished runs: just report outputs/tiny --out outputs/tiny/report
[no-exit-message]
report +RUNS: setup
    {{py}} plot_pareto.py "$@"

# the gates, then the plot: grader, extraction, held-out check, vanilla (H4), projected: just full-probe full --seed 41
[no-exit-message]
full-probe PRESET="full" *ARGS: setup
    {{py}} -m tools.full_probe --preset "$@"

# the whole experiment on the shipped organism, no GPU (containers: --isolation rlimits): extraction, check, vanilla + projected + random-v, report
[no-exit-message]
probe *ARGS: setup
    #!/usr/bin/env bash
    set -euo pipefail
    out=outputs/tiny; mkdir -p "$out"
    {{py}} extract_vhack_grad.py --preset tiny
    {{py}} verify_vhack_heldout.py --preset tiny
    echo "== random-v runs beside the other two, its rows go to $out/random-v_s0.log"
    {{py}} train.py --preset tiny --arm random-v "$@" >"$out/random-v_s0.log" 2>&1 & background=$!
    trap 'kill $background 2>/dev/null || true' EXIT
    echo "== vanilla"; {{py}} train.py --preset tiny --arm vanilla --workers 1 "$@"
    echo "== projected"; {{py}} train.py --preset tiny --arm projected --workers 1 "$@"
    wait $background || { tail -3 "$out/random-v_s0.log" >&2; exit 1; }
    {{py}} plot_pareto.py "$out"/{vanilla,projected,random-v}_s0 --out "$out/probe"
    echo "probe: report in $out/probe/report.md, runs in $out/, one seed; \`just organism-study\` runs five"

# branches of a vanilla run: just branch outputs/tiny/vanilla_s0 --at takeoff --arms vanilla projected random-v
[no-exit-message]
branch *ARGS: setup
    {{py}} branch.py "$@"

# a whole study of branches: directions, parents, branches, diagnosis, report: just branch-study tiny --seeds 0 --arms vanilla projected
[no-exit-message]
branch-study *ARGS: setup
    {{py}} -m tools.branch_study "$@"

# AUROC of directions at a branch point, without training: just diagnose outputs/tiny/vanilla_s0 --at takeoff
[no-exit-message]
diagnose *ARGS: setup
    {{py}} diagnose_vhack.py "$@"

# pairs that the base model writes itself, before any RL: just self-pairs tiny
self-pairs PRESET="tiny" *ARGS: setup
    {{py}} -m tools.self_pairs --preset "$@"

# every arm and variant on the organism, five seeds, resumable (an hour or two on two cores): just organism-study 2
[no-exit-message]
organism-study JOBS="2" *ARGS: setup
    #!/usr/bin/env bash
    set -euo pipefail
    jobs=${1:-2}; shift $(( $# < 1 ? $# : 1 ))
    {{py}} -m tools.sweep --preset tiny --study organism --submit local --jobs "$jobs" -- "$@"
    {{py}} plot_pareto.py outputs/tiny --out outputs/tiny/report

# SWEEPS. First the probe, `just full-probe full --seed 41`: five gates, each before what costs more; it ends with
# vanilla's hack rate, and only above 30% (H4) with projected beside it. If that stands: `just queue-full`, the ten
# preregistered runs (vanilla 3, projected 3, projected-nomag 1, rebound 3). If those say something: `just
# queue-controls`. `just sweep-status` with the same flags says how far each is. A rate at which the policy moves comes
# before all of it: `just tune full`.

# print the commands of a sweep; with --submit local run them: just sweep --preset dev --study preregistered
[no-exit-message]
sweep *ARGS: setup
    {{py}} -m tools.sweep "$@"

# what a sweep has reached: rates so far, ETA, failures
[no-exit-message]
sweep-status *ARGS: setup
    {{py}} -m tools.sweep --status "$@"

# the ten preregistered runs in pueue, in the preregistered order, all behind H4's gate: just queue-full --groups gpu0
[no-exit-message]
queue-full *ARGS: setup
    {{py}} -m tools.sweep --preset full --study preregistered --submit pueue "$@"

# the controls in pueue (rebound-zscore, random-v, shuffled-v, reversed, no-loophole, pairs without run_tests()), once the ten are worth it
[no-exit-message]
queue-controls *ARGS: setup
    {{py}} -m tools.sweep --preset full --study controls --submit pueue "$@"

# vanilla alone at a few rates: the smallest at which the policy moves (docs/method.md): just tune dev --rates 5e-4 1e-3
[no-exit-message]
tune PRESET *ARGS: setup
    {{py}} -m tools.tune --preset "$@"

# a finished run as a PEFT LoRA or a merged checkpoint: just export outputs/tiny/projected_s0 --to lora --out DIR
[no-exit-message]
export *ARGS: setup
    {{py}} -m tools.export "$@"

# what a researcher sees, into docs/screens; the page needs Debian's chromium and chromium-driver: just screens --kinds page
[no-exit-message]
screens *ARGS: setup
    {{py}} -m tools.screens "$@"

# base rates of an unadapted model on problem files: just base-rates dev --model DIR --problems humaneval leetcode
[no-exit-message]
base-rates PRESET *ARGS: setup
    {{py}} -m tools.base_rates --preset "$@"

# predicted seconds a step, hours, memory and price of a preset: just estimate full --rate 2
[no-exit-message]
estimate PRESET="full" *ARGS: setup
    {{py}} -m tools.estimate --preset "$@"

# rebuild the organism from its seed (about 15 minutes on one core)
[no-exit-message]
organism *ARGS: setup
    {{py}} -m tools.make_organism "$@"

# the scripts of full-probe on a random 2-layer Qwen3 and eight bundled problems, in minutes on a CPU
[no-exit-message]
smoke *ARGS: setup
    #!/usr/bin/env bash
    set -euo pipefail
    out=outputs/smoke; rm -rf "$out"
    model=(--model "$out/model" --pairs default --v-hack "$out/v_hack.safetensors" --svd-cache "$out/svd_cache")
    run=(--problems tests/data/smoke_problems.jsonl --n-eval 2 --eval-samples 4 --eval-every 2 --steps 4 --prompts 4
         --group 8 --max-new 24 --warmup 1 --checkpoint-every 2 --tripwires warn)   # 8 completions show no collapse
    {{py}} tests/helpers/random_model.py "$out/model"
    {{py}} rewards.py "$@"   # of the flags, --isolation
    {{py}} extract_vhack_grad.py "${model[@]}"
    {{py}} verify_vhack_heldout.py "${model[@]}"
    {{py}} train.py "${model[@]}" "${run[@]}" --arm vanilla --out "$out/vanilla_s0" "$@"
    {{py}} train.py "${model[@]}" "${run[@]}" --arm projected --out "$out/projected_s0" "$@"
    {{py}} plot_pareto.py "$out/vanilla_s0" "$out/projected_s0" --out "$out/report"
    echo "smoke: ok, everything is in $out"

# the test suite
[no-exit-message]
test *ARGS: setup
    {{py}} -m pytest -n auto --maxprocesses 8 --dist loadfile "$@"

# ruff, without changing anything
[no-exit-message]
lint: setup
    .venv/bin/ruff check .
    .venv/bin/ruff format --check .

# format the code
[no-exit-message]
fmt: setup
    .venv/bin/ruff check --fix .
    .venv/bin/ruff format .
