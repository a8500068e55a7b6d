#!/usr/bin/env bash
# What a GPU does: tests, extraction, training, and a corpus of MELD's size, as JSON in OUT.
#
#     bash benchmarks/gpu.sh [OUT] [tests|extraction|training|corpus ...]
#
# Needs Python 3.11 or later with torch for CUDA, and a package index. Made for one H100 and about eight minutes; a part
# whose file is in OUT is left out, so that the script can be called again. Without a CUDA device it says so and ends
# with 1; MER_TEST_DEVICE=cpu and DEVICE=cpu with SIZE=tiny run it on a CPU, to check the script itself.
set -euo pipefail
cd "$(dirname "$0")/.."
OUT=$(mkdir -p "${1:-gpu-results}" && cd "${1:-gpu-results}" && pwd)
shift || true
PARTS=${*:-tests extraction training corpus}
DEVICE=${DEVICE:-cuda} SIZE=${SIZE:-base} PYTHON=${PYTHON:-python3}
export MER_CACHE="$OUT/models" OMP_NUM_THREADS=${OMP_NUM_THREADS:-8}

if [ "$DEVICE" != cpu ]; then
  "$PYTHON" -c 'import torch, sys; sys.exit(not torch.cuda.is_available())' || { echo "no CUDA device on this machine"; exit 1; }
fi
if [ -z "${NO_VENV:-}" ]; then   # an environment of its own that sees the torch that is there
  [ -x "$OUT/venv/bin/python" ] || "$PYTHON" -m venv --system-site-packages "$OUT/venv"
  "$PYTHON" -c 'import torch; print(f"torch=={torch.__version__}")' > "$OUT/torch.txt"
  "$OUT/venv/bin/python" -c 'import mer.pipeline.cli, pytest, hypothesis, soundfile' 2>/dev/null \
    || "$OUT/venv/bin/pip" install -q -e ".[test]" -c "$OUT/torch.txt"
  PYTHON="$OUT/venv/bin/python"
fi

wanted() { case " $PARTS " in *" $1 "*) [ ! -s "$OUT/$1.json" ] ;; *) false ;; esac; }
finish() { mv "$OUT/$1.part" "$OUT/$1.json"; echo "$1: done after $SECONDS s"; }

"$PYTHON" - > "$OUT/machine.json" <<'PY'
import json, os, platform, torch
there = torch.cuda.is_available()
print(json.dumps({
    "device": torch.cuda.get_device_name() if there else platform.processor() or platform.machine(),
    "memory_gb": torch.cuda.get_device_properties(0).total_memory / 1e9 if there else None,
    "torch": torch.__version__, "cuda": torch.version.cuda, "python": platform.python_version(), "cores": os.cpu_count(),
}))
PY

if wanted tests; then
  "$PYTHON" -m pytest -m cuda -n 4 -q --junitxml="$OUT/tests.xml" || true
  "$PYTHON" - "$OUT/tests.xml" > "$OUT/tests.part" <<'PY'
import json, sys
from xml.etree import ElementTree
suite = ElementTree.parse(sys.argv[1]).getroot().find("testsuite")
failed = [f"{case.get('classname')}::{case.get('name')}" for case in suite if case.find("failure") is not None or case.find("error") is not None]
print(json.dumps({name: float(suite.get(name)) for name in ("tests", "failures", "errors", "skipped", "time")} | {"failed": failed}))
PY
  finish tests
fi

if wanted extraction; then   # beside the bare forward pass (c) and the usual loop (b); from 16 kHz sound and with decoding
  "$PYTHON" benchmarks/gpu_corpora.py speech "$OUT/speech" --clips "${CLIPS:-192}"
  for precision in float32 bfloat16; do
    for modality in text audio face; do
      "$PYTHON" -m mer.pipeline.cli bench --json --part extraction --modality "$modality" --size "$SIZE" --device "$DEVICE" \
        --precision "$precision" --repeat 2 --limit "${CLIPS:-192}" > "$OUT/extraction-demo-$modality-$precision.json"
    done
    "$PYTHON" -m mer.pipeline.cli bench --json --part extraction --modality audio --size "$SIZE" --device "$DEVICE" \
      --precision "$precision" --repeat 2 --limit "${CLIPS:-192}" --corpus folder --root "$OUT/speech" \
      > "$OUT/extraction-16khz-audio-$precision.json"
  done
  "$PYTHON" benchmarks/gpu_corpora.py join "$OUT" extraction- > "$OUT/extraction.part"
  finish extraction
fi

if wanted training; then   # one run, 25 side by side, the usual loop; the tests compare scores with a CPU's
  "$PYTHON" benchmarks/bench_training.py --out "$OUT/iemocap" --scale "${SCALE:-0.5}" --device "$DEVICE" \
    --json "$OUT/training.part"
  finish training
fi

if wanted corpus; then   # one in twenty of MELD's 13,708 clips, decoded and encoded by large models, and the rest reckoned
  "$PYTHON" benchmarks/gpu_corpora.py meld "$OUT/meld" --clips "${MELD:-685}"
  "$PYTHON" benchmarks/gpu_corpora.py extract "$OUT/meld" --size "${CORPUS_SIZE:-large}" --device "$DEVICE" > "$OUT/corpus.part"
  finish corpus
fi
