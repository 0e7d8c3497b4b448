"""A trained model leaves home: DistilCLIP goes in, files that other programs can run come out.

ONNX files for any runtime, also as 8-bit integers; classes with which `transformers` loads our
folders; a model card made from a run's own figures; a repository on the Hugging Face Hub. Built
in chapter 12.
"""

import contextlib
import json
import logging
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields
from pathlib import Path

import numpy as np
import torch
import transformers
from huggingface_hub import CommitOperationAdd, HfApi, snapshot_download
from huggingface_hub.errors import HFValidationError, HTTPError
from huggingface_hub.repocard_data import EvalResult, ModelCardData
from PIL import Image
from torch import Tensor, nn
from transformers.image_transforms import to_pil_image
from transformers.image_utils import make_flat_list_of_images

from distilclip.data import HUB_SOURCES, normalise_pixels, pixels_of
from distilclip.files import save_tokenizer, write_text, write_whole
from distilclip.hub import find_file, looks_like_hub_id, network_is_missing
from distilclip.model import DistilCLIP, DistilCLIPConfig, DistilCLIPOutput
from distilclip.text import MINILM_HUB_ID, _resolve_text_name, in_batches

USAGE = """## Use

```python
from distilclip import DistilCLIP

model = DistilCLIP.from_pretrained("{name}")
scores = model.encode_text("a smiling cat") @ model.encode_image(picture).T
```

or with `transformers`:

```python
from distilclip.share import register_with_transformers
from transformers import pipeline

register_with_transformers()
classify = pipeline("zero-shot-image-classification", model="{name}")
classify(picture, candidate_labels=["a cat", "a dog"])
```"""

ONNX_PACKAGES = ("onnx", "onnxruntime", "onnxscript")


class ImageTower(nn.Module):
    """What becomes image.onnx: pixels in [0, 1] (B, 3, S, S) -> unit vectors (B, E).

    The normalisation is inside, so that who runs the file needs no constants of ours.
    """

    def __init__(self, model: DistilCLIP):
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> Tensor:
        config = self.model.config
        return self.model.embed_image(
            normalise_pixels(pixel_values, config.image_mean, config.image_std)
        )


class TextTower(nn.Module):
    """What becomes text.onnx: token ids and mask (B, T) -> unit vectors (B, E)."""

    def __init__(self, model: DistilCLIP):
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.model.embed_text(input_ids, attention_mask)


def export_onnx(model: DistilCLIP, folder: str | Path) -> Path:
    """Write both towers as ONNX files, with all that a runtime needs beside them.

    - `image.onnx`: `pixel_values`, float32 (B, 3, S, S) in [0, 1] -> `image_embeds` (B, E).
    - `text.onnx`: `input_ids` and `attention_mask`, int64 (B, T) -> `text_embeds` (B, E).
    - `preprocess.json`: the model's configuration and the scale of the cosines.
    - `tokenizer.json`: the vocabulary and rules, as the library `tokenizers` reads them.

    Both outputs are unit vectors; B and T are free. The model is exported as for inference, in
    float32; it is itself left as it was. Raises ImportError where the packages are missing.
    """
    _require_onnx()
    folder = Path(folder).expanduser()
    size, channels = model.config.vision.image_size, model.config.vision.in_channels
    tokens = model.tokenize(["two captions", "of different lengths, to be padded"])
    device = model.log_logit_scale.device
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length", max=512)
    was_training = model.training
    model.eval()
    try:
        _export_tower(
            ImageTower(model),
            {"pixel_values": torch.rand(2, channels, size, size, device=device)},
            {"pixel_values": {0: batch}},
            "image_embeds",
            folder / "image.onnx",
        )
        _export_tower(
            TextTower(model),
            {name: tokens[name].to(device) for name in ("input_ids", "attention_mask")},
            {name: {0: batch, 1: length} for name in ("input_ids", "attention_mask")},
            "text_embeds",
            folder / "text.onnx",
        )
    finally:
        model.train(was_training)
    save_tokenizer(model.text.tokenizer, folder)
    description = {
        "images": "the middle square, resized to image_size (bicubic), as floats in [0, 1]",
        "texts": "tokenizer.json, cut to max_text_length tokens",
        "logit_scale": model.logit_scale.item(),
        "config": asdict(model.config),
    }
    write_text(folder / "preprocess.json", json.dumps(description, indent=2))
    return folder


