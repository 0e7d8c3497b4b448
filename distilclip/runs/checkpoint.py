"""A run that can stop at any moment: its state on the disk, its folder, Ctrl-C.

What chapter 8b's run needs so that a kill, a full disk or a second run in the same
folder costs at most the time since the last save. Nothing here is a pickle:
safetensors and JSON.
"""

import contextlib
import hashlib
import io
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import BinaryIO
from weakref import WeakKeyDictionary

import datasets
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from distilclip.model import DistilCLIP
from distilclip.runs.settings import DEFAULTS, OFF, PRECISIONS, TrainConfig
from distilclip.storage.files import is_leftover, write_text
from distilclip.storage.weights import bytes_of, checksum, save_tensors

try:
    import fcntl
except ImportError:  # Windows has none
    fcntl = None

SAMPLE = 4096  # bytes of a picture that are read at each of three places
# The hashes of the frozen weights of models that are in training
FROZEN: WeakKeyDictionary[DistilCLIP, str] = WeakKeyDictionary()
STATE_FILE = "training_state.safetensors"
SAVE_SECONDS = 60  # save when the last time is longer ago,
SAVE_SHARE = 0.02  # and when saving takes no more than this share of the time
# The signals by which a terminal, a person or a system asks a process to stop
STOPPING = [
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP")
    if hasattr(signal, name)  # Windows has no SIGHUP
]
# Settings that change no result
ELSEWHERE = ("resume", "out", "tensorboard", "cache", "pixel_memory")
# What a state says of itself, and as what
REQUIRED = {"step", "precision", "scaler", "history", "config"}
KINDS = {"step": int, "precision": str, "config": dict, "scaler": dict}
KINDS |= {"history": list, "data": str, "start": str}
KINDS |= {"frozen": str, "epoch": dict | None, "stream": dict | None}
NAMES = ("preset",)  # of settings, which are compared one by one


def new_sums() -> dict:
    """The sums of an epoch of which no step is done."""
    return {"losses": [], "lr": 0.0, "seconds": 0.0, "waiting": 0.0}


@dataclass
class Run:
    """A run in progress: what was asked for, and all that changes meanwhile.

    `step` counts the steps that are done, `history` holds the lines of
    metrics.jsonl, `sums` what the epoch at work has added up so far; `average` is
    the model with the moving average of the weights, where one is kept. `place`
    says where in a stream the batch of a step begins. `encode` encodes a part of a
    batch, and is made anew when what learns changes.
    """

    model: DistilCLIP
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    precision: str
    config: TrainConfig
    average: DistilCLIP | None = None
    data: str = ""  # hashes of the pairs that it is trained on
    start: str = ""  # a hash of the model that it started from, where there is one
    step: int = 0
    history: list[dict] = field(default_factory=list)
    sums: dict = field(default_factory=new_sums)
    place: Callable[[int], dict] | None = None
    encode: Callable | None = None
    save_at: float = 0.0  # on the monotonic clock, which nobody sets back

    @property
    def outcome(self) -> DistilCLIP:
        """What is evaluated and kept, the averaged model where there is one."""
        return self.average or self.model

    @property
    def is_new(self) -> bool:
        """Whether not one step is done."""
        return not self.step and not self.history

    @property
    def peak_lr(self) -> float:
        """The greatest peak rate of any parameter."""
        return max(group["peak"] for group in self.optimizer.param_groups)

    @property
    def epochs_done(self) -> int:
        """How many epochs are done, their evaluations included."""
        return sum(line["kind"] == "epoch" for line in self.history)


@contextlib.contextmanager
def hold_folder(folder: Path, resume: bool = False) -> Iterator[None]:
    """Keep a run's folder, new or not, for this process while the block runs.

    The lock is the system's own, on the folder itself: it ends with the process,
    however that ends, and leaves nothing behind. Folders that are made here and
    stay empty are removed again. Raises FileNotFoundError where there is no run to
    resume, FileExistsError where another process trains in the folder, or where it
    is not empty and not to be resumed.
    """
    if resume and not (folder / STATE_FILE).is_file():
        raise FileNotFoundError(
            f"Nothing to resume: there is no {folder / STATE_FILE}. "
            "Leave out --resume to start."
        )
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(
            f"{folder} is a file: choose another folder for the run."
        )
    new = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise type(error)(
            f"Cannot make the folder {folder}: {error.strerror}."
        ) from error
    lock = _lock(folder)
    try:
        contents = [
            file
            for file in folder.iterdir()
            if file.name != ".lock" and not is_leftover(file)  # .lock: on Windows
        ]
        if contents and not resume:
            raise FileExistsError(
                f"{folder} is not empty: add --resume to go on with the run in it, "
                "or choose another folder."
            )
        if not os.access(folder, os.W_OK):
            raise PermissionError(
                f"Cannot write to {folder}: choose another folder for the run."
            )
        yield
    finally:
        _unlock(folder, lock)
        with contextlib.suppress(OSError):  # it holds a run now
            for place in new:
                place.rmdir()


