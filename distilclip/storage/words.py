"""Texts as a tokenizer is given them, and a word where it can make nothing of one.

An emoji is said by its name in the Unicode CLDR, because hardly any vocabulary has
emoji. What a tokenizer knows nothing of, or cuts off, is counted in a warning.
"""

import functools
import logging
import re
import unicodedata
from collections.abc import Callable, Sequence
from itertools import compress
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from distilclip.storage.files import read_json

NAMES_FILE = Path(__file__).parents[1] / "emoji" / "names.json"
JOINER = "\u200d"  # between the parts of an emoji such as a woman and a fire engine
SELECTORS = "\ufe0e\ufe0f"  # as text, as a picture
TONES = "\U0001f3fb-\U0001f3ff"
LOG = logging.getLogger("distilclip.text")
MOST_TOLD = 10_000  # texts that a tokenizer's warnings are about; then it is silent
# Texts that there was a warning about, by tokenizer
TOLD: WeakKeyDictionary[Any, set[str]] = WeakKeyDictionary()


@functools.cache
def emoji_names() -> dict[str, str]:
    """Every emoji, without selectors and skin tones, and its name in the CLDR."""
    return read_json(NAMES_FILE)


@functools.cache
def emoji_pattern() -> re.Pattern[str]:
    """What finds an emoji as a whole: joined parts, skin tones, flags, key caps."""
    single = {char for name in emoji_names() for char in name if ord(char) > 0xA0}
    single = re.escape("".join(sorted(single - {JOINER, "\u20e3"})))
    part = (
        "(?:[\U0001f1e6-\U0001f1ff]{2}"  # a flag: two letters of a country
        f"|[0-9#*][{SELECTORS}]?\u20e3"  # a key
        f"|[{single}\U0001f000-\U0001faff]"
        f"[{SELECTORS}]?[{TONES}]?[{SELECTORS}]?[\U000e0020-\U000e007f]*)"
    )
    return re.compile(f"{part}(?:{JOINER}{part})*")


def name_of_emoji(emoji: str) -> str:
    """The name of an emoji; of the parts where the whole has none, "" for neither.

    Skin tones stand where the CLDR has them: "waving hand: medium skin tone".
    """
    names, tone = emoji_names(), re.compile(f"[{TONES}]")
    bare = re.sub(f"[{SELECTORS}{TONES}]", "", emoji).strip(JOINER)
    tones = [names[found] for found in dict.fromkeys(tone.findall(emoji))]
    if bare in names:
        head, _, rest = names[bare].partition(": ")
        details = [*tones, *filter(None, [rest])]
        if head in ("kiss", "couple with heart"):  # the people first
            details = [*filter(None, [rest]), *tones]
        return ": ".join([head, *filter(None, [", ".join(details)])])
    if len(bare) > 1:
        whole = re.sub(f"[{SELECTORS}]", "", emoji)
        parts = whole.split(JOINER) if JOINER in whole else whole
        return ", ".join(filter(None, map(name_of_emoji, parts)))
    if not bare:  # skin tones alone
        return ", ".join(tones)
    return names.get(bare) or unicodedata.name(bare, "").lower()


def name_emoji(text: str, is_known: Callable[[str], bool] = lambda _: False) -> str:
    """The same text with the name of each emoji in its place.

    One that `is_known`, as a word of the vocabulary, stays.
    """
    if text.isascii():
        return text

    def named(match: re.Match[str]) -> str:
        emoji = match[0]
        name = "" if is_known(emoji) else name_of_emoji(emoji)
        return f" {name} " if name else emoji

    return emoji_pattern().sub(named, text)


def with_known_words(texts: Sequence[str], tokenizer) -> list[str]:
    """The same texts; emoji that the vocabulary lacks are named."""
    unknown = tokenizer.unk_token_id
    if unknown is None:  # spells everything out, byte by byte
        return list(texts)
    lookup = tokenizer.convert_tokens_to_ids
    return [
        name_emoji(text, lambda word: lookup(word) != unknown) for text in texts
    ]


def with_words_of(texts: Sequence[str], tokenizer: Any) -> list[str]:
    """`with_known_words` for a tokenizer of the library `tokenizers`."""
    if getattr(tokenizer.model, "unk_token", None) is None:
        return list(texts)
    return [
        name_emoji(text, lambda word: tokenizer.token_to_id(word) is not None)
        for text in texts
    ]


def warn_of_unread(texts: Sequence[str], tokens, tokenizer: Any) -> None:
    """Say in a warning how many texts a tokenizer knows nothing of, or cuts off.

    `tokens` is what it made of `texts`. A text is told of once, and of `MOST_TOLD`
    no more are: those of a stream have no end.
    """
    told = TOLD.setdefault(tokenizer, set())
    if len(told) >= MOST_TOLD:
        return
    ids, mask = tokens["input_ids"], tokens["attention_mask"]
    strange = torch.zeros(len(texts), dtype=torch.bool)
    if tokenizer.unk_token_id is not None:
        special = torch.tensor(tokenizer.all_special_ids)
        is_word = ~torch.isin(ids, special) & mask.bool()
        strange = ~is_word.any(dim=1)
    unknown = list(compress(texts, strange.tolist()))
    length = ids.shape[1]
    full = compress(
        zip(texts, tokens.encodings or (), strict=False),
        (mask.sum(dim=1) == length).tolist(),
    )
    cut = [text for text, encoding in full if encoding.overflowing]
    for found, about in (
        (unknown, "knows no word of %d %s, and cannot tell such texts apart"),
        (cut, f"reads {length} tokens, which is not the whole of %d %s"),
    ):
        new = [text for text in dict.fromkeys(found) if text not in told]
        told.update(new)
        if new:
            noun = "text" if len(new) == 1 else "texts"
            shown = repr(new[0] if len(new[0]) < 70 else new[0][:60] + "...")
            rest = f" and {len(new) - 1} more" if len(new) > 1 else ""
            message = f"The text encoder {about}: %s%s."
            LOG.warning(message, len(new), noun, shown, rest)


def explained_tokens(error: Exception, input_ids: Tensor, config: Any) -> Exception:
    """A ValueError that says which token ids nobody can take; else `error`."""
    length, most = input_ids.shape[-1], config.max_position_embeddings
    if length > most:
        return ValueError(
            f"A text has {length} tokens, and the text encoder has positions for "
            f"{most}: cut it (tokenize does, with max_length)."
        )
    if isinstance(error, IndexError):
        last = config.vocab_size - 1
        return ValueError(
            f"Token ids must be those of the tokenizer, from 0 to {last}."
        )
    return error
