"""A soak: train, evaluate and search again and again, and kill each at random moments.

    python tools/soak.py                                  two hours
    python tools/soak.py --minutes 30 --seed 1 --json soak.json

Every cycle runs the three commands of the package on a few hundred drawings. At moments drawn at
random a command gets SIGKILL, as in a power cut, or SIGINT, which is what Ctrl-C sends; then it is
started again, training with --resume. In the end everything must be as if nothing had happened:
bitwise the same weights and training state, the same metrics with no step missing, the same
figures and search results, and no file in the run's folder that does not belong there. Beside that,
one process that is never killed does the same work once a cycle, and a line is fitted to the
memory it holds. Prints a summary in JSON; the status is 1 if anything was not as it should be.

Works where there are such signals: Linux and macOS.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the same weights need the same number of threads
os.environ.setdefault("HF_HUB_OFFLINE", "1")

PICTURES = 240  # of them 192 to train on: 12 steps an epoch
SETTINGS = {
    "image_size": 32,
    "patch_size": 8,
    "dim": 64,
    "depth": 2,
    "num_heads": 2,
    "embed_dim": 32,
    "dropout": 0.1,
    "patch_dropout": 0.25,
    "epochs": 24,
    "batch_size": 16,
    "lr": 1e-3,
    "text_lr": 1e-4,
    "text_start": 0.5,
    "full_size_start": 0.4,
    "ema": 0.9,
    "augmentation": 0.5,
    "precision": "float32",  # "auto" measures which is faster, and may decide otherwise next time
    "evaluations": 8,  # each is followed by a save
}
QUERY = "a smiling face"
MEASURED = ("seconds", "images_per_second", "waiting", "peak_memory_mib")  # what a clock decides
KILLS = {"train": (2, 4), "evaluate": (0, 1), "search": (0, 1)}  # at least and at most, a cycle
EARLY = 0.2  # the share of kills that may come while libraries are still being imported
IMPORTED = 0.4  # the share of a command's time after which they have been
PATIENCE = 600  # seconds in which a command must have stopped after SIGINT


# What is trained on, and with


def write_pictures(folder: Path) -> None:
    """Drawings of the embedded data set at equal distances, each with its captions beside it."""
    from distilclip import load_pairs

    folder.mkdir()
    rows = load_pairs("emoji")["train"]
    chosen = rows.select(range(0, len(rows), len(rows) // PICTURES)).select(range(PICTURES))
    for number, row in enumerate(chosen):
        row["image"].save(folder / f"{number:03}.png")
        (folder / f"{number:03}.txt").write_text("\n".join(row["captions"]), encoding="utf-8")


def write_text_encoder(folder: Path) -> None:
    """A DistilBERT of one narrow layer with random weights: quick to load, and it is trained."""
    import torch
    from transformers import DistilBertConfig, DistilBertModel

    from distilclip import TextEncoder

    torch.manual_seed(0)
    tokenizer = TextEncoder.from_pretrained("minilm").tokenizer
    sizes = {"dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 32}
    DistilBertModel(DistilBertConfig(vocab_size=len(tokenizer), **sizes)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


# Commands, and what happens to them


@dataclass
class Ending:
    """How a command ended: its status, its seconds, the most memory it held, what it said."""

    status: int
    seconds: float
    peak_mib: float
    output: str
    errors: str


def run(
    command: list[str], place: Path, moment: float | None = None, sent: signal.Signals | None = None
) -> Ending:
    """Run a command of the package; at `moment` seconds send it a signal, if it still runs.

    A status of -9 is SIGKILL's, 130 is how the command ends after SIGINT.
    """
    environment = os.environ | {"XDG_CACHE_HOME": str(place / "cache")}
    start, killed_at, peak = time.monotonic(), None, 0.0
    with open(place / "out.txt", "w+b") as out, open(place / "err.txt", "w+b") as err:
        process = subprocess.Popen(
            [sys.executable, "-m", "distilclip.command.cli", *command],
            stdout=out,
            stderr=err,
            env=environment,
        )
        while True:
            peak = max(peak, peak_mib(process.pid))
            ended, status = os.waitpid(process.pid, os.WNOHANG)
            if ended:
                break
            now = time.monotonic()
            if killed_at is None and moment is not None and now - start >= moment:
                process.send_signal(sent)
                killed_at = now
            if killed_at is not None and now - killed_at > PATIENCE:
                process.kill()
                moment, killed_at = None, None
            time.sleep(0.01)
        process.returncode = os.waitstatus_to_exitcode(status)
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode(errors="replace"))
    return Ending(process.returncode, time.monotonic() - start, peak, *texts)


@dataclass
class Soak:
    """What has happened so far, and how everything is when nothing happens."""

    place: Path
    draw: random.Random
    seconds: dict[str, float] = field(default_factory=dict)  # of each command, uninterrupted
    slowness: float = 1.0  # how much longer a command takes now than it took then
    reference: dict[str, object] = field(default_factory=dict)
    kills: Counter = field(default_factory=Counter)
    survived: Counter = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    peaks: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    tracebacks: int = 0
    leftovers: int = 0

    def command(self, stage: str, folder: Path) -> list[str]:
        """The command of a stage of a cycle whose files are in `folder`."""
        run_folder, pictures = str(folder / "run"), str(self.place / "pictures")
        if stage == "evaluate":
            return ["evaluate", run_folder, "--data", pictures, "--json", str(folder / "eval.json")]
        if stage == "search":
            return ["search", run_folder, QUERY, pictures, "--html", str(folder / "page.html")]
        settings = SETTINGS | {"text_model": self.place / "text"}
        options = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
        resume = ["--resume"] if (folder / "run" / "training_state.safetensors").is_file() else []
        return ["train", "--data", pictures, "--out", run_folder, *options, *resume]

    def stage(self, stage: str, folder: Path, kills: int) -> Ending:
        """One command, killed up to `kills` times and then left to end."""
        made = Counter()
        for _ in range(kills):
            sent = self.draw.choice([signal.SIGKILL, signal.SIGINT])
            earliest = 0 if self.draw.random() < EARLY else IMPORTED
            moment = self.seconds[stage] * self.slowness * self.draw.uniform(earliest, 1)
            ending = run(self.command(stage, folder), self.place, moment, sent)
            if ending.status == 0:
                break  # it was quicker than the signal
            made[f"{stage} {sent.name}"] += 1
            self.after_kill(stage, folder, ending, sent, moment)
        ending = run(self.command(stage, folder), self.place)
        expected = self.reference.get(stage)
        found = result(stage, folder, ending) if ending.status == 0 else None
        self.kills += made
        if ending.status != 0:
            self.fail(stage, folder, f"status {ending.status}: {ending.errors[-500:]}")
        elif expected is not None and found != expected:
            self.fail(stage, folder, "; ".join(differences(expected, found)))
        else:
            self.survived += made
        return ending

    def after_kill(
        self, stage: str, folder: Path, ending: Ending, sent: signal.Signals, moment: float
    ) -> None:
        """What must be true right after a kill: an honest status, and a state that can be read."""
        about = f"{sent.name} after {moment:.2f} s: "
        if sent == signal.SIGINT and ending.status not in (130, -signal.SIGINT, 1):
            self.fail(stage, folder, f"{about}status {ending.status}: {ending.errors[-500:]}")
        self.tracebacks += "Traceback" in ending.errors
        if ending.status == 130 and stage == "train" and "Stopped" not in ending.errors:
            self.fail(stage, folder, f"{about}nothing said: {ending.errors[-500:]}")
        if (folder / "run" / "training_state.safetensors").is_file():
            try:
                read_step(folder / "run")
            except Exception as error:
                self.fail(stage, folder, f"{about}{error}")
        self.leftovers += len(list(self.place.rglob("*.part")))

    def fail(self, stage: str, folder: Path, what: str) -> None:
        """Note a problem, and keep the folder in which it can be looked at."""
        self.problems.append(f"{folder.name}: {stage}: {what}")
        (folder / "keep").touch()

    def cycle(self, number: int, started: float) -> None:
        """Train, evaluate and search once, with kills."""
        folder = self.place / f"cycle_{number:04}"
        folder.mkdir()
        if self.draw.random() < 0.5:  # every other search finds its index in the cache
            shutil.rmtree(self.place / "cache", ignore_errors=True)
        for stage, (least, most) in KILLS.items():
            ending = self.stage(stage, folder, self.draw.randint(least, most))
            hours = (time.monotonic() - started) / 3600
            self.peaks.setdefault(stage, []).append((hours, ending.peak_mib))
            if stage != "train":  # that went on from somewhere
                self.slowness = ending.seconds / self.seconds[stage]
        if not (folder / "keep").exists():
            shutil.rmtree(folder)

    def measure_reference(self) -> None:
        """Run everything once without a kill: what all later runs must end with, and how long."""
        folder = self.place / "reference"
        folder.mkdir()
        for stage in KILLS:
            ending = run(self.command(stage, folder), self.place)
            if ending.status != 0:
                raise SystemExit(f"{stage} does not work even undisturbed: {ending.errors[-2000:]}")
            self.seconds[stage] = ending.seconds
            self.reference[stage] = result(stage, folder, ending)
        missing = gaps(self.reference["train"]["metrics"])
        if missing:
            raise SystemExit(f"The metrics of the undisturbed run lack {', '.join(missing)}.")


# What a command leaves


def read_step(run_folder: Path) -> int:
    """The step of a run's saved state, every tensor of which is read; an error if it is damaged."""
    from safetensors import safe_open

    with safe_open(run_folder / "training_state.safetensors", "pt") as opened:
        for name in opened.keys():  # noqa: SIM118
            opened.get_tensor(name)
        return json.loads(opened.metadata()["state"])["step"]


