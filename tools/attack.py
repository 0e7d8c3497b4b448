"""An attack: thousands of hostile inputs and faults, each of which must end right or in a sentence.

    python tools/attack.py                                  4,000 inputs
    python tools/attack.py --budget 200 --seed 7 --classes images models
    python tools/attack.py --input 1234 --keep /tmp/look    one of them again, and its files

Options, folders, pictures, tables, models, states, caches, signals, full disks, too little memory,
closed terminals: `attack_inputs.py` draws them from the seed and the number of the input, so that
any of them can be had again. Each runs in a process of its own, forked from one that has imported
everything, under an audit hook, a limit on memory and one on time. Prints how each class ended,
and every input that ended otherwise than it should: a traceback, a crash, a hang, a refusal that is
no sentence of ours, a file outside the input's own folder that was read or changed, an input or a
part that a refusal changed or left behind, a program started, an address asked. The status is 1
then.

What the hook cannot see, because it is opened below Python, is seen by the time of last access of
the files laid out as bait, where the file system keeps it. Works on Linux; no network is used, and
no second machine, no Windows and no real power cut is tried.
"""

import argparse
import contextlib
import faulthandler
import fcntl
import gc
import io
import json
import os
import re
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")  # threads do not survive a fork
os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "MPLBACKEND": "agg"}
sys.path.insert(0, str(Path(__file__).parent))

from attack_inputs import CLASSES, Attack, Room, build_base, draw_attack  # noqa: E402

ROOT = Path(__file__).parents[1]
# What is not ours to judge: the interpreter, libraries, and what the system says of itself
SYSTEM = [sys.prefix, sys.base_prefix, str(ROOT), "/usr", "/lib", "/lib64", "/proc", "/sys", "/dev"]
SYSTEM += [
    "/etc/ld.so.cache",
    "/etc/mime.types",
    "/etc/localtime",
    "/etc/fonts",
    "/etc/nsswitch.conf",
]
# The names that Python's audit hook has for what we look for
OPENING = ("open", "os.listdir", "os.scandir")
CHANGING = ("os.remove", "os.rename", "os.rmdir", "os.truncate", "os.link", "os.symlink")
CHANGING += ("os.mkdir", "os.chmod", "os.chown", "os.utime", "shutil.rmtree", "shutil.move")
STARTING = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "pty.spawn")
ASKING = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto")
ASKING += ("urllib.Request", "http.client.connect", "ftplib.connect")
# What no sentence for a person holds
INSIDES = re.compile(
    r"Traceback|0x[0-9a-f]{6}|object at|site-packages|<class|'NoneType'|not subscriptable|"
    r"not iterable|has no attribute|unexpected keyword|positional argument|unsupported operand|"
    r"invalid literal|not supported between|is not callable|unhashable|must be str, not|"
    r"argument of type|index out of (range|bounds)|KeyError|size mismatch for|codec can't"
)
PYTHONS = re.compile(
    r"Traceback \(most recent|Exception ignored|Fatal Python|site-packages|Warning:"
)
MEMORY = 3 << 30  # more than an input may take beyond what is there already


@dataclass
class Ending:
    """How an input ended: its status (None for a hang), what it said, what the hook saw."""

    status: int | None
    out: str
    err: str
    seen: list[str]
    seconds: float


# In the child


