"""What a model's other forms cost and keep: PyTorch, ONNX, 8-bit weights, 8 bits everywhere.

    python benchmarks/exported_forms.py --device-name "two cores of an Intel Xeon"
    python benchmarks/exported_forms.py --model runs/emoji --split test_concepts

For each form of the model: the size of its files, milliseconds for one caption and a caption in
a batch of 64, and the same for pictures (medians), the greatest difference from PyTorch's vectors
and their mean cosine, and the recall over a whole split of `emoji`, every caption a query. Writes
distilclip/book/results/exported_forms.json.
"""

import argparse
import json
import platform
import statistics
import tempfile
import time
from datetime import date
from pathlib import Path

import onnxruntime
import torch

from distilclip import DistilCLIP, load_pairs, retrieval_metrics
from distilclip.book.stored import RESULTS
from distilclip.data import decode_pixels
from distilclip.export import OnnxDistilCLIP, export_onnx, quantise_onnx
from distilclip.search import flatten_captions
from distilclip.storage.files import write_text

OUT = RESULTS / "exported_forms.json"


def milliseconds(run, items, batch: int, repeats: int) -> float:
    """Median milliseconds an item of `run` on batches of `batch`, after one to warm up."""
    run(items[:batch])
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        run(items[:batch])
        seconds.append(time.perf_counter() - start)
    return 1000 * statistics.median(seconds) / batch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="emoji")
    parser.add_argument("--split", default="test")
    parser.add_argument("--device-name", default=platform.processor() or "unknown")
    options = parser.parse_args()
    model = DistilCLIP.from_pretrained(options.model)
    rows = load_pairs("emoji")[options.split]
    texts, owners = flatten_captions(rows["captions"])
    pixels = decode_pixels(rows, model.config.vision.image_size, progress=False)
    lines = []
    with tempfile.TemporaryDirectory() as place:
        folders = {"ONNX, float32": export_onnx(model, Path(place) / "float32")}
        for name, activations in (("8-bit weights", False), ("8 bits everywhere", True)):
            folders[name] = quantise_onnx(folders["ONNX, float32"], Path(place) / name, activations)
        forms = {"PyTorch": model} | {n: OnnxDistilCLIP(f) for n, f in folders.items()}
        for name, form in forms.items():
            images, captions = form.encode_image(pixels), form.encode_text(texts)
            if name == "PyTorch":
                expected = torch.cat([images, captions])
            ours = torch.cat([images, captions])
            towers = [folders[name] / f"{x}.onnx" for x in ("image", "text") if name in folders]
            size = sum(file.stat().st_size for file in towers)
            lines.append(
                {
                    "form": name,
                    "megabytes": round(size / 1e6, 1) or None,
                    "ms_one_caption": milliseconds(form.encode_text, texts, 1, 30),
                    "ms_caption_of_64": milliseconds(form.encode_text, texts, 64, 5),
                    "ms_one_picture": milliseconds(form.encode_image, pixels, 1, 30),
                    "ms_picture_of_64": milliseconds(form.encode_image, pixels, 64, 5),
                    "greatest_difference": (ours - expected).abs().max().item(),
                    "mean_cosine": (ours * expected).sum(dim=1).mean().item(),
                    **retrieval_metrics(images, captions, owners, texts=texts),
                }
            )
            print(json.dumps(lines[-1]), flush=True)
    write_text(
        OUT,
        json.dumps(
            {
                "command": f"python benchmarks/exported_forms.py --model {options.model} "
                f"--split {options.split}",
                "date": date.today().isoformat(),
                "device": options.device_name,
                "threads": torch.get_num_threads(),
                "versions": {"torch": torch.__version__, "onnxruntime": onnxruntime.__version__},
                "forms": lines,
            },
            indent=1,
        ),
    )


if __name__ == "__main__":
    main()
