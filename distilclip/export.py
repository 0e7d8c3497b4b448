"""A trained model without PyTorch: DistilCLIP goes in, two ONNX files come out.

Files for any runtime, a browser's too, also as 8-bit integers, and a class that
runs them where a `DistilCLIP` would run. Built in chapter 13.
"""

import contextlib
import json
import logging
import shutil
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from distilclip.model import DistilCLIP, DistilCLIPConfig
from distilclip.storage.files import read_json, write_text, write_whole
from distilclip.storage.pictures import (
    Pictures,
    in_a_list,
    normalise_pixels,
    pixels_of,
)
from distilclip.storage.weights import save_tokenizer
from distilclip.storage.words import with_words_of
from distilclip.text import in_batches
from distilclip.vit import evaluating

ONNX_PACKAGES = ("onnx", "onnxruntime", "onnxscript")


def require_onnx() -> None:
    """ImportError with one sentence where a package of the ONNX part is missing."""
    for name in ONNX_PACKAGES:
        try:
            __import__(name)
        except ImportError:
            raise ImportError(
                f"The ONNX part of distilclip needs the package {name}: "
                f"'pip install {' '.join(ONNX_PACKAGES)}'."
            ) from None


class ImageTower(nn.Module):
    """Becomes image.onnx: pixels in [0, 1] (B, 3, S, S) -> unit vectors (B, E).

    The normalisation is inside: whoever runs the file needs no constants of ours.
    """

    def __init__(self, model: DistilCLIP):
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> Tensor:
        mean, std = self.model.config.image_mean, self.model.config.image_std
        pixels = normalise_pixels(pixel_values, mean, std)
        return self.model.embed_image(pixels)


class TextTower(nn.Module):
    """Becomes text.onnx: token ids and mask (B, T) -> unit vectors (B, E)."""

    def __init__(self, model: DistilCLIP):
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.model.embed_text(input_ids, attention_mask)


