#!/usr/bin/env bash
# The tests that need a GPU, and most of `bench.gpu --quick`, without network and in under five minutes:
#
#     bash bench/gpu/run.sh WHEELS [RESULTS]
#
# from the root of the repository. README.md beside this file says what lies in WHEELS. The machine
# needs a Python with pip and torch >= 2.6, PYTHON if it is not `python3`; nothing is installed there.
set -euo pipefail

wheels=$1
results=$(realpath -m "${2:-gpu-results}")
python=${PYTHON:-python3}
tests_s=90 # at most, and so the whole stays below five minutes
bench_s=180
ways=default,recorded,wandb # all of them take more than three minutes

site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT
mkdir -p "$results"
"$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target "$site" "$wheels"/*.whl

export PYTHONPATH="$site:$PWD" PYTHONUNBUFFERED=1 WANDB_ERROR_REPORTING=false
export PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 # the machine's own plugins may not go with this pytest
plugins=(-p pytest_timeout -p pytest_benchmark.plugin -p xdist.plugin -p pytest_rerunfailures)

{
  nvidia-smi -L || true
  nproc
  "$python" -c 'import sys, torch, wandb; print(sys.version, torch.__version__, wandb.__version__)'
} 2>&1 | tee "$results/machine.txt"

# The exit code is that of the last part that failed; both run.
code=0
mapfile -t files < <(grep -rl --include='*.py' 'pytest.mark.gpu' tests)
timeout -k 5 "$tests_s" "$python" -m pytest -m gpu -q -rA --timeout 60 -p no:cacheprovider \
  "${plugins[@]}" "${files[@]}" 2>&1 | tee "$results/gpu_tests.txt" | tail -60 || code=$?
timeout -k 5 "$bench_s" "$python" -m bench.gpu --quick --only "$ways" --json "$results/gpu.json" 2>&1 |
  tee "$results/gpu.md" || code=$?
exit "$code"