def _lock(folder: Path) -> int | None:
    """Lock a folder; None where the file system knows no locks.

    Raises FileExistsError where another process holds it.
    """
    taken = FileExistsError(
        f"Another process is training in {folder}: "
        "wait for it, or choose another folder."
    )
    if fcntl is None:
        file = folder / ".lock"
        try:
            file.unlink(missing_ok=True)  # refused by Windows while it is open
            return os.open(file, os.O_CREAT | os.O_RDWR)
        except PermissionError:
            raise taken from None
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise taken from None
    except OSError:  # some network file systems
        os.close(handle)
        return None
    return handle


def _unlock(folder: Path, handle: int | None) -> None:
    """Give up a lock of `_lock`."""
    if handle is not None:
        os.close(handle)
    if fcntl is None:
        (folder / ".lock").unlink(missing_ok=True)


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Let Ctrl-C wait for the end of the block, which raises KeyboardInterrupt.

    So do the other signals of `STOPPING` that something here answers. Weights,
    optimiser and step counter change together in such a block, so that what is
    saved after an interruption is one moment, not two halves of a step.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread can be interrupted
        return
    before = {number: signal.getsignal(number) for number in STOPPING}
    before[signal.SIGINT] = before[signal.SIGINT] or signal.default_int_handler
    asked: list[int] = []
    for number, handler in before.items():
        if handler is not signal.SIG_IGN and (
            callable(handler) or number == signal.SIGINT
        ):
            signal.signal(number, lambda number, _: asked.append(number))
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:
                signal.signal(number, handler)
    if asked:
        handler = before[asked[0]]
        if callable(handler):
            handler(asked[0], None)  # which may say more, and raises
        raise KeyboardInterrupt


@contextlib.contextmanager
def stoppable() -> Iterator[list[int]]:
    """Let SIGTERM and SIGHUP stop the block as Ctrl-C does -> those that came.

    What was told to ignore one of them, as `nohup` does, goes on ignoring it.
    """
    came: list[int] = []

    def stop(number: int, _) -> None:
        came.append(number)
        raise KeyboardInterrupt

    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in STOPPING:
            if signal.getsignal(number) is signal.SIG_DFL:
                before[number] = signal.signal(number, stop)
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def save_run(run: Run, folder: Path) -> None:
    """Write state, metrics and model, each file whole or not at all.

    The state comes first and holds everything: after a kill between two files the
    run resumes from it, and the others are written anew. Raises OSError where the
    disk is full or the folder cannot be written to; the last state is then intact.
    """
    started = time.monotonic()
    settings = {k: v for k, v in asdict(run.config).items() if k not in ELSEWHERE}
    description = {
        "step": run.step,
        "precision": run.precision,
        "config": settings,
        "data": run.data,
        "start": run.start,
        "frozen": frozen_hash(run),
        "scaler": run.scaler.state_dict(),
        "history": run.history,
        "epoch": run.sums,
        "stream": run.place(run.step) if run.place else None,
    }
    try:
        state, tensors = json.dumps(description), state_tensors(run)
        metadata = {"state": state, "checksum": checksum(state, tensors)}
        save_tensors(tensors, folder / STATE_FILE, metadata)
        write_metrics(run, folder)
        write_text(folder / "train_config.json", json.dumps(settings, indent=2))
        run.outcome.save_pretrained(folder)
    except OSError as error:
        raise type(error)(
            f"{error} The run can go on from its last saved state: mend the cause, "
            "then add --resume to the same command."
        ) from error
    now = time.monotonic()
    run.save_at = now + max(SAVE_SECONDS, (now - started) / SAVE_SHARE)


def write_metrics(run: Run, folder: Path) -> None:
    """Write metrics.jsonl: a line an epoch, a line an evaluation."""
    write_text(folder / "metrics.jsonl", "\n".join(map(json.dumps, run.history)))