@contextlib.contextmanager
def quiet_exporter() -> Iterator[None]:
    """No word from the exporter on what it skips, none of which concerns us."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def export_tower(
    tower: nn.Module,
    inputs: dict[str, Tensor],
    shapes: dict,
    output: str,
    file: Path,
) -> None:
    """Write one tower to an ONNX file, whole."""

    def write(path: Path) -> None:
        torch.onnx.export(
            tower.eval(),
            tuple(inputs.values()),
            path,
            input_names=list(inputs),
            output_names=[output],
            dynamic_shapes=shapes,
            opset_version=18,
            dynamo=True,
            external_data=False,
            verbose=False,
        )

    with quiet_exporter():
        write_whole(file, write)


def export_onnx(model: DistilCLIP, folder: str | Path) -> Path:
    """Write both towers as ONNX files, with all that a runtime needs beside them.

    - `image.onnx`: `pixel_values`, float32 (B, 3, S, S) in [0, 1] -> `image_embeds`
    - `text.onnx`: `input_ids` and `attention_mask`, int64 (B, T) -> `text_embeds`
    - `preprocess.json`: the model's configuration and the scale of the cosines
    - `tokenizer.json`: vocabulary and rules, as the library `tokenizers` reads them

    Both outputs are unit vectors (B, E); B and T are free. The model is exported in
    float32, as for inference, and left as it was. Raises ImportError where the
    packages are missing.
    """
    require_onnx()
    folder = Path(folder).expanduser()
    size, channels = model.config.vision.image_size, model.config.vision.in_channels
    tokens = model.tokenize(["two captions", "of different lengths, to be padded"])
    device, names = model.log_logit_scale.device, ("input_ids", "attention_mask")
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length", max=512)
    with evaluating(model):
        export_tower(
            ImageTower(model),
            {"pixel_values": torch.rand(2, channels, size, size, device=device)},
            {"pixel_values": {0: batch}},
            "image_embeds",
            folder / "image.onnx",
        )
        export_tower(
            TextTower(model),
            {name: tokens[name].to(device) for name in names},
            {name: {0: batch, 1: length} for name in names},
            "text_embeds",
            folder / "text.onnx",
        )
    save_tokenizer(model.text.tokenizer, folder)
    write_preprocessing(model, folder / "preprocess.json")
    return folder


def write_preprocessing(model: DistilCLIP, file: Path) -> None:
    """Say in a JSON file what a runtime must do before it runs the towers."""
    description = {
        "images": "the middle square, resized to image_size (bicubic), "
        "as floats in [0, 1]",
        "texts": "tokenizer.json, cut to max_text_length tokens",
        "logit_scale": model.logit_scale.item(),
        "config": asdict(model.config),
    }
    if hasattr(model.config, "preprocessing"):  # of another house: chapter 14
        description["images"] = "as config.preprocessing says, but in [0, 1]"
        description["texts"] = "tokenizer.json; SigLIP's in lower case, padded"
    write_text(file, json.dumps(description, indent=2))


def quantise_matrix(matrix: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """A float matrix as 8-bit integers, and one scale a column or a row.

    `axis` is 1 for columns, 0 for rows. integers * scales is the matrix, each
    number off by half a step at most; a step is the greatest absolute value of its
    column (or row) over 127.
    """
    greatest = np.abs(matrix).max(axis=1 - axis, keepdims=True)
    scales = (np.maximum(greatest, 1e-12) / 127).astype(np.float32)
    return np.round(matrix / scales).astype(np.int8), scales


def quantise_weights(source: Path, target: Path) -> None:
    """Write an ONNX file anew, its matrices and embeddings as 8-bit integers.

    Two nodes a matrix, a cast and a product with the scales, make it float again
    when the file is loaded. So the file is small, and the arithmetic as before.
    """
    import onnx
    from onnx import helper, numpy_helper

    graph = (model := onnx.load(source)).graph
    users: dict[str, set[str]] = {}
    for node in graph.node:
        for name in node.input:
            users.setdefault(name, set()).add(node.op_type)
    tensors, nodes, float32 = [], [], onnx.TensorProto.FLOAT
    for tensor in graph.initializer:
        kinds, matrix = users.get(tensor.name, set()), numpy_helper.to_array(tensor)
        is_large = matrix.ndim == 2 and matrix.size > 4096
        is_weight = is_large and matrix.dtype == np.float32
        if not is_weight or kinds not in ({"MatMul"}, {"Gather"}):
            tensors.append(tensor)
            continue
        axis = 0 if kinds == {"Gather"} else 1
        integers, scales = quantise_matrix(matrix, axis)
        names = [f"{tensor.name}_{part}" for part in ("int8", "scales", "cast")]
        tensors.append(numpy_helper.from_array(integers, names[0]))
        tensors.append(numpy_helper.from_array(scales, names[1]))
        nodes.append(helper.make_node("Cast", names[:1], names[2:], to=float32))
        nodes.append(helper.make_node("Mul", [names[2], names[1]], [tensor.name]))
    nodes.extend(graph.node)
    for field, values in ((graph.initializer, tensors), (graph.node, nodes)):
        del field[:]
        field.extend(values)
    onnx.save(model, target)


def find_onnx_folder(folder: str | Path) -> Path:
    """The folder, if `export_onnx` wrote it."""
    folder = Path(folder).expanduser()
    for name in ("image.onnx", "text.onnx", "preprocess.json", "tokenizer.json"):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"The folder {folder} has no file {name}: "
                "write it with export_onnx first."
            )
    return folder


def quantise_onnx(
    folder: str | Path, out: str | Path, activations: bool = True
) -> Path:
    """Write the files of `export_onnx` in 8-bit integers: a quarter of the size.

    The files, inputs and outputs keep their names. With `activations`, what flows
    between the layers is rounded as it comes by (dynamic quantisation) and
    multiplied as integers: fastest, and coarser. Without, only the weights are
    integers, in the file; the vectors then point where the float model's point
    (cosines of 0.999 for MiniLM), at its speed.
    """
    require_onnx()
    from onnxruntime.quantization import QuantType, quantize_dynamic

    folder, out = find_onnx_folder(folder), Path(out).expanduser()
    if out.resolve() == folder.resolve():
        raise ValueError(
            f"Choose another folder than {folder} for the 8-bit files."
        )
    for name in ("image.onnx", "text.onnx"):

        def write(path: Path, source: Path = folder / name) -> None:
            if not activations:
                return quantise_weights(source, path)
            # Weights of seven bits: on older CPUs, two products of 8 bits overflow.
            return quantize_dynamic(
                source,
                path,
                per_channel=True,
                weight_type=QuantType.QInt8,
                reduce_range=True,
            )

        with quiet_exporter():
            write_whole(out / name, write)
    for file in folder.glob("*.json"):
        write_whole(out / file.name, partial(shutil.copyfile, file))
    return out


class OnnxDistilCLIP:
    """The two ONNX files of a folder, run by onnxruntime.

    It encodes as a `DistilCLIP` does: `retrieval_metrics`, `zero_shot_classify` and
    `ImageIndex` take it in place of the model.
    """

    def __init__(self, folder: str | Path):
        require_onnx()
        import onnxruntime
        from tokenizers import Tokenizer

        folder = find_onnx_folder(folder)
        description = read_json(folder / "preprocess.json")
        if "kind" in description["config"]:
            raise ValueError(
                f"{folder} holds the towers of a {description['config']['kind']}: "
                "run them with onnxruntime, on inputs as preprocess.json says."
            )
        self.config = DistilCLIPConfig(**description["config"])
        self.logit_scale = torch.tensor(description["logit_scale"])
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        open_file = partial(
            onnxruntime.InferenceSession,
            sess_options=options,
            providers=["CPUExecutionProvider"],
        )
        self.image = open_file(folder / "image.onnx")
        self.text = open_file(folder / "text.onnx")
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.enable_truncation(self.config.max_text_length)
        self.tokenizer.enable_padding()

    def encode_image(self, images: Pictures, batch_size: int = 64) -> Tensor:
        """Pictures, as for `DistilCLIP.encode_image`, -> unit vectors (B, E)."""
        pictures, size = in_a_list(images), self.config.vision.image_size
        embeds = [torch.empty(0, self.config.embed_dim)]
        for start in range(0, len(pictures), batch_size):
            pixels = pixels_of(pictures[start : start + batch_size], size)
            pixels = pixels / 255 if pixels.dtype == torch.uint8 else pixels
            inputs = {"pixel_values": pixels.float().cpu().numpy()}
            embeds.append(torch.from_numpy(self.image.run(None, inputs)[0]))
        return torch.cat(embeds)

    def encode_text(
        self, texts: str | Sequence[str], batch_size: int = 64
    ) -> Tensor:
        """Strings -> unit vectors (B, E)."""
        texts = [texts] if isinstance(texts, str) else list(texts)
        embeds = torch.empty(len(texts), self.config.embed_dim)
        if not texts:
            return embeds
        encoded = self.tokenizer.encode_batch(with_words_of(texts, self.tokenizer))
        ids = [item.ids for item in encoded]
        masks = [item.attention_mask for item in encoded]
        tokens = {
            "input_ids": torch.tensor(ids),
            "attention_mask": torch.tensor(masks),
        }
        for chosen, batch in in_batches(tokens, batch_size, embeds.device):
            inputs = {name: values.numpy() for name, values in batch.items()}
            embeds[chosen] = torch.from_numpy(self.text.run(None, inputs)[0])
        return embeds
