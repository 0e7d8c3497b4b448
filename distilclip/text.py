"""A caption becomes a vector: token ids go in, one vector a caption comes out.

The encoder is a pretrained DistilBERT (Sanh et al., 2019), run by `transformers`.
Where there is no network, MiniLM (Wang et al., 2020) stands in: a BERT whose
tensors, renamed, *are* a DistilBERT. Built in chapter 4.
"""

import copy
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm
from transformers import BertModel, DistilBertConfig, DistilBertModel

from distilclip.storage.hub import offline_without_network
from distilclip.storage.weights import (
    explain_missing_text,
    find_text_weights,
    load_tokenizer,
    load_whole,
    read_text_kind,
)
from distilclip.storage.words import (
    explained_tokens,
    warn_of_unread,
    with_known_words,
)
from distilclip.vit import evaluating


def bert_to_distilbert(bert: BertModel) -> DistilBertModel:
    """The same function in DistilBERT's layout: hidden states agree to float error.

    DistilBERT dropped BERT's token-type embeddings and its pooler. A caption is one
    segment, so every token gets row 0 of the token types: that row is folded into
    the position embeddings. Everything else is renamed. Raises ValueError for a
    BERT that a DistilBERT cannot express.
    """
    source = bert.config
    if source.hidden_act != "gelu" or source.layer_norm_eps != 1e-12:
        raise ValueError(
            "A DistilBERT has GELU activations and LayerNorms with epsilon 1e-12; "
            f"this BERT has {source.hidden_act!r} and {source.layer_norm_eps}."
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
    renamed = {
        distilbert_name(name): tensor
        for name, tensor in tensors.items()
        if not name.startswith("pooler.")
    }
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
    """One vector a caption, its [CLS] token or the mean of its tokens.

    (B, T, D) -> (B, D). `how` is "cls" or "mean"; the mean leaves padding out.
    """
    if how == "cls":
        return hidden[:, 0]
    mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * mask).sum(dim=1) / mask.sum(dim=1)


def in_batches(
    tokens: dict[str, Tensor],
    batch_size: int,
    device: torch.device,
    progress: bool = False,
) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
    """Captions of like length together: their positions, their tokens on `device`.

    The tokens are (B, T); T is the longest of the batch, so hardly any are padding.
    """
    mask = tokens["attention_mask"]
    order = mask.sum(dim=1).argsort(stable=True)
    starts = range(0, len(order), batch_size)
    for start in tqdm(starts, desc="encoding captions", disable=not progress):
        chosen = order[start : start + batch_size]
        used = mask[chosen].any(dim=0)
        yield (
            chosen,
            {name: ids[chosen][:, used].to(device) for name, ids in tokens.items()},
        )


def check_text(text: str) -> str:
    """The same text; raises ValueError for another type or for a lone surrogate."""
    if not isinstance(text, str):
        raise ValueError(f"Expected a text, got a {type(text).__name__}.")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(
            f"The text {text[:80]!a} holds half a character: no valid Unicode."
        ) from None
    return text


def load_distilbert(source: str) -> DistilBertModel:
    """The DistilBERT at `source`, or the BERT there as a DistilBERT.

    Reads safetensors only. Raises OSError where there is none, ValueError where it
    is another kind of model.
    """
    kind = read_text_kind(source)
    if kind not in ("distilbert", "bert"):
        raise ValueError(
            f"{source} holds a model of type {kind!r}; the text encoder must be a "
            "'distilbert' or a 'bert'."
        )
    if kind == "bert":
        bert = load_whole(BertModel, source, add_pooling_layer=False)
        return bert_to_distilbert(bert)
    return load_whole(DistilBertModel, source).eval()


class GivenEmbeddings(nn.Module):
    """Stands in for a DistilBERT's embeddings; its input is embedded already."""

    def forward(self, input_ids: None, inputs_embeds: Tensor, *rest) -> Tensor:
        return inputs_embeds