def watch(report: Callable[[str], None], places: list[str], named: set[str]) -> None:
    """Report what is opened, changed, started or asked outside `places`, from now on."""
    import threading

    busy = threading.local()

    def inside(path: object) -> bool:
        if not isinstance(path, str | bytes | os.PathLike):
            return True  # a handle that has been opened before
        text = os.fsdecode(path)
        if text in named:
            return True
        with contextlib.suppress(OSError, ValueError):
            text = os.path.realpath(text)
        return any(text == place or text.startswith(f"{place}/") for place in places)

    def hook(event: str, args: tuple) -> None:
        if event in ASKING or event in STARTING:
            local = event == "socket.connect" and not isinstance(args[1], tuple)
            if not local:
                report(f"{event} {args!r}"[:300])
        elif event in OPENING or event in CHANGING:
            if getattr(busy, "now", False):
                return
            busy.now = True
            try:
                is_writing = event in CHANGING or (event == "open" and writes(args))
                paths = args[:2] if event in ("os.rename", "os.link", "shutil.move") else args[:1]
                if not all(map(inside, paths)):
                    what = f"{'changed' if is_writing else 'read'} outside: {event} {paths!r}"
                    report(f"{what[:300]} ({way_of(traceback.extract_stack()[:-2])})")
            finally:
                busy.now = False

    sys.addaudithook(hook)


def writes(args: tuple) -> bool:
    """Whether an `open` that the hook was told of may write."""
    mode, flags = args[1], args[2]
    by_mode = isinstance(mode, str) and any(letter in mode for letter in "wax+")
    return by_mode or bool(isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR))


def act(attack: Attack) -> int:
    """Do what an input asks for, as the command does, or a caller of a function -> the status."""
    if attack.call is None:
        from distilclip.command.cli import main

        try:
            return main([os.fspath(each) for each in attack.arguments])
        except SystemExit as ended:
            return ended.code if isinstance(ended.code, int) else 1
    try:
        attack.call()
    except TypeError as error:  # as Python says to whoever calls a function wrongly
        print(f"distilclip: error: {type(error).__name__} of Python.", file=sys.stderr)
        return 1
    except (ValueError, OSError, FloatingPointError) as error:
        from distilclip.command.cli import describe

        if "\n" in str(error):
            raise
        print(f"distilclip: error: {describe(error)}", file=sys.stderr)
        return 1
    return 0


def be_the_child(attack: Attack, room: Room, pipe: int) -> None:
    """Run one input in this process, which ends here."""
    status = 70
    for stream, number in (("out.txt", 1), ("err.txt", 2)):
        handle = os.open(room.place / stream, os.O_CREAT | os.O_TRUNC | os.O_RDWR)
        os.dup2(handle, number)
    try:
        sys.stdin = io.StringIO(attack.stdin)
        sys.stdout = open(1, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
        os.chdir(room.here)
        os.setpgid(0, 0)
        faulthandler.register(signal.SIGUSR1, 2)
        limit_memory(attack.memory if attack.memory is not None else MEMORY)
        attack.prepare()

        def report(line: str) -> None:
            os.write(pipe, line.encode(errors="replace") + b"\n")

        places = [*SYSTEM, *map(str, room.own_places())]
        watch(report, places, set(map(os.fspath, attack.arguments)))
        status = act(attack)
        sys.stdout.flush()
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else 1
    except KeyboardInterrupt:  # before the command had begun
        status = 130
    except BaseException as error:
        with contextlib.suppress(BaseException):
            os.write(pipe, f"traceback: {in_a_line(error)}\n".encode(errors="replace"))
    finally:
        with contextlib.suppress(BaseException):
            sys.stderr.flush()
        os._exit(status & 0xFF)


def in_a_line(error: BaseException) -> str:
    """An error and the last places that it came through."""
    way = way_of(traceback.extract_tb(error.__traceback__))
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]} ({way})"


def way_of(frames: list[traceback.FrameSummary]) -> str:
    """The last places of a way through code, in a line."""
    return " > ".join(f"{Path(f.filename).name}:{f.lineno} {f.name}" for f in frames[-6:])


