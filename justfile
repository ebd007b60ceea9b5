# Workflows. `just` lists them; every recipe that runs Python sets up the environment first.
set shell := ["bash", "-euo", "pipefail", "-c"]
set positional-arguments

export TOKENIZERS_PARALLELISM := "false"
py := ".venv/bin/python"

# list the recipes
default:
    @just --list --unsorted

# create .venv from the committed lock (with the GPU extras where nvidia-smi lists one)
setup:
    #!/usr/bin/env bash
    set -euo pipefail
    lock=requirements.lock
    if command -v nvidia-smi >/dev/null && nvidia-smi -L 2>/dev/null | grep -q GPU; then lock=requirements-gpu.lock; fi
    # The stamp lists what the lock installed: where something of it is gone, it vouches for nothing.
    stamp=.venv/.lock-$(sha256sum "$lock" | cut -c1-16)
    if ! { [ -s "$stamp" ] && xargs ls -d <"$stamp"; } >/dev/null 2>&1; then
        [ -x {{py}} ] || uv venv --quiet --clear .venv
        uv pip sync --quiet --python {{py}} "$lock"   # named, since uv would take an active environment instead
        rm -f .venv/.lock-*
        ls -d {{py}} .venv/lib/python*/site-packages/*.dist-info >"$stamp"
    fi

# fetch the three LeetCode files of ariahw/rl-rewardhacking into data/ and check their row counts
data *ARGS: setup
    {{py}} -m tools.fetch_data "$@"

# print statistics of the contrastive pairs
pairs *ARGS: setup
    {{py}} pairs.py "$@"

# SVD of every adapted Linear into svd_cache/ (also done by whichever script comes first)
svd-cache PRESET="full" *ARGS: setup
    {{py}} extract_vhack_grad.py --svd-only --preset "$@"

# extract v_hack from the pairs
extract-vhack PRESET="full" *ARGS: setup
    {{py}} extract_vhack_grad.py --preset "$@"

# check v_hack on the held-out pairs: table, histogram, gate
verify-vhack PRESET="full" *ARGS: setup
    {{py}} verify_vhack_heldout.py --preset "$@"

# print the hack x grader matrix of synthetic rollouts and fail where a cell is off
verify-rewards: setup
    {{py}} rewards.py

# programs a second of the grader, hostile ones mixed in
bench-grader *ARGS: setup
    {{py}} -m bench.grader "$@"

# one run: just train tiny projected 1 --steps 50
train PRESET ARM="vanilla" SEED="0" *ARGS: setup
    #!/usr/bin/env bash
    set -euo pipefail
    preset=$1 arm=${2:-vanilla} seed=${3:-0}; shift $(( $# < 3 ? $# : 3 ))
    {{py}} train.py --preset "$preset" --arm "$arm" --seed "$seed" "$@"

# the same on N GPUs of this host: just train-dp 2 dev projected 1
train-dp N PRESET ARM="vanilla" SEED="0" *ARGS: setup
    #!/usr/bin/env bash
    set -euo pipefail
    n=$1 preset=$2 arm=${3:-vanilla} seed=${4:-0}; shift $(( $# < 4 ? $# : 4 ))
    {{py}} -m torch.distributed.run --standalone --nproc-per-node "$n" \
        train.py --preset "$preset" --arm "$arm" --seed "$seed" "$@"

# plots, table and verdicts of finished runs: just report outputs/tiny --out outputs/tiny/report
report +RUNS: setup
    {{py}} plot_pareto.py "$@"

# the four gates, then the plot: SVD + extraction -> held-out check -> vanilla -> projected (flags as in train.py)
full-probe PRESET="full" *ARGS: setup
    #!/usr/bin/env bash
    set -euo pipefail
    preset=${1:-full}; shift $(( $# < 1 ? $# : 1 ))
    model=(--preset "$preset") run=()   # what extraction must know of, and what only the runs do
    while (( $# )); do
        case "$1" in
            --model|--revision|--dtype|--device|--pairs|--svd-cache|--v-hack|--n-directions|--threads)
                model+=("$1" "$2"); shift 2 ;;
            --model=*|--revision=*|--dtype=*|--device=*|--pairs=*|--svd-cache=*|--v-hack=*|--n-directions=*|--threads=*)
                model+=("$1"); shift ;;
            --arm|--arm=*|--seed|--seed=*|--out|--out=*|--label|--label=*)
                echo "full-probe runs vanilla and projected, seed 0, in outputs/$preset: $1 is for just train" >&2; exit 2 ;;
            *) run+=("$1"); shift ;;
        esac
    done
    stop() { echo "full-probe stopped at gate $1: $2" >&2; exit 1; }
    {{py}} rewards.py || stop 0 "the grader's own matrix failed, so no rate could be trusted"
    echo "== gate 1: SVD cache and extraction"
    {{py}} extract_vhack_grad.py "${model[@]}" || stop 1 "v_hack could not be extracted (the line above says why)"
    echo "== gate 2: held-out verification"
    {{py}} verify_vhack_heldout.py "${model[@]}" || stop 2 "v_hack does not generalise to held-out pairs"
    echo "== gate 3: vanilla"
    {{py}} train.py "${model[@]}" "${run[@]}" --arm vanilla || stop 3 "vanilla did not finish; run again to resume"
    echo "== gate 4: projected"
    {{py}} train.py "${model[@]}" "${run[@]}" --arm projected || stop 4 "projected did not finish; run again to resume"
    {{py}} plot_pareto.py "outputs/$preset/vanilla_s0" "outputs/$preset/projected_s0" --out "outputs/$preset/report"

# the whole experiment on the shipped organism: extraction, check, vanilla + projected + random-v, report
probe: setup
    #!/usr/bin/env bash
    set -euo pipefail
    out=outputs/tiny; mkdir -p "$out"
    {{py}} extract_vhack_grad.py --preset tiny
    {{py}} verify_vhack_heldout.py --preset tiny
    echo "== random-v runs beside the other two, its rows go to $out/random-v_s0.log"
    {{py}} train.py --preset tiny --arm random-v >"$out/random-v_s0.log" 2>&1 & background=$!
    trap 'kill $background 2>/dev/null || true' EXIT
    echo "== vanilla"; {{py}} train.py --preset tiny --arm vanilla --workers 1
    echo "== projected"; {{py}} train.py --preset tiny --arm projected --workers 1
    wait $background || { tail -3 "$out/random-v_s0.log" >&2; exit 1; }
    {{py}} plot_pareto.py "$out"/{vanilla,projected,random-v}_s0 --out "$out/probe"
    echo "probe: report in $out/probe/report.md, runs in $out/, one seed; \`just organism-study\` runs five"

# every arm and variant on the organism, five seeds, resumable (an hour or two on two cores): just organism-study 2
organism-study JOBS="2": setup
    {{py}} -m tools.sweep --preset tiny --study organism --submit local --jobs {{JOBS}}
    {{py}} plot_pareto.py outputs/tiny --out outputs/tiny/report

# print the commands of a sweep; with --submit local run them: just sweep --preset dev --study preregistered
sweep *ARGS: setup
    {{py}} -m tools.sweep "$@"

# what a sweep has reached: rates so far, ETA, failures
sweep-status *ARGS: setup
    {{py}} -m tools.sweep --status "$@"

# queue the preregistered arms at full scale in pueue
queue-full *ARGS: setup
    {{py}} -m tools.sweep --preset full --study preregistered --submit pueue "$@"

# a finished run as a PEFT LoRA or a merged checkpoint: just export outputs/tiny/projected_s0 --to lora --out DIR
export *ARGS: setup
    {{py}} -m tools.export "$@"

# predicted seconds a step, hours, memory and price of a preset: just estimate full --rate 2
estimate PRESET="full" *ARGS: setup
    {{py}} -m tools.estimate --preset "$@"

# rebuild the organism from its seed (about 15 minutes on one core)
organism *ARGS: setup
    {{py}} -m tools.make_organism "$@"

# the scripts of full-probe on a random 2-layer Qwen3 and eight bundled problems, in minutes on a CPU
smoke: setup
    #!/usr/bin/env bash
    set -euo pipefail
    out=outputs/smoke; rm -rf "$out"
    model=(--model "$out/model" --pairs default --v-hack "$out/v_hack.safetensors" --svd-cache "$out/svd_cache")
    run=(--problems tests/data/smoke_problems.jsonl --n-eval 2 --eval-samples 4 --eval-every 2 --steps 4 --prompts 4
         --group 8 --max-new 24 --warmup 1 --checkpoint-every 2 --tripwires warn)   # 8 completions show no collapse
    {{py}} tests/helpers/random_model.py "$out/model"
    {{py}} rewards.py
    {{py}} extract_vhack_grad.py "${model[@]}"
    {{py}} verify_vhack_heldout.py "${model[@]}"
    {{py}} train.py "${model[@]}" "${run[@]}" --arm vanilla --out "$out/vanilla_s0"
    {{py}} train.py "${model[@]}" "${run[@]}" --arm projected --out "$out/projected_s0"
    {{py}} plot_pareto.py "$out/vanilla_s0" "$out/projected_s0" --out "$out/report"
    echo "smoke: ok, everything is in $out"

# the test suite
test *ARGS: setup
    {{py}} -m pytest "$@"

# ruff, without changing anything
lint: setup
    .venv/bin/ruff check .
    .venv/bin/ruff format --check .

# format the code
fmt: setup
    .venv/bin/ruff check --fix .
    .venv/bin/ruff format .
