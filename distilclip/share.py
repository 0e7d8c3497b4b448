"""A trained model leaves home, for `transformers` and for the Hugging Face Hub.

A DistilCLIP goes in. Out come classes with which `transformers` loads our folders,
and a repository on the Hub, with a card that tells what the run recorded. Built in
chapter 12.
"""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

import torch
import transformers
from huggingface_hub import CommitOperationAdd, HfApi, snapshot_download
from huggingface_hub.errors import (
    HFValidationError,
    HTTPError,  # pyright: ignore[reportPrivateImportUsage] of httpx, or of httpx2
)
from PIL import Image
from torch import Tensor
from transformers.image_transforms import to_pil_image
from transformers.image_utils import make_flat_list_of_images

from distilclip.model import DistilCLIP, DistilCLIPConfig, DistilCLIPOutput
from distilclip.runs.card import model_card
from distilclip.storage.files import read_json, write_text
from distilclip.storage.hub import find_file, network_is_missing
from distilclip.storage.pictures import normalise_pixels, pixels_of
from distilclip.storage.weights import find_text_weights


class DistilCLIPModelConfig(transformers.PreTrainedConfig):
    """Our config.json for `transformers`: the fields of `DistilCLIPConfig`."""

    model_type = "distilclip"

    def __init__(self, **settings):
        ours = asdict(DistilCLIPConfig())
        ours |= {name: settings.pop(name) for name in ours if name in settings}
        text_config = settings.pop("text_config", None)
        super().__init__(**settings)
        for name, value in ours.items():
            setattr(self, name, value)
        build = transformers.DistilBertConfig.from_dict
        self.text_config = text_config and build(text_config)

    def to_distilclip(self) -> DistilCLIPConfig:
        """The same settings as our own dataclass."""
        names = [field.name for field in fields(DistilCLIPConfig)]
        return DistilCLIPConfig(**{name: getattr(self, name) for name in names})

    def save_pretrained(self, folder: str | Path, **unused) -> None:
        """Write config.json as `DistilCLIP` does.

        `transformers` would add what does not belong to a model.
        """
        description = {
            "model_type": self.model_type,
            **asdict(self.to_distilclip()),
            "text_config": self.text_config and self.text_config.to_dict(),
        }
        write_text(Path(folder) / "config.json", json.dumps(description, indent=2))


class DistilCLIPModel(transformers.PreTrainedModel):
    """A `DistilCLIP` in the clothes of `transformers`: same weights, same numbers.

    `model` is the `DistilCLIP` itself. `from_pretrained` and `save_pretrained` are
    ours, so a folder without text weights works, too.
    """

    config_class = DistilCLIPModelConfig
    main_input_name = "pixel_values"

    def __init__(
        self, config: DistilCLIPModelConfig, model: DistilCLIP | None = None
    ):
        super().__init__(config)
        self.model = model or DistilCLIP(config.to_distilclip())

    def forward(
        self,
        pixel_values: Tensor,
        input_ids: Tensor,
        attention_mask: Tensor,
        **unused,
    ) -> DistilCLIPOutput:
        """As `DistilCLIP.forward`; captions are cut to the model's length.

        `unused` swallows what tokenizers and pipelines hand to every model, such as
        `token_type_ids`: a DistilBERT has none.
        """
        limit = self.config.max_text_length
        ids, mask = cut_tokens(input_ids, attention_mask, limit)
        return self.model(pixel_values, ids, mask)

    @classmethod
    def from_pretrained(cls, name, *args, config=None, dtype=None, **settings):
        """Load a folder or a Hub id that `save_pretrained` wrote.

        `dtype` means what it means elsewhere in `transformers`.
        """
        refused = ("device_map", "quantization_config", "attn_implementation")
        for key in refused:
            if settings.get(key) is not None:
                raise ValueError(
                    f"DistilCLIPModel.from_pretrained does not know {key}."
                )
        if not Path(name).is_dir():
            keys = ("revision", "token", "cache_dir", "local_files_only")
            name = snapshot_download(
                str(name),
                allow_patterns=["*.json", "*.safetensors"],
                **{key: settings[key] for key in keys if key in settings},
            )
        model = DistilCLIP.from_pretrained(name)
        config = config or DistilCLIPModelConfig.from_pretrained(name)
        wrapped = cls(config, model).eval()
        return wrapped if dtype in (None, "auto") else wrapped.to(dtype)

    def save_pretrained(self, folder: str | Path, **unused) -> None:
        """As `DistilCLIP.save_pretrained`: safetensors, JSON, the tokenizer."""
        self.model.save_pretrained(folder)