def limit_memory(more: int) -> None:
    """Let this process have no more than so many bytes beyond what it has now."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * os.sysconf("SC_PAGE_SIZE") + more
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


# Around the child


def run(attack: Attack, room: Room, patience: float) -> Ending:
    """Fork a process for an input, and wait for its end, or kill it when patience ends."""
    reading, writing = os.pipe()
    started = time.monotonic()
    child = os.fork()
    if child == 0:
        os.close(reading)
        be_the_child(attack, room, writing)
    os.close(writing)
    seen, sent, status = b"", False, None
    while True:
        seconds = time.monotonic() - started
        if attack.signal and not sent and seconds >= attack.moment:
            os.kill(child, attack.signal)
            sent = True
        if seconds > patience:
            os.kill(child, signal.SIGUSR1)  # it says where it is
            time.sleep(0.2)
            break
        ended, code = os.waitpid(child, os.WNOHANG)
        if ended:
            status = os.waitstatus_to_exitcode(code)
            break
        if select.select([reading], [], [], 0.01)[0]:
            seen += os.read(reading, 65536) or sleep()
    with contextlib.suppress(OSError):
        os.killpg(child, signal.SIGKILL)  # and whatever it has started
    if status is None:
        with contextlib.suppress(OSError):
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    # Until the last process that writes for it has ended
    while select.select([reading], [], [], 5)[0] and (more := os.read(reading, 65536)):
        seen += more
    os.close(reading)
    texts = [text_of(room.place / name) for name in ("out.txt", "err.txt")]
    lines = list(dict.fromkeys(seen.decode(errors="replace").split("\n")))
    return Ending(status, *texts, [line for line in lines if line], time.monotonic() - started)


def sleep() -> bytes:
    """Wait a little for a process that has closed its pipe and not ended."""
    time.sleep(0.01)
    return b""


def text_of(file: Path) -> str:
    """What a process wrote, the first 100,000 bytes."""
    if not file.exists():
        return ""
    with open(file, "rb") as opened:
        return opened.read(100_000).decode(errors="replace")


def tree(*folders: Path) -> dict[str, tuple]:
    """Every file below some folders, and what would differ had it been touched."""
    found = {}
    for folder in folders:
        for place, below, names in os.walk(folder):
            for name in [*names, *below]:
                path = os.path.join(place, name)
                about = os.lstat(path)
                is_folder = name in below and not os.path.islink(path)
                # A folder's times change with what is in it, which is looked at anyway
                times = () if is_folder else (about.st_size, about.st_mtime_ns, about.st_ctime_ns)
                found[path] = (about.st_ino, about.st_mode, *times)
    return found


@contextlib.contextmanager
def watched_bait(room: Room, faults: list[str]) -> Iterator[None]:
    """Add to `faults` what of the bait was read or changed in the block."""
    files = [path for path in room.outside.rglob("*") if path.is_file()]
    for path in files:
        os.utime(path, (1, time.time()))  # a read renews only an old time of access
    before = tree(room.outside, room.base)
    yield
    for path in files:
        if path.is_file() and path.stat().st_atime != 1:
            faults.append(f"read outside: {path.name}")
    after = tree(room.outside, room.base)
    faults += [f"changed outside: {path}" for path in differing(before, after)]


def differing(before: dict[str, tuple], after: dict[str, tuple]) -> list[str]:
    """The paths that are new, gone or other than they were."""
    paths = sorted(before.keys() | after.keys())
    return [path for path in paths if before.get(path) != after.get(path)]


def attempt(attack: Attack, room: Room, patience: float) -> tuple[list[str], Ending]:
    """Run one input, and what is to be done after it -> what is wrong, and how it ended."""
    faults: list[str] = []
    with watched_bait(room, faults):
        before = tree(room.here)
        ending = run(attack, room, patience)
        after = tree(room.here)
    faults += judge(attack, ending)
    outputs = [os.path.realpath(room.here / each) for each in attack.outputs]
    for path in differing(before, after):
        if any(path == each or path.startswith(f"{each}/") for each in outputs):
            continue
        if ending.status == 0 and any(each.startswith(f"{path}/") for each in outputs):
            continue  # a folder for what was to be written
        faults.append(f"{'an input changed' if path in before else 'left behind'}: {path}")
    is_killed = attack.signal == signal.SIGKILL
    for path in after.keys() | tree(room.home).keys():
        if Path(path).name.startswith(".distilclip-") and path not in before and not is_killed:
            faults.append(f"an unfinished file was left: {path}")
    if (room.home / "was run").exists():
        faults.append("code of the input was run")
    if not faults and attack.check and ending.status == 0:
        faults += attack.check(ending)
    if not faults and attack.then:
        later, end = attempt(attack.then, room, patience)
        faults += [f"afterwards: {fault}" for fault in later]
        ending = Ending(ending.status, ending.out, ending.err + end.err, [], ending.seconds)
    return faults, ending


def judge(attack: Attack, ending: Ending) -> list[str]:
    """What is wrong with how an input ended."""
    if ending.status is None:
        return [f"hang: {' '.join(ending.err.split())[-600:]}"]
    faults = list(ending.seen)
    said = ending.err + ending.out
    if PYTHONS.search(said):
        faults.append(f"insides: {PYTHONS.search(said)[0]}")
    if "bait of the attack" in said:
        faults.append("read outside: its content was shown")
    status = ending.status
    if status == 70:
        return faults or ["a traceback that could not be told"]
    if status < 0:
        return faults + ([] if -status == attack.signal else [f"crashed: signal {-status}"])
    if status == 0:
        return faults + (["accepted"] if attack.expect == "refused" else [])
    if attack.expect == "works":
        faults.append(f"refused: {ending.err.strip()[-300:]}")
    lines = [line for line in ending.err.splitlines() if line.strip()] or [""]
    if status in (129, 130, 143) and (attack.signal or "Stopped at step" in lines[-1]):
        return faults
    match = re.fullmatch(r"distilclip(?: \w+)?: error: (.+)", lines[-1])
    if attack.is_silent:  # where it was said, nobody can read it
        return faults
    if not match or not is_sentence(match[1], by_argparse=status == 2):
        faults.append(f"no sentence (status {status}): {lines[-1][:400]}")
    return faults


def is_sentence(text: str, by_argparse: bool = False) -> bool:
    """Whether a message is one for a person: it ends, and has nothing of a program's insides."""
    if not 10 < len(text) < 1500 or INSIDES.search(text):
        return False
    of_a_file = re.match(r"[A-Z][^:]{8,60}: .", text)  # "No such file or directory: x"
    return by_argparse or bool(of_a_file) or text.endswith((".", "?", "'", ")"))


