#!/usr/bin/env bash
# What a GPU must show about speed, one part after the other, each with a time limit and a log of its own.
#
#     bench/gpu_speed.sh OUT [PART ...]
#
# PROBLEMS=FILE for dev and run, MODEL=DIR of the dev preset's model for run, PYTHON for another interpreter than python3.
#
# Parts: tests (Triton kernels, decoder, shared prefixes against float64), full (a step of the full preset's shapes,
# padded and shared), profile (kernels of a training pass), decode (4B and 0.5B, base and adapted), tune (block sizes of
# the decode attention), dev (a step of the dev preset's shapes, 16 grading workers), run (train.py itself on them), trl
# (needs trl and datasets), largest (largest G).
# Everything has random weights made from shapes. OUT gets NAME.log, the TSVs, and after each part all of it
# as speed.tgz.
set -u
out=$1; shift
parts=${*:-tests full decode dev trl}
python=${PYTHON:-python3}
problems=${PROBLEMS:-data/leetcode_medhard_80.jsonl}
mkdir -p "$out"
export PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false

part() { # NAME SECONDS COMMAND...
    local name=$1 limit=$2 start=$SECONDS
    shift 2
    timeout -k 5 "$limit" "$@" >"$out/$name.log" 2>&1
    echo "== $name: exit $?, $((SECONDS - start)) s of $limit"
    tar -C "$out" -czf "$out.tgz" --exclude=speed.tgz . && mv "$out.tgz" "$out/speed.tgz"
    grep -avE '^ *(aten::|void |---)' "$out/$name.log" | tail -n "${TAIL:-25}" | cut -c1-400
}

for name in $parts; do
    case $name in
    tests) part tests 100 "$python" -m pytest -q --maxfail=8 -p no:cacheprovider \
        tests/lib/test_training_kernels.py tests/lib/test_shared_prefix_gpu.py tests/sampling/test_kernels_gpu.py ;;
    full) part full 240 "$python" -m bench.step --out "$out/step.tsv" --micro-tokens 16384 \
        --rows rollout,train_padded,train_shared,agree,grade,step ;;
    profile) part profile 90 "$python" -m bench.step --rows profile ;;
    decode) part decode 200 "$python" -m bench.decode --out "$out/decode.tsv" \
        --rows graph,graph_adapted,full_adapted,parts ;;
    tune)
        for rows in 64 96; do
            part "tune$rows" 60 "$python" -m bench.decode --models qwen3-4b --rows tune --rows-n $rows \
                --out "$out/tune$rows.tsv"
        done ;;
    dev) part dev 120 "$python" -m bench.step --model qwen2.5-0.5b --G 8 --max-new 384 --out "$out/step_dev.tsv" \
        --no-checkpoint --micro-tokens 16384 --rows rollout,train_padded,train_shared,behind,step \
        --workers 16 --problems "$problems" ;;
    run) if [ -n "${MODEL:-}" ]; then
        part run 110 "$python" -m bench.run --steps 12 --skip 3 --out "$out/run.tsv" --model "$MODEL" \
            --problems "$problems" --eval-file= --workers 16
    fi ;;
    trl) part trl 230 "$python" -m bench.trl --out "$out/trl.tsv" --steps 3 --rows trl,ours,ours_padded,trl_fast ;;
    largest) part largest 200 "$python" -m bench.step --rows largest_G --out "$out/largest.tsv" ;;
    *) echo "no part $name" ;;
    esac
done
