"""Put a run's model into the package and its figures into the book (authors only).

    python tools/package_model.py runs/emoji "two cores of an Intel Xeon, no GPU"

Writes the image side and the projections, in float16, to distilclip/emoji/model/, and the run's
command, curves and figures to book/results/emoji_cpu.json.
"""

import json
import sys
import tomllib
from datetime import date
from pathlib import Path

import torch
from safetensors.torch import load_file

from distilclip import DistilCLIP
from distilclip.files import save_tensors, write_text

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "distilclip" / "emoji" / "model"


def main() -> None:
    run, device = Path(sys.argv[1]), sys.argv[2]
    DistilCLIP.from_pretrained(run).save_pretrained(FOLDER, text_weights=False)
    weights = load_file(FOLDER / "model.safetensors")
    halves = {name: tensor.to(torch.float16) for name, tensor in weights.items()}
    save_tensors(halves, FOLDER / "model.safetensors", {"format": "pt"})

    history = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    epochs = [line for line in history if line["kind"] == "epoch"]
    settings = json.loads((run / "train_config.json").read_text())
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    results = {
        "command": "distilclip train --data emoji --preset cpu",
        "version": version,
        "date": date.today().isoformat(),
        "device": device,
        "seed": settings["seed"],
        "settings": settings,
        "training_seconds": round(sum(line["seconds"] for line in epochs)),
        "loss_by_epoch": [round(line["loss"], 4) for line in epochs],
        "final": [line for line in history if line["kind"] == "final"],
    }
    write_text(ROOT / "book" / "results" / "emoji_cpu.json", json.dumps(results, indent=1))
    print((FOLDER / "model.safetensors").stat().st_size, "bytes of weights")


if __name__ == "__main__":
    main()
