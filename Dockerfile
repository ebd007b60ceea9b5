# For rented GPUs. Build it once, then one line starts the probe:
#
#   docker build -t projected-grpo .
#   docker run --rm --gpus all --security-opt seccomp=unconfined --security-opt apparmor=unconfined \
#       -v "$PWD/outputs:/projected-grpo/outputs" -v "$PWD/svd_cache:/projected-grpo/svd_cache" -v "$HOME/.cache/huggingface:/huggingface" \
#       projected-grpo full-probe full --seed 41
#
# The two security options let bubblewrap make namespaces for graded programs. Where a host refuses them, leave them out
# and end the line with --isolation rlimits. Without arguments it says what the machine lacks.
FROM nvidia/cuda:13.0.0-base-ubuntu24.04

# A compiler for the Triton kernels, git for the provenance of runs.
RUN apt-get update && apt-get install --yes --no-install-recommends build-essential ca-certificates git python3 \
        python3-dev python3-pip python3-venv \
    && rm -rf /var/lib/apt/lists/*
RUN pip install --break-system-packages --no-cache-dir uv rust-just

ENV HF_HOME=/huggingface
WORKDIR /projected-grpo
# The packages of the lock come before the code, so that a change of the code does not install them again. The stamp is
# the one that `just setup` looks for.
COPY requirements-gpu.lock requirements.lock ./
RUN uv venv .venv && uv pip sync --compile-bytecode --python .venv/bin/python requirements-gpu.lock \
    && ls -d .venv/bin/python .venv/lib/python*/site-packages/*.dist-info \
        > ".venv/.lock-$(cat requirements.lock requirements-gpu.lock | sha256sum | cut -c1-16)"
COPY . .

ENTRYPOINT ["just"]
CMD ["doctor"]
