"""Does the model know which thing has which colour? Four ways to train on `scenes`, compared.

    python benchmarks/binding.py --device-name "one core of an Intel Xeon"
    python benchmarks/binding.py --seeds 0 1 2 --steps 1500

Every run trains the same small model on the same drawings with the same seed and number of steps.
They differ in two things: whether the frozen text features are whitened first, and whether each
picture also meets its own caption with the colours exchanged. On the way each run is asked to
choose between right and false captions of drawings that it has not seen. Curves go to
distilclip/book/results/binding.json at once; a run that is there already is not made again, so the
command can be stopped at any time and given again.
"""

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
from datetime import date
from pathlib import Path

import torch
from torch import Tensor

from distilclip import DistilCLIP, DistilCLIPConfig, ViTConfig
from distilclip.book.stored import RESULTS
from distilclip.data import TrainingPairs
from distilclip.explain import (
    choice_accuracy,
    false_captions,
    probe_accuracy,
    scene_captions,
    swap_colours,
    swap_is_fair,
    train_on_scenes,
    whitening,
)
from distilclip.sources.scenes import COLOURS, draw_scenes
from distilclip.storage.files import write_text
from distilclip.storage.pictures import pixels_of
from distilclip.text import TextEncoder

ROOT = Path(__file__).parents[1]
SIZE = 48
VARIANTS = {  # name: (whitened features, false captions)
    "contrastive": (False, False),
    "contrastive, swapped captions": (False, True),
    "whitened": (True, False),
    "whitened, swapped captions": (True, True),
}


def small_model(text: TextEncoder, seed: int) -> DistilCLIP:
    """The same starting weights for every run of a seed."""
    torch.manual_seed(seed)
    vision = ViTConfig(image_size=SIZE, patch_size=12, dim=128, depth=2, num_heads=2)
    config = DistilCLIPConfig(vision=vision, text_model="minilm", image_pool="mean", embed_dim=128)
    return DistilCLIP(config, text)


def ask(scenes: list[dict], text: TextEncoder) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Pixels, text features of the right captions, and of each kind of false ones."""
    scenes = [scene for scene in scenes if swap_is_fair(scene_captions(scene)[0])]
    false = [false_captions(scene) for scene in scenes]
    return (
        pixels_of([scene["image"] for scene in scenes], SIZE),
        text.encode([scene_captions(scene)[0] for scene in scenes]),
        {kind: text.encode([texts[kind] for texts in false]) for kind in false[0]},
    )


@torch.no_grad()
def answer(model: DistilCLIP, asked: tuple, matrix: Tensor) -> dict[str, float]:
    """How often the right caption is chosen, for each kind of false caption."""
    pixels, right, false = asked
    images, texts = model.encode_image(pixels), model.embed_text_features(right @ matrix)
    return {
        kind: round(choice_accuracy(images, texts, model.embed_text_features(f @ matrix)), 4)
        for kind, f in false.items()
    }


@torch.no_grad()
def colour_on_the_left(model: DistilCLIP, scenes: list[dict]) -> tuple[Tensor, Tensor]:
    """Pooled image features of the drawings that lie side by side, and the left thing's colour."""
    scenes = [scene for scene in scenes if scene["relation"] == "left of"]
    pixels = model.normalise(pixels_of([scene["image"] for scene in scenes], SIZE))
    features = model.vision(pixels)[:, int(model.config.vision.cls_token) :].mean(dim=1)
    names = list(COLOURS)
    return features, torch.tensor([names.index(s["first"].split()[1]) for s in scenes])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--scenes", type=int, default=3000, help="drawings to train on")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--device-name", default="", help="the machine, in words")
    parser.add_argument("--out", type=Path, default=RESULTS / "binding.json")
    options = parser.parse_args()
    settings = {"steps": options.steps, "scenes": options.scenes}
    results = {"settings": settings, "runs": []}
    if options.out.is_file():
        results = json.loads(options.out.read_text())
        if results["settings"] != settings:
            raise SystemExit(
                f"{options.out} was measured with {results['settings']}: remove it, or give --out."
            )
    text = TextEncoder.from_pretrained("minilm").requires_grad_(False)
    scenes = draw_scenes(options.scenes, "binding/train")
    pixels = pixels_of([scene["image"] for scene in scenes], SIZE)
    pairs = TrainingPairs(pixels, [scene_captions(scene) for scene in scenes])
    right = text.encode(pairs.captions)
    false = text.encode([swap_colours(caption) for caption in pairs.captions])
    fair = torch.tensor([swap_is_fair(caption) for caption in pairs.captions])
    questions = {
        "test": ask(draw_scenes(1600, "binding/test"), text),
        "unseen pairs": ask(draw_scenes(1600, "binding/unseen", held_out=True), text),
    }
    to_probe = draw_scenes(2400, "binding/probe")
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=ROOT)

    for seed in options.seeds:
        for name, (is_whitened, has_false) in VARIANTS.items():
            if (name, seed) in [(run["variant"], run["seed"]) for run in results["runs"]]:
                continue
            print(f"{name}, seed {seed}", flush=True)
            model = small_model(text, seed)
            matrix = whitening(right) if is_whitened else torch.eye(right.shape[1])
            curve = []

            def watch(step: int, model=model, matrix=matrix, curve=curve) -> None:
                if step == 1 or step % 100 == 0 or step == options.steps:
                    line = {"step": step}
                    for split, asked in questions.items():
                        line[split] = answer(model, asked, matrix)
                    curve.append(line)
                    print(line, flush=True)

            probes = {"before": probe_accuracy(*colour_on_the_left(model, to_probe))}
            arguments = (false @ matrix, fair) if has_false else (None, None)
            losses = train_on_scenes(
                model, pairs, right @ matrix, *arguments, options.steps, seed=seed, watch=watch
            )
            probes["after"] = probe_accuracy(*colour_on_the_left(model, to_probe))
            results["runs"].append(
                {
                    "variant": name,
                    "seed": seed,
                    "asked": {split: len(asked[0]) for split, asked in questions.items()},
                    "curve": curve,
                    "last_100_losses": round(sum(losses[-100:]) / len(losses[-100:]), 4),
                    "image_probe": {when: round(value, 4) for when, value in probes.items()},
                    "device": options.device_name or f"a {platform.machine()} CPU",
                    "threads": torch.get_num_threads(),
                    "torch": torch.__version__,
                    "commit": commit.stdout.strip(),
                    "date": date.today().isoformat(),
                    "command": shlex.join(["python", "benchmarks/binding.py", *sys.argv[1:]]),
                }
            )
            write_text(options.out, json.dumps(results, indent=1))


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
