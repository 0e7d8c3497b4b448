"""The model card of a run: its own record, as the README.md of a Hub repository."""

from pathlib import Path
from typing import NamedTuple

from huggingface_hub.repocard_data import EvalResult, ModelCardData

from distilclip.data import HUB_SOURCES
from distilclip.storage.files import read_json, read_json_lines
from distilclip.storage.hub import find_file, looks_like_hub_id
from distilclip.storage.weights import MINILM_HUB_ID

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


def model_card(
    run_folder: str | Path, name: str = "DistilCLIP", license: str | None = None
) -> str:
    """The README.md of a model on the Hub: metadata as YAML, then the run's record.

    Read from `config.json`, `train_config.json` and `metrics.jsonl` in
    `run_folder`; what is not recorded there is not said. `name` is the repository's
    id, `license` one of the Hub's short names ("mit"), or None for none.
    """
    folder = Path(run_folder).expanduser()
    model = read_json(find_file(folder, "config.json"))
    settings, epochs, finals = read_run(folder)
    data = _known_source(settings.get("data"))
    encoders = (model.get("text_model"), model.get("vision_model"))
    pretrained = [_known_source(encoder) for encoder in encoders]
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
    about = _describe_model(model, settings.get("start_from", ""))
    parts = [f"---\n{metadata.to_yaml()}\n---\n\n# {title}", about]
    if settings:
        parts.append(_describe_training(settings, epochs))
    parts += [_describe_results(finals), USAGE.replace("{name}", name)]
    return "\n\n".join(parts)


class RunRecord(NamedTuple):
    """What a run recorded: settings, epochs, and each split's last recalls."""

    settings: dict
    epochs: list[dict]
    finals: dict[str, dict[str, float]]


def read_run(folder: Path) -> RunRecord:
    """The record in a run's folder, all empty where it holds a model only."""
    settings, lines = {}, []
    if (folder / "train_config.json").is_file():
        settings = read_json(folder / "train_config.json")
    if (folder / "metrics.jsonl").is_file():
        lines = read_json_lines(folder / "metrics.jsonl")
    epochs = [line for line in lines if line.get("kind") == "epoch"]
    finals = {}
    for line in lines:
        if line.get("kind") == "final":
            recalls = [key for key in line if key.startswith(("t2i_r", "i2t_r"))]
            finals[line["split"]] = {key: line[key] for key in recalls}
    return RunRecord(settings, epochs, finals)


def _known_source(name: str | None) -> str | None:
    """What a card may call a data set or a model: a name of ours or the Hub's."""
    names = {"minilm": MINILM_HUB_ID, **HUB_SOURCES}
    if name is None or name in ("emoji", "scenes"):
        return name
    if name in names:
        return names[name]
    is_path = Path(name).expanduser().exists() or not looks_like_hub_id(name)
    return None if is_path else name


def _metric_title(metric: str) -> str:
    """ "t2i_r10" -> "text to image R@10"."""
    direction, k = metric.split("_r")
    return f"{'text to image' if direction == 't2i' else 'image to text'} R@{k}"


def _describe_model(model: dict, start_from: str) -> str:
    """A paragraph on the two encoders, from a model's config.json."""
    vision = model["vision"]
    eyes = _known_source(model.get("vision_model"))
    origin = f"started from {eyes}" if eyes else "from scratch"
    if start_from:
        origin = f"of {_known_source(start_from) or 'another model'}, trained on"
    text = _known_source(model["text_model"]) or "a checkpoint of the author's own"
    side = vision["image_size"]
    return (
        f"Two encoders, one space of {model['embed_dim']} dimensions. "
        f"A Vision Transformer ({origin}; {vision['depth']} layers, "
        f"{vision['dim']} channels, patches of {vision['patch_size']} pixels) sees "
        f"pictures of {side}×{side} pixels; a DistilBERT ({text}) reads captions "
        f"of up to {model['max_text_length']} tokens. The cosine of the two "
        "vectors says how well a picture and a sentence fit."
    )


def _describe_training(settings: dict, epochs: list[dict]) -> str:
    """The section on training, from the settings and epochs of a run's record."""
    data = _known_source(settings.get("data")) or "pictures of the author's own"
    rows = [("data", data)]
    if start := settings.get("start_from"):
        known = _known_source(start) or "a model of the author's own"
        rows.append(("goes on from", known))
    if replay := settings.get("replay"):
        rows.append(("drawings of emoji beside", f"up to {replay:g} a picture"))
    names = ("preset", "seed", "batch_size", "lr", "text_lr")
    names += ("weight_decay", "augmentation")
    rows += [(name, settings[name]) for name in names if name in settings]
    if epochs:
        last, minutes = epochs[-1], sum(e["seconds"] for e in epochs) / 60
        rows.append(("epochs", last["epoch"]))
        rows.append(("loss of the last epoch", f"{last['loss']:.3f}"))
        rows.append(("minutes of training", f"{minutes:.1f}"))
    lines = [f"| {name} | {value} |" for name, value in rows]
    return "\n".join(["## Training", "", "| | |", "| --- | --- |", *lines])


def _describe_results(finals: dict[str, dict[str, float]]) -> str:
    """The section on results: a table of recalls, or that none were recorded."""
    if not finals:
        return "## Results\n\nNo evaluation is recorded."
    metrics = list(next(iter(finals.values())))
    titles = [_metric_title(metric) for metric in metrics]
    rows = [["split", *titles], ["---"] * (1 + len(metrics))]
    for split, scores in finals.items():
        cells = [
            f"{100 * scores[metric]:.1f} %" if metric in scores else ""
            for metric in metrics
        ]
        rows.append([split, *cells])
    lines = [f"| {' | '.join(row)} |" for row in rows]
    about = (
        "Recall at k over the whole split: "
        "how often the right one is among the first k."
    )
    return "\n".join(["## Results", "", about, "", *lines])
