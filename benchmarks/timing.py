"""What the benchmarks share: turns that alternate, their medians, and words for the machine."""

import argparse
import importlib.metadata
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # all weights here are random: nothing to fetch

import torch
from peers import FOLDER as PEERS

from distilclip.storage.files import write_text

PACKAGES = ("distilclip", "torch", "transformers", "open-clip-torch", "timm", "datasets")


def in_turn(
    actions: dict[str, Callable[[], object]], rounds: int, warm_up: int = 1
) -> dict[str, list[float]]:
    """Seconds of each action in each of `rounds`, after `warm_up` rounds that do not count.

    A round runs every action once, and every other round in reverse: what drifts in the machine
    meets all of them alike.
    """
    seconds = {name: [] for name in actions}
    for number in range(-warm_up, rounds):
        for name in list(actions)[:: -1 if number % 2 else 1]:
            start = time.perf_counter()
            actions[name]()
            if number >= 0:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def rates(seconds: dict[str, list[float]], items: int) -> dict[str, dict[str, float]]:
    """Median, slowest and fastest items a second, for actions that handle `items` each time."""
    return {
        name: {
            "per_second": round(items / statistics.median(times), 2),
            "slowest": round(items / max(times), 2),
            "fastest": round(items / min(times), 2),
        }
        for name, times in seconds.items()
    }


def print_table(head: list[str], rows: list[list]) -> None:
    """Columns as wide as they need to be; all but the first to the right."""
    cells = [
        [f"{cell:,.2f}" if isinstance(cell, float) else str(cell) for cell in row]
        for row in [head, *rows]
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        first, *others = zip(row, widths, strict=True)
        print(first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others), sep="  ")
    print(flush=True)


def print_bars(bars: dict[str, tuple[float, float]]) -> dict[str, dict]:
    """Print what was reached beside what is asked for; the same for the results' file."""
    rows = [
        [name, value, bar, "yes" if value >= bar else "NO"] for name, (value, bar) in bars.items()
    ]
    print_table(["bar", "measured", "asked", "met"], rows)
    return {
        name: {"measured": round(value, 3), "asked": bar} for name, (value, bar) in bars.items()
    }


def processor() -> str:
    """The processor's name and how many cores this process sees."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores"


def version(package: str) -> str | None:
    """The version of a package, here or among the peers; None where it is not installed."""
    places = [*sys.path, str(PEERS)]
    found = next(iter(importlib.metadata.distributions(name=package, path=places)), None)
    return found and found.version


def commit() -> str | None:
    """The commit that is checked out, with "-dirty" where files differ; None without git."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def arguments(description: str) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--small", action="store_true", help="tiny sizes, to see that it runs")
    parser.add_argument("--device-name", default=processor(), help="the machine, in words")
    parser.add_argument("--out", type=Path, help="where the JSON goes; else it is only printed")
    return parser


def run(
    measure: Callable[[argparse.Namespace], dict],
    description: str,
    parser: argparse.ArgumentParser | None = None,
) -> None:
    """Measure as the command line says, and write the results with their circumstances.

    `parser` has options of its own besides those of `arguments`.
    """
    options = (parser or arguments(description)).parse_args()
    torch.set_num_threads(options.threads)
    results = measure(options)
    if options.out:
        about = {
            "command": shlex.join(
                ["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]
            ),
            "date": date.today().isoformat(),
            "device": options.device_name,
            "threads": options.threads,
            "rounds": options.rounds,
            "commit": commit(),
            "versions": {name: version(name) for name in PACKAGES},
        }
        write_text(options.out, json.dumps(about | {"results": results}, indent=1) + "\n")