def state_tensors(run: Run) -> dict[str, Tensor]:
    """Every tensor of a run's state, by its name in the file.

    What is not trained is left out.
    """
    tensors, names = {}, optimized_names(run)
    for kind, model in (("model", run.model), ("average", run.average)):
        if model is not None:
            parameters = dict(model.named_parameters())
            for name in names:
                tensors[f"{kind}.{name}"] = parameters[name].detach()
    for position, moments in run.optimizer.state_dict()["state"].items():
        for key, value in moments.items():
            tensors[f"optimizer.{names[position]}.{key}"] = value
    return tensors


def optimized_names(run: Run) -> list[str]:
    """The names of the optimiser's parameters, in its order."""
    names = {parameter: name for name, parameter in run.model.named_parameters()}
    groups = run.optimizer.param_groups
    return [names[parameter] for group in groups for parameter in group["params"]]


def pairs_hash(rows: datasets.Dataset) -> str:
    """A hash of the ids of a split's pictures, and of their captions."""
    digest = hashlib.sha256()
    for image_id, captions in zip(rows["image_id"], rows["captions"], strict=True):
        digest.update(json.dumps([image_id, captions]).encode())
    return digest.hexdigest()[:32]


def check_pairs(
    rows: datasets.Dataset, config: TrainConfig, saved: dict | None
) -> str:
    """The hash of the training pairs; ValueError where a `saved` run had others."""
    pairs, pictures = pairs_hash(rows), pictures_hash(rows)
    known = (saved or {}).get("data", pairs)
    before, _, seen = known.partition("-")
    if seen not in ("", pictures):
        raise ValueError(
            f"Pictures of {config.data} have changed since the run in {config.out} "
            "was started: put them back as they were, or start a new run in "
            "another folder."
        )
    if before != pairs:
        raise ValueError(
            f"The training pairs of {config.data} have changed since the run in "
            f"{config.out} was started, or another version of distilclip read them "
            "(since 0.2, rows with the same picture are one): put them back as "
            "they were, or start a new run in another folder."
        )
    return f"{pairs}-{pictures}"


def other_pairs(folder: Path, splits: datasets.DatasetDict) -> bool:
    """Whether the run in a folder was trained on other pairs than `splits` has.

    False where it does not say, as a stream does not.
    """
    try:
        with safe_open(folder / STATE_FILE, "pt") as opened:
            state = json.loads(opened.metadata()["state"])
        known, config = state["data"].partition("-")[0], state["config"]
        is_stream = config.get("streaming", False)
        return not is_stream and known != pairs_hash(splits["train"])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return False