def result(stage: str, folder: Path, ending: Ending) -> dict[str, object]:
    """Everything about a finished command that must not depend on what happened on the way."""
    if stage == "evaluate":
        return {"figures": (folder / "eval.json").read_text()}
    if stage == "search":
        return {
            "found": ending.output.replace(folder.name, ""),
            "page": (folder / "page.html").read_text(),
        }
    from safetensors.torch import load_file

    run_folder = folder / "run"
    lines = [json.loads(line) for line in (run_folder / "metrics.jsonl").read_text().splitlines()]
    tensors = load_file(run_folder / "training_state.safetensors")
    return {
        "files": sorted(str(path.relative_to(run_folder)) for path in run_folder.rglob("*")),
        "metrics": [{k: v for k, v in line.items() if k not in MEASURED} for line in lines],
        "model": (run_folder / "model.safetensors").read_bytes(),
        "state": {name: tensor.numpy().tobytes() for name, tensor in sorted(tensors.items())},
        "step": read_step(run_folder),
    }


def differences(expected: dict[str, object], found: dict[str, object]) -> list[str]:
    """Which parts of a result differ, with both where that can be read."""
    return [
        f"{name} differ" + (f": {found[name]}, not {expected[name]}" if name == "files" else "")
        for name in expected
        if found[name] != expected[name]
    ]