# All of them


def work(numbers: list[int], options: argparse.Namespace, place: Path, pipe: int) -> None:
    """Try the inputs of these numbers one after another, and say how each ended."""
    for number in numbers:
        room = Room(place / "base", place / f"room_{number}")
        kind = options.classes[number % len(options.classes)]
        with room.ready():
            try:
                attack = draw_attack(kind, f"{options.seed} {number}", room)
                faults, ending = attempt(attack, room, options.patience)
            except Exception as error:  # of this tool, which shall say so and go on
                attack, ending = Attack("no input"), Ending(70, "", "", [], 0.0)
                faults = [f"the tool failed: {in_a_line(error)}"]
            line = {"number": number, "kind": kind, "about": attack.describe(), "faults": faults}
            line |= {"status": ending.status, "seconds": ending.seconds, "err": ending.err[-800:]}
            line["out"] = ending.out[-300:]
            with open(place / "lock", "w") as lock:  # one line at a time, however long
                fcntl.flock(lock, fcntl.LOCK_EX)
                write_all(pipe, json.dumps(line).encode() + b"\n")
        if not options.keep:
            shutil.rmtree(room.place, ignore_errors=True)


def write_all(pipe: int, content: bytes) -> None:
    """Write all of some bytes, however few a pipe takes at once."""
    while content:
        content = content[os.write(pipe, content) :]