def cut_tokens(
    input_ids: Tensor, attention_mask: Tensor, limit: int
) -> tuple[Tensor, Tensor]:
    """Token ids and mask (B, T), cut as a tokenizer cuts them: [SEP] stays last."""
    lengths = attention_mask.sum(dim=1, keepdim=True)
    last = input_ids.gather(1, lengths - 1)
    ids, mask = input_ids[:, :limit].clone(), attention_mask[:, :limit]
    ids[:, -1:] = torch.where(lengths > ids.shape[1], last, ids[:, -1:])
    return ids, mask


class DistilCLIPImageProcessor(transformers.BaseImageProcessor):
    """Pictures -> `pixel_values` (B, 3, S, S), by the functions used in training.

    The middle square, resized (bicubic) to `image_size`, less `image_mean`, over
    `image_std`.
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
        fetched = self.fetch_images(images)
        # The hints of these two do not fit each other; the second gives a list.
        given = make_flat_list_of_images(fetched)  # pyright: ignore[reportArgumentType]
        pictures = [
            each if isinstance(each, Image.Image) else to_pil_image(each)
            for each in given  # pyright: ignore[reportGeneralTypeIssues]
        ]
        pixels = pixels_of(pictures, self.image_size)
        pixels = normalise_pixels(pixels, self.image_mean, self.image_std)
        values = {"pixel_values": pixels}
        return transformers.BatchFeature(values, tensor_type=return_tensors)


class DistilCLIPTokenizer(transformers.PreTrainedTokenizerFast):
    """The tokenizer of a folder, or else that of the text encoder that it names."""

    @classmethod
    def from_pretrained(cls, name, *args, **settings):
        try:
            find_file(name, "tokenizer_config.json")
        except FileNotFoundError:
            config = read_json(find_file(name, "config.json"))
            source, _ = find_text_weights(config["text_model"])
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

    After this call, in this process, they know the model type "distilclip": no code
    is fetched from anywhere, and `trust_remote_code` is not needed.
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


def push_to_hub(
    model: DistilCLIP,
    repo_id: str,
    run_folder: str | Path | None = None,
    private: bool = False,
    license: str | None = None,
    text_weights: bool = True,
    token: str | None = None,
) -> str:
    """Put a model and its card on the Hub, in one commit -> the commit's address.

    The card tells what `run_folder` recorded. `text_weights=False` leaves out a
    text encoder that everyone can fetch by its name. Raises ValueError for a name
    that the Hub does not allow, PermissionError where it wants another token,
    ConnectionError where it cannot be reached; then nothing was uploaded.
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
            # upload_folder may make several commits; this makes one, or none.
            paths = sorted(Path(place).iterdir())
            files = [CommitOperationAdd(path.name, path) for path in paths]
            about = "A DistilCLIP model"
            commit = api.create_commit(repo_id, files, commit_message=about)
        except HFValidationError:
            raise ValueError(
                f"{repo_id!r} is no name for a repository: give 'owner/name', "
                "of letters, digits, '-', '_' and '.'."
            ) from None
        except (HTTPError, OSError, RuntimeError) as error:  # RuntimeError: hf_xet
            raise hub_refusal(repo_id, error) from None
    return commit.commit_url


def hub_refusal(repo_id: str, error: Exception) -> OSError:
    """What to tell someone whose upload to the Hub failed."""
    response = getattr(error, "response", None)
    if response is None:
        return ConnectionError(
            f"Cannot push to {repo_id}: the Hugging Face Hub cannot be reached "
            f"({type(error).__name__}). Nothing was uploaded; check the network "
            "and try again."
        )
    if response.status_code in (401, 403):
        return PermissionError(
            f"The Hugging Face Hub does not let you write to {repo_id}: log in "
            "with 'hf auth login', or give a token that may write. "
            "Nothing was uploaded."
        )
    return ConnectionError(
        f"The Hugging Face Hub answered {response.status_code} to the upload to "
        f"{repo_id}. Nothing was uploaded; try again later."
    )
