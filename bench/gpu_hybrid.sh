#!/usr/bin/env bash
# What a GPU says of Qwen3.5's shapes, part by part under a time limit; figures in $OUT: bash bench/gpu_hybrid.sh [part...]
# Parts: check (small shapes: kernels against torch), decode, hf (transformers generate), step.
set -uo pipefail
out=${OUT:-outputs/gpu_hybrid}
mkdir -p "$out"
part() { # name, seconds, command
    local name=$1 limit=$2
    shift 2
    case " ${wanted:-check decode hf step} " in *" $name "*) ;; *) return ;; esac
    echo "== $name: $*"
    SECONDS=0
    timeout "$limit" "$@" >"$out/$name.log" 2>&1
    echo "== $name: status $?, $SECONDS s"
    tail -n 40 "$out/$name.log" | cut -c1-400
}
wanted="$*"
python3 -c 'import importlib.metadata as m, torch
for p in ("torch", "transformers", "triton", "flash-linear-attention", "fla-core", "causal-conv1d"):
    try: print(p, m.version(p))
    except m.PackageNotFoundError: print(p, None)
print(torch.cuda.get_device_name())'
part check 45 python3 -m bench.decode --models tiny-hybrid --prompt 60 --new 60 --rows graph,graph_D8 --out "$out/check.tsv"
part decode 90 python3 -m bench.decode --models qwen3.5-2b --rows graph,parts,graph_D8,parts_D --out "$out/decode.tsv"
part hf 45 python3 -m bench.decode --models qwen3.5-2b --rows hf_dynamic --out "$out/hf.tsv"
part step 100 python3 -m bench.step --model qwen3.5-2b --G 8 --rows rollout,train_padded,train_shared,agree,step --out "$out/step.tsv"
