"""Put a run's figures into the book and its model into the package (authors only).

    python tools/package_model.py runs/emoji emoji_cpu "two cores of an Intel Xeon" 534d342
    python tools/package_model.py runs/long emoji_long "one core of it" 8fa4fe8 --figures-only

Writes the run's command, curves and figures to distilclip/book/results/NAME.json and, unless only
those are asked for, the image side and the projections, in float16, to distilclip/emoji/model/.
"""

import argparse
import json
from dataclasses import asdict
from datetime import date
from pathlib import Path

import torch
from safetensors.torch import load_file

from distilclip import DistilCLIP, TrainConfig, __version__
from distilclip.book.stored import RESULTS
from distilclip.runs.settings import FOLLOWS_LR, PRESETS
from distilclip.storage.files import read_json, read_json_lines, write_text
from distilclip.storage.weights import save_tensors

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "distilclip" / "emoji" / "model"


def command_of(settings: dict) -> str:
    """The command that starts a run with these settings: what differs from its preset."""
    preset = asdict(TrainConfig(preset=settings["preset"]))
    given = {name: value for name, value in settings.items() if value is not None}
    changes = {name: value for name, value in given.items() if value != preset[name]}
    for name in FOLLOWS_LR:
        if name not in PRESETS[settings["preset"]] and given.get(name) == given["lr"]:
            changes.pop(name, None)
    options = [option_of(name, value) for name, value in changes.items()]
    start = f"distilclip train --data {settings['data']} --preset {settings['preset']}"
    return " ".join([start, *options])


def option_of(name: str, value: bool | int | float | str) -> str:
    """How a setting is given to the command."""
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        return f"--{flag}" if value else f"--no-{flag}"
    return f"--{flag} {value}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="the folder of a run that has ended")
    parser.add_argument("name", help="of the results' file")
    parser.add_argument("device", help="the machine, in words")
    parser.add_argument("commit", help="of the package that trained it")
    parser.add_argument("--figures-only", action="store_true", help="leave the package's model")
    options = parser.parse_args()
    history = read_json_lines(options.run / "metrics.jsonl")
    epochs = [line for line in history if line["kind"] == "epoch"]
    final = [line for line in history if line["kind"] == "final"]
    if not final:
        raise SystemExit(f"The run in {options.run} has not ended: it has no final figures.")
    settings = read_json(options.run / "train_config.json")
    results = {
        "command": command_of(settings),
        "version": __version__,
        "commit": options.commit,
        "date": date.today().isoformat(),
        "device": options.device,
        "seed": settings["seed"],
        "settings": settings,
        "training_seconds": round(sum(line["seconds"] for line in epochs)),
        "loss_by_epoch": [round(line["loss"], 4) for line in epochs],
        "evaluations": [line for line in history if line["kind"] == "evaluation"],
        "final": final,
    }
    write_text(RESULTS / f"{options.name}.json", json.dumps(results, indent=1) + "\n")
    if options.figures_only:
        return
    DistilCLIP.from_pretrained(options.run).save_pretrained(FOLDER, text_weights=False)
    weights = load_file(FOLDER / "model.safetensors")
    halves = {name: tensor.to(torch.float16) for name, tensor in weights.items()}
    save_tensors(halves, FOLDER / "model.safetensors", {"format": "pt"})
    print((FOLDER / "model.safetensors").stat().st_size, "bytes of weights")


if __name__ == "__main__":
    main()
