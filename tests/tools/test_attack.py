"""The attack finds what it is there to find, and a short one finds nothing."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Put before the attack in a process of its own: what one input of a class does instead
PLANTED = """
import os, signal, socket, subprocess, sys, time
from functools import partial
sys.path.insert(0, {tools!r})
import attack, attack_inputs
from pathlib import Path

def traceback_(room): raise KeyError("image")
def insides(room): raise ValueError("'NoneType' object is not subscriptable.")
def hang(room): time.sleep(600)
def crash(room): os.kill(os.getpid(), signal.SIGSEGV)
def reads(room): (room.outside / "secret.txt").read_bytes()
def reads_below_python(room):
    import safetensors, contextlib
    with contextlib.suppress(Exception):
        safetensors.safe_open(room.outside / "secret.png", "np")
def lists(room): os.listdir(room.outside)
def changes(room): (room.outside / "secret.csv").write_text("changed")
def shows(room): print((room.outside / "secret.json").read_text())
def loses(room): (room.here / "pictures" / "00.png").unlink()
def leaves(room): (room.here / ".distilclip-abcdefgh.part").mkdir()
def asks(room): socket.create_connection(("127.0.0.1", 9), 0.1)
def starts(room): subprocess.run(["true"])
def nothing(room): pass

def planted(fault, room, draw):
    room.copy("pictures")
    return attack_inputs.Attack(fault.__name__, call=lambda: fault(room))

FAULTS = [traceback_, insides, hang, crash, reads, reads_below_python, lists, changes, shows]
FAULTS += [loses, leaves, asks, starts, nothing]
attack_inputs.CLASSES |= {{each.__name__: partial(planted, each) for each in FAULTS}}
budget = str(len(attack_inputs.CLASSES))
sys.argv[1:] = ["--budget", budget, "--patience", "20", "--json", {found!r}]
sys.exit(attack.main())
"""
FOUND = {
    "traceback_": "traceback: KeyError",
    "insides": "no sentence",
    "hang": "hang",
    "crash": "crashed: signal 11",
    "reads": "read outside",
    "reads_below_python": "read outside: secret.png",
    "lists": "read outside: os.listdir",
    "changes": "changed outside",
    "shows": "its content was shown",
    "loses": "an input changed",
    "leaves": "left behind",
    "asks": "socket.connect",
    "starts": "subprocess.Popen",
}


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """What an attack says of an input of each class, and of some that are at fault on purpose."""
    found = tmp_path_factory.mktemp("attack") / "found.json"
    code = PLANTED.format(tools=str(ROOT / "tools"), found=str(found))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert "at fault" in done.stdout and "100%" in done.stderr
    return {record["kind"]: record["faults"] for record in json.loads(found.read_text())}


@pytest.mark.slow
@pytest.mark.parametrize("fault", FOUND)
def test_a_planted_fault_is_found(fault, said):
    assert any(FOUND[fault] in each for each in said[fault]), said[fault]


@pytest.mark.slow
def test_what_is_right_is_not_said_to_be_a_fault(said):
    assert said["nothing"] == []


@pytest.mark.slow
def test_an_input_of_each_class_ends_as_it_should(said):
    """The first of each class, of seed 0; `make check` tries many more."""
    ours = {kind: faults for kind, faults in said.items() if kind not in {*FOUND, "nothing"}}
    assert len(ours) >= 19 and not any(ours.values()), ours
