"""Everything that `make bench` measures, one benchmark after the other.

    make bench
    python benchmarks/run_all.py --only pipeline loop_overhead

Each prints its table and has a part of its own in distilclip/book/results/bench.json, which is
written when it is done; parts that are not measured this time stay as they are. Those that train
for long (`SLOW`) are measured only where `--only` names them.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from distilclip.book.stored import RESULTS
from distilclip.storage.files import write_text

HERE = Path(__file__).parent
BENCHMARKS = (
    "training_step",
    "vit_forward",
    "where_time_goes",
    "pipeline",
    "loop_overhead",
    "host_work",
    "precision",
    "freed_memory",
    "growth",
)
SLOW = ("time_to_recall",)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=BENCHMARKS + SLOW, default=BENCHMARKS)
    parser.add_argument("--out", type=Path, default=RESULTS / "bench.json")
    options, passed_on = parser.parse_known_args()
    parts = json.loads(options.out.read_text()) if options.out.is_file() else {}
    with tempfile.TemporaryDirectory() as place:
        for name in options.only:
            print(f"==> {name}", flush=True)
            part = Path(place) / f"{name}.json"
            command = [sys.executable, str(HERE / f"{name}.py"), *passed_on]
            subprocess.run([*command, "--out", str(part)], check=True)
            parts[name] = json.loads(part.read_text())
            parts[name]["command"] = parts[name]["command"].split(" --out")[0]
            write_text(options.out, json.dumps(parts, indent=1) + "\n")
    print(f"==> Written to {options.out}")


if __name__ == "__main__":
    main()
