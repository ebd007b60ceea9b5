#!/usr/bin/env bash
# What a GPU says of Qwen3.5's shapes, part by part, each with a time limit and a log of its own in $OUT:
#
#     bash bench/gpu_hybrid.sh [PART ...]
#
# Parts: decode (ms a step and its parts, transformers generate), step (preset mid's rollout and training), probe (a model
# folder with random weights, then full-probe from gate 0 to the report, three steps a run).
set -uo pipefail
out=${OUT:-outputs/gpu_hybrid} work=$(mktemp -d)
mkdir -p "$out"
export PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false FLA_CACHE_MODE=full FLA_CONFIG_DIR=$work/fla
wanted=${*:-configs decode step probe}

part() { # NAME SECONDS COMMAND...
    local name=$1 limit=$2 start=$SECONDS
    shift 2
    case " configs $wanted " in *" $name "*) ;; *) return ;; esac
    timeout -k 5 "$limit" "$@" >"$out/$name.log" 2>&1
    echo "== $name: status $?, $((SECONDS - start)) s of $limit"
    tail -n 30 "$out/$name.log" | cut -c1-400
}

part configs 60 python3 -m bench.fla_configs "$work/fla"
part decode 150 python3 -m bench.decode --models qwen3.5-2b --rows graph,hf_dynamic,graph_adapted,parts \
    --out "$out/decode.tsv"
part step 200 python3 -m bench.step --model qwen3.5-2b --G 8 --micro-tokens 16384 --out "$out/step.tsv" \
    --rows rollout,train_padded,train_shared,grade,step,agree
probe() {
    python3 -m bench.model_dir qwen3.5-2b "$work/model" &&
        python3 -m tools.full_probe --preset mid --model "$work/model" --label random --svd-cache "$work/svd" \
            --problems organism --eval-file "" --steps 3 --max-new 256 --n-eval 8 --eval-samples 1 --final-samples 1 \
            --warmup 1 --tripwires warn --go-on --share-prefix
}
export -f probe
export work
part probe 400 bash -c probe
cp outputs/mid-random/vanilla_s0/steps.tsv "$out/probe_steps.tsv" 2>/dev/null
cp outputs/mid-random/report/report.md "$out/probe_report.md" 2>/dev/null
rm -rf "$work"