class TextEncoder(nn.Module):
    """A DistilBERT with its tokenizer: (input_ids, attention_mask) -> (B, D).

    Both inputs are (B, T). `pool` is "cls" or "mean": the [CLS] token's last hidden
    state, or the mean over the tokens that are not padding. `name` is where the
    weights came from.
    """

    def __init__(
        self, model: DistilBertModel, tokenizer, pool: str = "cls", name: str = ""
    ):
        super().__init__()
        if pool not in ("cls", "mean"):
            raise ValueError(f"pool must be 'cls' or 'mean', got {pool!r}.")
        self.model = model
        self.tokenizer = tokenizer
        self.pool = pool
        self.name = name
        self.dim = model.config.dim

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        try:
            hidden = self.model(input_ids, attention_mask)
        except (IndexError, RuntimeError) as error:  # on a CPU
            raise explained_tokens(error, input_ids, self.model.config) from None
        return pool_text(hidden.last_hidden_state, attention_mask, self.pool)

    def tokenize(
        self,
        texts: Sequence[str],
        max_length: int = 64,
        pad_to_max_length: bool = False,
    ) -> dict[str, Tensor]:
        """Token ids and mask, (B, T) each; T is the length of the longest caption.

        What is longer than `max_length`, or than the model has positions for, is
        cut off; with `pad_to_max_length`, T is that length for every batch. An
        emoji is said by its name. A warning counts the texts that are cut, or of
        which no word is known. Raises ValueError for what is no text.
        """
        if not len(texts):
            empty = torch.empty(0, 0, dtype=torch.long)
            return {"input_ids": empty, "attention_mask": empty}
        tokens = self.tokenizer(
            with_known_words([check_text(text) for text in texts], self.tokenizer),
            padding="max_length" if pad_to_max_length else "longest",
            truncation=True,
            max_length=min(max_length, self.model.config.max_position_embeddings),
            return_tensors="pt",
            return_token_type_ids=False,
        )
        warn_of_unread(texts, tokens, self.tokenizer)
        return dict(tokens)

    @torch.no_grad()
    def encode(
        self, texts: Sequence[str], batch_size: int = 64, progress: bool = False
    ) -> Tensor:
        """Features of any number of texts, without gradients: strings -> (B, D)."""
        device = next(self.parameters()).device
        features = torch.empty(len(texts), self.dim, device=device)
        with evaluating(self):
            tokens = self.tokenize(texts)
            for chosen, batch in in_batches(tokens, batch_size, device, progress):
                features[chosen] = self(**batch).float()
        return features

    @classmethod
    def from_pretrained(
        cls, name: str | Path, pool: str | None = None
    ) -> "TextEncoder":
        """Load "minilm", a folder, or a Hub id such as "distilbert-base-uncased".

        A folder or repository may hold a DistilBERT or a BERT, which is converted.
        `pool` defaults to what the weights were trained for: "mean" for "minilm",
        what sentence-transformers has written into `1_Pooling/config.json`, or
        "cls". Raises FileNotFoundError where the weights cannot be had, ValueError
        where they are another kind of model or are pooled in another way.
        """
        source, pool = find_text_weights(name, pool)
        try:
            with offline_without_network(source):
                loaded = load_distilbert(source), load_tokenizer(source)
        except OSError as error:
            raise FileNotFoundError(explain_missing_text(name, error)) from None
        return cls(*loaded, pool, str(name)).eval()

    @torch.no_grad()
    def encode_below(
        self,
        texts: Sequence[str],
        layers: int,
        batch_size: int = 64,
        progress: bool = False,
    ) -> list[Tensor]:
        """What the last `layers` layers read, without gradients: (T, D) a text."""
        device = next(self.parameters()).device
        given: list[Tensor] = [torch.empty(0)] * len(texts)
        with evaluating(self):
            tokens = self.tokenize(texts)
            for chosen, batch in in_batches(tokens, batch_size, device, progress):
                output = self.model(**batch, output_hidden_states=True)
                lengths = batch["attention_mask"].sum(dim=1).tolist()
                below = output.hidden_states[-1 - layers]
                for i, hidden, length in zip(chosen, below, lengths, strict=True):
                    given[i] = hidden[:length].clone()
        return given

    def last_layers(
        self, layers: int, hidden: Tensor, attention_mask: Tensor
    ) -> Tensor:
        """The last `layers` layers on their input alone: (B, T, D) -> (B, D).

        The layers are this encoder's own: what they learn here, it has learned.
        """
        config = copy.deepcopy(self.model.config)
        config.n_layers, config.vocab_size = 0, 1
        with torch.device("meta"):  # it has no weights but those of the layers
            upper = DistilBertModel(config)
        upper.add_module("embeddings", GivenEmbeddings())  # instead of its own
        upper.transformer.layer = self.model.transformer.layer[-layers:]
        states = upper(inputs_embeds=hidden, attention_mask=attention_mask)
        return pool_text(states.last_hidden_state, attention_mask, self.pool)