def quantise_matrix(matrix: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """A float matrix as 8-bit integers and one scale a column (`axis` 1) or a row (`axis` 0).

    integers * scales is the matrix, each number off by half a step at most; a step is the
    greatest absolute value of its column (or row) over 127.
    """
    greatest = np.abs(matrix).max(axis=1 - axis, keepdims=True)
    scales = (np.maximum(greatest, 1e-12) / 127).astype(np.float32)
    return np.round(matrix / scales).astype(np.int8), scales


def quantise_weights(source: Path, target: Path) -> None:
    """Write an ONNX file once more with its matrices and embeddings as 8-bit integers.

    Two nodes a matrix, a cast and a product with the scales, make it float again when the file
    is loaded. So the file is small, and the arithmetic is the old one.
    """
    import onnx
    from onnx import helper, numpy_helper

    graph = (model := onnx.load(source)).graph
    users: dict[str, set[str]] = {}
    for node in graph.node:
        for name in node.input:
            users.setdefault(name, set()).add(node.op_type)
    tensors, nodes = [], []
    for tensor in graph.initializer:
        kinds, matrix = users.get(tensor.name, set()), numpy_helper.to_array(tensor)
        is_weight = matrix.ndim == 2 and matrix.dtype == np.float32 and matrix.size > 4096
        if not is_weight or kinds not in ({"MatMul"}, {"Gather"}):
            tensors.append(tensor)
            continue
        integers, scales = quantise_matrix(matrix, axis=0 if kinds == {"Gather"} else 1)
        names = [f"{tensor.name}_{part}" for part in ("int8", "scales", "cast")]
        tensors.append(numpy_helper.from_array(integers, names[0]))
        tensors.append(numpy_helper.from_array(scales, names[1]))
        nodes.append(helper.make_node("Cast", names[:1], names[2:], to=onnx.TensorProto.FLOAT))
        nodes.append(helper.make_node("Mul", [names[2], names[1]], [tensor.name]))
    nodes.extend(graph.node)
    for field, values in ((graph.initializer, tensors), (graph.node, nodes)):
        del field[:]
        field.extend(values)
    onnx.save(model, target)


def quantise_onnx(folder: str | Path, out: str | Path, activations: bool = True) -> Path:
    """Write what `export_onnx` wrote once more, in 8-bit integers: a quarter of the size.

    The files, inputs and outputs keep their names. With `activations`, what flows between the
    layers is rounded as it comes by (dynamic quantisation) and multiplied as integers: fastest,
    and coarser. Without, only the weights are integers, in the file; the vectors then point
    where the float model's point (cosines of 0.999 for MiniLM), at its speed.
    """
    _require_onnx()
    from onnxruntime.quantization import QuantType, quantize_dynamic

    folder, out = _onnx_folder(folder), Path(out).expanduser()
    if out.resolve() == folder.resolve():
        raise ValueError(f"Choose another folder than {folder} for the 8-bit files.")
    for name in ("image.onnx", "text.onnx"):

        def write(path: Path, source: Path = folder / name) -> None:
            if not activations:
                return quantise_weights(source, path)
            # Seven bits for weights: on older CPUs a sum of two 8-bit products overflows.
            return quantize_dynamic(
                source, path, per_channel=True, weight_type=QuantType.QInt8, reduce_range=True
            )

        with _quiet():
            write_whole(out / name, write)
    for file in folder.glob("*.json"):
        write_whole(out / file.name, lambda path, file=file: shutil.copyfile(file, path))
    return out


class OnnxDistilCLIP:
    """The two ONNX files of a folder, run by onnxruntime; it encodes as a `DistilCLIP` does.

    `retrieval_metrics`, `zero_shot_classify` and `ImageIndex` take it in place of the model.
    """

    def __init__(self, folder: str | Path):
        _require_onnx()
        import onnxruntime
        from tokenizers import Tokenizer

        folder = _onnx_folder(folder)
        description = json.loads((folder / "preprocess.json").read_text())
        self.config = DistilCLIPConfig(**description["config"])
        self.logit_scale = torch.tensor(description["logit_scale"])
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        providers = ["CPUExecutionProvider"]
        self.image, self.text = (
            onnxruntime.InferenceSession(folder / name, options, providers=providers)
            for name in ("image.onnx", "text.onnx")
        )
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.enable_truncation(self.config.max_text_length)
        self.tokenizer.enable_padding()

    def encode_image(
        self, images: Tensor | Sequence[Image.Image] | Image.Image, batch_size: int = 64
    ) -> Tensor:
        """PIL images, or a uint8 tensor (B, 3, S, S), -> unit vectors (B, E)."""
        if isinstance(images, Image.Image):
            images = [images]
        embeds = [torch.empty(0, self.config.embed_dim)]
        for start in range(0, len(images), batch_size):
            pixels = images[start : start + batch_size]
            if not isinstance(pixels, Tensor):
                pixels = pixels_of(pixels, self.config.vision.image_size)
            inputs = {"pixel_values": (pixels.float() / 255).numpy()}
            embeds.append(torch.from_numpy(self.image.run(None, inputs)[0]))
        return torch.cat(embeds)

    def encode_text(self, texts: str | Sequence[str], batch_size: int = 64) -> Tensor:
        """Strings -> unit vectors (B, E)."""
        texts = [texts] if isinstance(texts, str) else list(texts)
        embeds = torch.empty(len(texts), self.config.embed_dim)
        if not texts:
            return embeds
        encoded = self.tokenizer.encode_batch(texts)
        tokens = {
            "input_ids": torch.tensor([item.ids for item in encoded]),
            "attention_mask": torch.tensor([item.attention_mask for item in encoded]),
        }
        for chosen, batch in in_batches(tokens, batch_size, embeds.device):
            inputs = {name: ids.numpy() for name, ids in batch.items()}
            embeds[chosen] = torch.from_numpy(self.text.run(None, inputs)[0])
        return embeds


class DistilCLIPModelConfig(transformers.PreTrainedConfig):
    """A folder's config.json as `transformers` wants it: the fields of `DistilCLIPConfig`."""

    model_type = "distilclip"

    def __init__(self, **settings):
        ours = asdict(DistilCLIPConfig())
        ours |= {name: settings.pop(name) for name in ours if name in settings}
        text_config = settings.pop("text_config", None)
        super().__init__(**settings)
        for name, value in ours.items():
            setattr(self, name, value)
        self.text_config = text_config and transformers.DistilBertConfig.from_dict(text_config)

    def to_distilclip(self) -> DistilCLIPConfig:
        """The same settings as our own dataclass."""
        names = [field.name for field in fields(DistilCLIPConfig)]
        return DistilCLIPConfig(**{name: getattr(self, name) for name in names})

    def save_pretrained(self, folder: str | Path, **unused) -> None:
        """Write config.json as `DistilCLIP` does; `transformers` adds what is not a model's."""
        description = {
            "model_type": self.model_type,
            **asdict(self.to_distilclip()),
            "text_config": self.text_config and self.text_config.to_dict(),
        }
        write_text(Path(folder) / "config.json", json.dumps(description, indent=2))


class DistilCLIPModel(transformers.PreTrainedModel):
    """A `DistilCLIP` in the clothes of `transformers`: the same weights, the same numbers.

    `model` is the `DistilCLIP` itself. `from_pretrained` and `save_pretrained` are ours, so a
    folder without text weights works, too.
    """

    config_class = DistilCLIPModelConfig
    main_input_name = "pixel_values"

    def __init__(self, config: DistilCLIPModelConfig, model: DistilCLIP | None = None):
        super().__init__(config)
        self.model = model or DistilCLIP(config.to_distilclip())

    def forward(
        self, pixel_values: Tensor, input_ids: Tensor, attention_mask: Tensor, **unused
    ) -> DistilCLIPOutput:
        """As `DistilCLIP.forward`; captions that are too long are cut to the model's length.

        `unused` swallows what tokenizers and pipelines hand to every model, such as
        `token_type_ids`: a DistilBERT has none.
        """
        limit = self.config.max_text_length
        return self.model(pixel_values, *cut_tokens(input_ids, attention_mask, limit))

    @classmethod
    def from_pretrained(cls, name, *args, config=None, dtype=None, **settings):
        """Load a folder or a Hub id that `save_pretrained` wrote; `dtype` as elsewhere."""
        refused = ("device_map", "quantization_config", "attn_implementation")
        for key in refused:
            if settings.get(key) is not None:
                raise ValueError(f"DistilCLIPModel.from_pretrained does not know {key}.")
        if not Path(name).is_dir():
            keys = ("revision", "token", "cache_dir", "local_files_only")
            name = snapshot_download(
                str(name),
                allow_patterns=["*.json", "*.safetensors"],
                **{key: settings[key] for key in keys if key in settings},
            )
        model = DistilCLIP.from_pretrained(name)
        wrapped = cls(config or DistilCLIPModelConfig.from_pretrained(name), model)
        return wrapped.eval() if dtype in (None, "auto") else wrapped.eval().to(dtype)

    def save_pretrained(self, folder: str | Path, **unused) -> None:
        """As `DistilCLIP.save_pretrained`: safetensors, JSON, the tokenizer."""
        self.model.save_pretrained(folder)


def cut_tokens(input_ids: Tensor, attention_mask: Tensor, limit: int) -> tuple[Tensor, Tensor]:
    """Token ids and mask (B, T), cut to `limit` as a tokenizer cuts: [SEP] stays last."""
    lengths = attention_mask.sum(dim=1, keepdim=True)
    last = input_ids.gather(1, lengths - 1)
    ids, mask = input_ids[:, :limit].clone(), attention_mask[:, :limit]
    ids[:, -1:] = torch.where(lengths > ids.shape[1], last, ids[:, -1:])
    return ids, mask


class DistilCLIPImageProcessor(transformers.BaseImageProcessor):
    """Pictures -> `pixel_values` (B, 3, S, S), by the very functions that the model was made with.

    The middle square, resized (bicubic) to `image_size`, less `image_mean`, over `image_std`.
    """

    model_input_names: Sequence[str] = ("pixel_values",)

    def __init__(
        self,
        image_size: int = 224,
        image_mean: Sequence[float] = (0.5, 0.5, 0.5),
        image_std: Sequence[float] = (0.5, 0.5, 0.5),
        **settings,
    ):
        super().__init__(**settings)
        self.image_size = image_size
        self.image_mean, self.image_std = list(image_mean), list(image_std)

    def preprocess(self, images, return_tensors: str | None = None, **unused):
        """PIL images, arrays, or addresses of pictures, one or several."""
        pictures = make_flat_list_of_images(self.fetch_images(images))
        pictures = [x if isinstance(x, Image.Image) else to_pil_image(x) for x in pictures]
        pixels = pixels_of(pictures, self.image_size)
        pixels = normalise_pixels(pixels, self.image_mean, self.image_std)
        return transformers.BatchFeature({"pixel_values": pixels}, tensor_type=return_tensors)


class DistilCLIPTokenizer(transformers.PreTrainedTokenizerFast):
    """The tokenizer of a folder; where it holds none, that of the text encoder that it names."""

    @classmethod
    def from_pretrained(cls, name, *args, **settings):
        try:
            find_file(name, "tokenizer_config.json")
        except FileNotFoundError:
            config = json.loads(find_file(name, "config.json").read_text())
            source, _ = _resolve_text_name(config["text_model"])
            return transformers.AutoTokenizer.from_pretrained(source)
        return super().from_pretrained(name, *args, **settings)


class DistilCLIPProcessor(transformers.ProcessorMixin):
    """Image processor and tokenizer in one, as `AutoProcessor` returns it."""

    def __init__(self, image_processor=None, tokenizer=None, **settings):
        super().__init__(image_processor, tokenizer, **settings)

    def __call__(self, images=None, text=None, **settings):
        """Pictures, texts, or both -> tensors, the texts padded to the longest."""
        settings = {"padding": True, "return_tensors": "pt"} | settings
        inputs = {}
        if text is not None:
            inputs.update(self.tokenizer(text, **settings))
        if images is not None:
            inputs.update(self.image_processor(images, settings["return_tensors"]))
        return transformers.BatchFeature(inputs)


def register_with_transformers() -> None:
    """Teach `AutoModel`, `AutoProcessor` and `pipeline` to read folders of ours.

    After this call, in this process, they know the model type "distilclip": no code is fetched
    from anywhere, and `trust_remote_code` is not needed.
    """
    config = DistilCLIPModelConfig
    transformers.AutoConfig.register(config.model_type, config, exist_ok=True)
    for auto_class, ours in (
        (transformers.AutoModel, DistilCLIPModel),
        (transformers.AutoModelForZeroShotImageClassification, DistilCLIPModel),
        (transformers.AutoTokenizer, DistilCLIPTokenizer),
        (transformers.AutoImageProcessor, DistilCLIPImageProcessor),
        (transformers.AutoProcessor, DistilCLIPProcessor),
    ):
        auto_class.register(config, ours, exist_ok=True)


def model_card(run_folder: str | Path, name: str = "DistilCLIP", license: str | None = None) -> str:
    """The README.md of a model on the Hub: metadata as YAML, then what the run itself recorded.

    Read from `config.json`, `train_config.json` and `metrics.jsonl` in `run_folder`; what is not
    recorded there is not said. `name` is the repository's id, `license` one of the Hub's short
    names ("mit"); without one the card names none.
    """
    folder = Path(run_folder).expanduser()
    model = json.loads(find_file(folder, "config.json").read_text())
    settings, epochs, finals = read_run(folder)
    data = _known_source(settings.get("data"))
    pretrained = [_known_source(model.get(part)) for part in ("text_model", "vision_model")]
    title = name.split("/")[-1]
    results = [
        EvalResult(
            task_type="image-text-retrieval",
            dataset_type=data or "private",
            dataset_name=data or "pictures of the author's own",
            dataset_split=split,
            metric_type="recall",
            metric_name=_metric_title(metric),
            metric_value=round(value, 4),
        )
        for split, scores in finals.items()
        for metric, value in scores.items()
    ]
    metadata = ModelCardData(
        license=license,
        library_name="distilclip",
        pipeline_tag="zero-shot-image-classification",
        tags=["clip", "contrastive", "image-text-retrieval"],
        base_model=[source for source in pretrained if source] or None,
        datasets=[data] if data and "/" in data else None,
        model_name=title if results else None,
        eval_results=results or None,
    )
    parts = [f"---\n{metadata.to_yaml()}\n---\n\n# {title}", _describe_model(model)]
    if settings:
        parts.append(_describe_training(settings, epochs))
    parts += [_describe_results(finals), USAGE.replace("{name}", name)]
    return "\n\n".join(parts)


def read_run(folder: Path) -> tuple[dict, list[dict], dict[str, dict[str, float]]]:
    """What a run recorded: its settings, its epochs, and each split's last recalls.

    All empty for a folder that holds a model only.
    """
    settings, lines = {}, []
    if (folder / "train_config.json").is_file():
        settings = json.loads((folder / "train_config.json").read_text())
    if (folder / "metrics.jsonl").is_file():
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    finals = {
        line["split"]: {key: line[key] for key in line if key.startswith(("t2i_r", "i2t_r"))}
        for line in lines
        if line.get("kind") == "final"
    }
    return settings, [line for line in lines if line.get("kind") == "epoch"], finals


def push_to_hub(
    model: DistilCLIP,
    repo_id: str,
    run_folder: str | Path | None = None,
    private: bool = False,
    license: str | None = None,
    text_weights: bool = True,
    token: str | None = None,
) -> str:
    """Put a model and its card on the Hugging Face Hub, in one commit -> the commit's address.

    The card tells what `run_folder` recorded. `text_weights=False` leaves out a text encoder
    that everyone can fetch by its name. Raises ValueError for a name that the Hub does not
    allow, PermissionError where it wants another token, ConnectionError where it cannot be
    reached; then nothing was uploaded.
    """
    with tempfile.TemporaryDirectory() as place:
        model.save_pretrained(place, text_weights)
        card = model_card(run_folder or place, repo_id, license)
        write_text(Path(place) / "README.md", card)
        api = HfApi(token=token)
        try:
            if network_is_missing():
                raise ConnectionError("no network")
            api.create_repo(repo_id, private=private, exist_ok=True)
            # upload_folder may spread a folder over several commits; this is one, or none.
            files = [CommitOperationAdd(x.name, x) for x in sorted(Path(place).iterdir())]
            commit = api.create_commit(repo_id, files, commit_message="A DistilCLIP model")
        except HFValidationError:
            raise ValueError(
                f"{repo_id!r} is no name for a repository: give 'owner/name', of letters, digits, "
                "'-', '_' and '.'."
            ) from None
        except (HTTPError, OSError, RuntimeError) as error:  # RuntimeError: hf_xet
            raise _hub_refusal(repo_id, error) from None
    return commit.commit_url


def _require_onnx() -> None:
    """ImportError with one sentence where a package of the ONNX part is missing."""
    for name in ONNX_PACKAGES:
        try:
            __import__(name)
        except ImportError:
            raise ImportError(
                f"The ONNX part of distilclip needs the package {name}: "
                f"'pip install {' '.join(ONNX_PACKAGES)}'."
            ) from None


def _known_source(name: str | None) -> str | None:
    """What a card may call a data set or a model: a name of ours or of the Hub, never a path."""
    names = {"minilm": MINILM_HUB_ID, **HUB_SOURCES}
    if name is None or name in ("emoji", "scenes") or name in names:
        return names.get(name, name)
    is_path = Path(name).expanduser().exists() or not looks_like_hub_id(name)
    return None if is_path else name


def _metric_title(metric: str) -> str:
    """ "t2i_r10" -> "text to image R@10"."""
    direction, k = metric.split("_r")
    return f"{'text to image' if direction == 't2i' else 'image to text'} R@{k}"


def _describe_model(model: dict) -> str:
    """A paragraph on the two encoders, from a model's config.json."""
    vision = model["vision"]
    eyes = _known_source(model.get("vision_model"))
    text = _known_source(model["text_model"]) or "a checkpoint of the author's own"
    return (
        f"Two encoders, one space of {model['embed_dim']} dimensions. A Vision Transformer "
        f"({f'started from {eyes}' if eyes else 'from scratch'}; {vision['depth']} layers, "
        f"{vision['dim']} channels, patches of {vision['patch_size']} pixels) sees pictures of "
        f"{vision['image_size']}×{vision['image_size']} pixels; a DistilBERT ({text}) reads "
        f"captions of up to {model['max_text_length']} tokens. The cosine of the two vectors says "
        "how well a picture and a sentence fit."
    )


def _describe_training(settings: dict, epochs: list[dict]) -> str:
    """The section on training, from the settings and the epochs that the run recorded."""
    data = _known_source(settings.get("data")) or "pictures of the author's own"
    rows = [("data", data)]
    names = ("preset", "seed", "batch_size", "lr", "text_lr", "weight_decay", "augmentation")
    rows += [(name, settings[name]) for name in names if name in settings]
    if epochs:
        rows.append(("epochs", epochs[-1]["epoch"]))
        rows.append(("loss of the last epoch", f"{epochs[-1]['loss']:.3f}"))
        rows.append(("minutes of training", f"{sum(e['seconds'] for e in epochs) / 60:.1f}"))
    lines = [f"| {name} | {value} |" for name, value in rows]
    return "\n".join(["## Training", "", "| | |", "| --- | --- |", *lines])


def _describe_results(finals: dict[str, dict[str, float]]) -> str:
    """The section on results: a table of recalls, or that none were recorded."""
    if not finals:
        return "## Results\n\nNo evaluation is recorded."
    metrics = list(next(iter(finals.values())))
    lines = [
        f"| split | {' | '.join(_metric_title(metric) for metric in metrics)} |",
        "| --- |" + " --- |" * len(metrics),
    ]
    for split, scores in finals.items():
        cells = [f"{100 * scores[metric]:.1f} %" if metric in scores else "" for metric in metrics]
        lines.append(f"| {split} | {' | '.join(cells)} |")
    return "\n".join(
        [
            "## Results",
            "",
            "Recall at k over the whole split: how often the right one is among the first k.",
            "",
            *lines,
        ]
    )


def _hub_refusal(repo_id: str, error: Exception) -> OSError:
    """What to tell someone whose upload to the Hub failed."""
    response = getattr(error, "response", None)
    if response is None:
        return ConnectionError(
            f"Cannot push to {repo_id}: the Hugging Face Hub cannot be reached "
            f"({type(error).__name__}). Nothing was uploaded; check the network and try again."
        )
    if response.status_code in (401, 403):
        return PermissionError(
            f"The Hugging Face Hub does not let you write to {repo_id}: log in with 'hf auth "
            "login', or give a token that may write. Nothing was uploaded."
        )
    return ConnectionError(
        f"The Hugging Face Hub answered {response.status_code} to the upload to {repo_id}. "
        "Nothing was uploaded; try again later."
    )


def _onnx_folder(folder: str | Path) -> Path:
    """The folder, if `export_onnx` wrote it."""
    folder = Path(folder).expanduser()
    for name in ("image.onnx", "text.onnx", "preprocess.json", "tokenizer.json"):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"The folder {folder} has no file {name}: write it with export_onnx first."
            )
    return folder


def _export_tower(
    tower: nn.Module, inputs: dict[str, Tensor], shapes: dict, output: str, file: Path
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

    with _quiet():
        write_whole(file, write)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No word from the exporter on what it skips, none of which concerns us."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