def gaps(lines: list[dict]) -> list[str]:
    """The epochs, steps and evaluations that the lines of metrics.jsonl should have and lack."""
    epochs = [line for line in lines if line["kind"] == "epoch"]
    steps = epochs[0]["step"] // epochs[0]["epoch"] if epochs else 0
    wanted = [(n, n * steps) for n in range(1, SETTINGS["epochs"] + 1)]
    found = [(line["epoch"], line["step"]) for line in epochs]
    missing = [f"epoch {n} at step {step}" for n, step in wanted if (n, step) not in found]
    missing += ["an order"] if found != sorted(found) else []
    every = SETTINGS["epochs"] // SETTINGS["evaluations"]
    evaluated = {line["step"] for line in lines if line["kind"] == "evaluation"}
    due = range(every * steps, SETTINGS["epochs"] * steps, every * steps) if steps else ()
    missing += [f"the evaluation at step {step}" for step in due if step not in evaluated]
    final = {line["split"] for line in lines if line["kind"] == "final"}
    return missing + [
        f"the final {split}" for split in ("validation", "test") if split not in final
    ]


# Memory


def resident_mib() -> float:
    """The memory that this process holds now."""
    if Path("/proc/self/statm").is_file():
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
    said = subprocess.run(["ps", "-o", "rss=", "-p", str(os.getpid())], capture_output=True)
    return int(said.stdout) / 2**10


def peak_mib(process: int) -> float:
    """The most memory that another process has held so far; 0 where the system does not say.

    Not what it is told at its end (getrusage): a child's begins with its parent's memory.
    """
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) / 2**10 for line in lines if line.startswith("VmHWM:"))