def pictures_hash(rows: datasets.Dataset) -> str:
    """A hash of a split's undecoded pictures, wherever they lie.

    Of each its size, and its bytes at the beginning, in the middle and at the end.
    """
    digest = hashlib.blake2b(digest_size=16)
    undecoded = rows.cast_column("image", datasets.Image(decode=False))
    for start in range(0, len(rows), 256):
        for image in undecoded[start : start + 256]["image"]:
            with opened(image) as file:
                size = file.seek(0, os.SEEK_END)
                digest.update(size.to_bytes(8, "little"))
                for place in (0, size // 2, max(size - SAMPLE, 0)):
                    file.seek(place)
                    digest.update(file.read(SAMPLE))
    return digest.hexdigest()


def opened(image: dict) -> BinaryIO:
    """The undecoded bytes of a picture, as `datasets` has it."""
    content, path = image["bytes"], image["path"]
    if content is None and path:
        return Path(path).open("rb")
    return io.BytesIO(content or b"")


def frozen_hash(run: Run) -> str:
    """A hash of the weights that no step changes, and no state holds."""
    if run.model not in FROZEN:
        digest, learns = hashlib.blake2b(digest_size=16), set(optimized_names(run))
        for name, tensor in run.model.state_dict().items():
            if name not in learns:
                digest.update(bytes_of(tensor))
        FROZEN[run.model] = digest.hexdigest()
    return FROZEN[run.model]


def read_state(folder: Path, config: TrainConfig) -> dict:
    """The state that `save_run` wrote.

    Raises FileNotFoundError where there is none, ValueError where it is damaged or
    of a run with other settings.
    """
    file = folder / STATE_FILE
    if not file.is_file():
        raise FileNotFoundError(f"Nothing to resume: there is no {file}.")
    reason = ""
    try:
        with safe_open(file, "pt") as opened:
            metadata = opened.metadata()
            state = json.loads(metadata["state"])
            state["tensors"] = {
                name: opened.get_tensor(name)
                for name in opened.keys()  # noqa: SIM118
            }
        state.setdefault("start", "")
        summed = checksum(metadata["state"], state["tensors"])
        if metadata.get("checksum", summed) != summed:  # older ones have none
            raise ValueError("its checksum says that it has changed since")
        check_description(state)
        # What an older version did not know was off then, whatever the preset now.
        saved = state["config"] | {"out": str(folder)}
        known = {name: value for name, value in saved.items() if value is not None}
        unknown = known.keys() - {each.name for each in fields(TrainConfig)}
        if unknown:
            raise ValueError(f"this version knows no setting {min(unknown)!r}")
        before = TrainConfig(**DEFAULTS | OFF | known)
    except (SafetensorError, ValueError) as error:
        reason = str(error).rstrip(".")
    except (LookupError, TypeError, AttributeError):
        reason = "it is not what a run writes"
    if reason:
        raise ValueError(f"{file} is damaged and cannot be resumed from: {reason}.")
    now, before = asdict(config), asdict(before)
    compared = now.keys() - {*ELSEWHERE, *NAMES}
    changed = [k for k in now if k in compared and before[k] != now[k]]
    if changed:
        settings = ", ".join(f"{name} {before[name]!r:.80}" for name in changed)
        raise ValueError(
            f"The run in {folder} was started with {settings}: "
            "resume with the same settings."
        )
    return state


def check_description(state: dict) -> None:
    """Raise ValueError where a state says less than it should, or otherwise."""
    missing = REQUIRED - state.keys()
    if missing:
        raise ValueError(f"it says nothing of {', '.join(sorted(missing))}")
    sums, lines = state.get("epoch") or new_sums(), state["history"]
    wrong = [
        name
        for name, kind in KINDS.items()
        if name in state and not isinstance(state[name], kind)
    ]
    wrong += ["precision"] * (state["precision"] not in PRECISIONS)
    wrong += ["step"] * (type(state["step"]) is not int or state["step"] < 0)
    wrong += ["history"] * (not all(isinstance(each, dict) for each in lines))
    wrong += ["history"] * (not all("kind" in each for each in lines))
    wrong += [
        "epoch"
        for name, usual in new_sums().items()
        if not isinstance(sums.get(name), (int, float, type(usual)))
    ]
    if wrong:
        raise ValueError(f"what it says of {wrong[0]} is of another kind")


def steps_of_run(run: Run, per_epoch: int) -> int:
    """How many steps a run of so many an epoch has, from its first to its last.

    Raises ValueError where the step that it is at is not what its epochs and losses
    say, as in a state that has been changed.
    """
    done, losses = run.epochs_done * per_epoch, len(run.sums["losses"])
    if run.step != done + losses:
        raise ValueError(
            f"The state in {run.config.out} is damaged: it says step {run.step}, "
            f"but {run.epochs_done} epochs of {per_epoch} steps and {losses} more. "
            "Start anew, in another folder."
        )
    return per_epoch * run.config.epochs


def restore(run: Run, state: dict) -> None:
    """Put a state from `read_state` into a new run.

    Raises ValueError where its tensors do not fit the model's.
    """
    if state.get("frozen") and state["frozen"] != frozen_hash(run):
        raise ValueError(
            "The frozen weights, those of the text encoder, have changed since the "
            "run was started: put them back as they were, or start a new run."
        )
    wanted, moments = state_tensors(run), {}
    names = optimized_names(run)
    positions = {name: position for position, name in enumerate(names)}
    for name, tensor in state["tensors"].items():
        kind, rest = name.split(".", 1)
        if kind == "optimizer":
            rest, key = rest.rsplit(".", 1)
            moments.setdefault(positions.get(rest), {})[key] = tensor
            is_alike = key == "step" or _fits(wanted, f"model.{rest}", tensor)
            fits = rest in positions and is_alike
        else:
            fits = _fits(wanted, name, tensor)
        if not fits:
            raise ValueError(
                f"The saved state does not fit the model: {name} is another tensor."
            )
    missing = wanted.keys() - state["tensors"].keys()
    if missing:
        raise ValueError(
            f"The saved state does not fit the model: {min(missing)} is missing."
        )
    with torch.no_grad():
        for name, parameter in wanted.items():
            parameter.copy_(state["tensors"][name])
    run.optimizer.load_state_dict(run.optimizer.state_dict() | {"state": moments})
    if state["scaler"]:
        run.scaler.load_state_dict(state["scaler"])
    run.step = state["step"]
    run.history = [line for line in state["history"] if line["kind"] != "final"]
    run.sums = state.get("epoch") or new_sums()


def _fits(wanted: dict[str, Tensor], name: str, tensor: Tensor) -> bool:
    """Whether there is to be a tensor of this name, in this shape."""
    return name in wanted and wanted[name].shape == tensor.shape