def run_all(options: argparse.Namespace, place: Path) -> list[dict]:
    """Try every input in `jobs` processes -> a record of each, in order."""
    from tqdm import tqdm

    numbers = [options.input] if options.input is not None else list(range(options.budget))
    reading, writing = os.pipe()
    children = []
    for job in range(options.jobs):
        child = os.fork()
        if child == 0:
            try:
                os.close(reading)
                work(numbers[job :: options.jobs], options, place, writing)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(0)
        children.append(child)
    os.close(writing)
    records = []
    with open(reading, encoding="utf-8") as lines, tqdm(total=len(numbers), unit="input") as bar:
        for line in lines:
            records.append(json.loads(line))
            bar.update()
            if records[-1]["faults"]:
                bar.write(report(records[-1]), file=sys.stderr)
    for child in children:
        os.waitpid(child, 0)
    if len(records) < len(numbers):
        lost = sorted(set(numbers) - {record["number"] for record in records})
        raise SystemExit(f"Inputs were never tried, the first of them {lost[0]}.")
    return sorted(records, key=lambda record: record["number"])


def report(record: dict) -> str:
    """What a person should know of an input that did not end well."""
    lines = [f"input {record['number']} ({record['kind']}): {record['about']}"]
    lines += [f"    {fault}" for fault in record["faults"][:5]]
    return "\n".join([*lines, f"    said: {record['err'][-300:]!r}"])


def summarise(records: list[dict]) -> str:
    """A table of how the inputs of each class ended."""
    rows = [("class", "inputs", "right", "refused", "stopped", "at fault", "slowest")]
    for kind in [*dict.fromkeys(record["kind"] for record in records), "all"]:
        some = [record for record in records if kind in ("all", record["kind"])]
        good = [record for record in some if not record["faults"]]
        ends = Counter(
            {0: "right", 1: "refused", 2: "refused"}.get(record["status"], "stopped")
            for record in good
        )
        slowest = max(record["seconds"] for record in some)
        counts = [len(some), ends["right"], ends["refused"], ends["stopped"], len(some) - len(good)]
        rows.append((kind, *map(str, counts), f"{slowest:.1f} s"))
    return "\n".join(f"{row[0]:<12}" + "".join(f"{cell:>9}" for cell in row[1:]) for row in rows)


def warm_up(place: Path) -> None:
    """Import in this process all that the commands import, so that a fork has it."""
    import importlib
    import threading

    from tqdm import tqdm

    # Its own lock is one for all processes, and a child that is killed may hold it.
    tqdm.set_lock(threading.RLock())
    tqdm.monitor_interval = 0
    for name in json.loads((place / "base" / "modules.json").read_text()):
        with contextlib.suppress(Exception):
            importlib.import_module(name)
    gc.collect()
    gc.freeze()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--budget", type=int, default=4000, help="inputs to try (default: 4000)")
    parser.add_argument("--seed", type=int, default=0, help="of the inputs (default: 0)")
    parser.add_argument("--classes", nargs="+", choices=list(CLASSES), default=list(CLASSES))
    parser.add_argument("--patience", type=float, default=60, help="seconds that each may take")
    parser.add_argument("--jobs", type=int, default=2, help="inputs at once (default: 2)")
    parser.add_argument("--input", type=int, metavar="NUMBER", help="only this one")
    parser.add_argument("--keep", type=Path, help="work here, in a new folder, and keep it")
    parser.add_argument("--json", type=Path, help="write a record of each input here, too")
    options = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="attack-") as temporary:
        place = options.keep or Path(temporary) / "attack"
        place.mkdir(parents=True)
        build_base(place / "base", place / "base.txt")
        warm_up(place)
        records = run_all(options, place)
    print(summarise(records))
    at_fault = [record for record in records if record["faults"]]
    for record in at_fault:
        print(report(record))
    minutes = (time.monotonic() - started) / 60
    print(f"seed {options.seed}: {len(records):,} inputs in {minutes:.1f} minutes.")
    if options.json:
        options.json.write_text(json.dumps(records, indent=1) + "\n")
    return 1 if at_fault else 0


if __name__ == "__main__":
    sys.exit(main())