def work_steadily(place: Path) -> None:
    """Train, evaluate and search in this process, once for every line that comes in."""
    import gc

    from distilclip import ImageIndex, TrainConfig, load_pairs, train
    from distilclip.search import evaluate_retrieval

    settings = SETTINGS | {"text_model": str(place / "text"), "epochs": 4, "evaluations": 2}
    for _ in sys.stdin:
        out = place / "steady"
        model = train(
            TrainConfig(data=str(place / "pictures"), out=str(out), **settings), progress=False
        ).model
        evaluate_retrieval(model, load_pairs(place / "pictures")["test"])
        index = ImageIndex.from_folder(model, place / "pictures", progress=False)
        index.save(place / "steady.safetensors")
        ImageIndex.load(model, place / "steady.safetensors").search(QUERY)
        shutil.rmtree(out)
        del model, index
        gc.collect()
        print(json.dumps(resident_mib()), flush=True)


def fit(points: list[tuple[float, float]]) -> tuple[float, float]:
    """The slope of the line through (x, y), at least three, and its standard error."""
    count = len(points)
    mean_x, mean_y = (sum(values) / count for values in zip(*points, strict=True))
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / spread
    rest = sum((y - mean_y - slope * (x - mean_x)) ** 2 for x, y in points)
    return slope, (rest / (count - 2) / spread) ** 0.5


def describe_memory(points: list[tuple[float, float]]) -> dict[str, float]:
    """First, last and most MiB, and the fitted growth by x, with its standard error.

    The first fifth is left out of the fit: what libraries allocate once is no leak. Fewer than
    five points have no fit.
    """
    values = [mib for _, mib in points]
    kept = {"first_mib": values[0], "last_mib": values[-1], "most_mib": max(values)}
    if len(points) >= 5:
        slope, error = fit(points[len(points) // 5 :])
        kept |= {"slope_mib": slope, "standard_error": error}
    return {"count": len(points)} | {name: round(value, 3) for name, value in kept.items()}


def soak(minutes: float, most: float, seed: int, place: Path, say: Callable[[str], None]) -> dict:
    """Cycles, `most` of them, until the time is over -> the summary."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
    write_pictures(place / "pictures")
    write_text_encoder(place / "text")
    state = Soak(place, random.Random(seed))
    state.measure_reference()
    say(f"undisturbed: {', '.join(f'{k} {v:.1f} s' for k, v in state.seconds.items())}")
    steady = subprocess.Popen(
        [sys.executable, __file__, "--steady", str(place)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    started, cycles, held = time.monotonic(), 0, []
    try:
        while cycles < most and time.monotonic() - started < 60 * minutes:
            state.cycle(cycles, started)
            steady.stdin.write("\n")
            steady.stdin.flush()
            held.append((cycles, json.loads(steady.stdout.readline())))
            cycles += 1
            done = f"{state.survived.total()} of {state.kills.total()} kills survived"
            say(f"cycle {cycles}: {done}, steady {held[-1][1]:.0f} MiB")
            for problem in state.problems:
                say(f"  {problem}")
    finally:
        steady.stdin.close()
        steady.wait()
    return {
        "minutes": round((time.monotonic() - started) / 60, 1),
        "seed": seed,
        "threads": os.environ["OMP_NUM_THREADS"],
        "cycles": cycles,
        "kills": dict(sorted(state.kills.items())),
        "kills_made": state.kills.total(),
        "kills_survived": state.survived.total(),
        "interrupted_with_a_traceback": state.tracebacks,
        "unfinished_files_seen_after_kills": state.leftovers,
        "problems": state.problems,
        "memory_of_one_process_by_cycle": describe_memory(held),
        "peak_memory_by_hour": {n: describe_memory(p) for n, p in state.peaks.items()},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=120, help="how long (default: 120)")
    parser.add_argument("--cycles", type=int, default=sys.maxsize, help="at most (default: any)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and kinds of kills")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the summary here too")
    parser.add_argument("--folder", type=Path, help="work here, in a new folder, and keep it")
    parser.add_argument("--steady", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.steady:
        work_steadily(options.steady)
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        place = options.folder or Path(temporary) / "soak"
        place.mkdir(parents=True)
        limits = options.minutes, options.cycles
        summary = soak(*limits, options.seed, place, lambda line: print(line, file=sys.stderr))
    text = json.dumps(summary, indent=2)
    print(text)
    if options.json:
        options.json.write_text(text + "\n")
    return 1 if summary["problems"] else 0


if __name__ == "__main__":
    sys.exit(main())
