/* A sentence becomes numbers, as BERT's uncased tokenizer does it (Devlin et al., 2019).

   In: a string. Out: ids of word pieces, [CLS] first and [SEP] last. The same rules as the class
   BertTokenizer of `transformers`; with `emojiNames`, emoji that the vocabulary lacks are said by
   their names first, as in distilclip/storage/words.py. tests/tools/test_build_search_page.py
   compares both. Chapter 4 says why words are cut into pieces. */

function makeWordPiece(vocabulary, maxLength, emojiNames) {
  "use strict";
  const idOf = new Map(vocabulary.map((token, id) => [token, id]));
  const unknown = idOf.get("[UNK]");
  const special = /(\[(?:PAD|UNK|CLS|SEP|MASK)\])/;
  const maxWordLength = 100;
  // What BERT takes for Chinese characters: each becomes a word of its own.
  const ideograph =
    /[\u4E00-\u9FFF\u3400-\u4DBF\u{20000}-\u{2A6DF}\u{2A700}-\u{2B73F}\u{2B740}-\u{2B81F}\u{2B920}-\u{2CEAF}\uF900-\uFAFF\u{2F800}-\u{2FA1F}]/gu;

  const names = new Map(Object.entries(emojiNames ?? {}));
  const single = Array.from(new Set([...names.keys()].join("")))
    .filter((character) => character > "\u00A0" && !/[\u200D\u20E3]/.test(character))
    .join("");
  // A flag, a key, or a picture with its selectors, skin tone and tags; several of them, joined.
  const part =
    "(?:[\u{1F1E6}-\u{1F1FF}]{2}|[0-9#*][\uFE0E\uFE0F]?\u20E3" +
    `|[${single}\u{1F000}-\u{1FAFF}][\uFE0E\uFE0F]?` +
    "[\u{1F3FB}-\u{1F3FF}]?[\uFE0E\uFE0F]?[\u{E0020}-\u{E007F}]*)";
  const emoji = new RegExp(`${part}(?:\u200D${part})*`, "gu");

  /* The name of an emoji; of its parts where the whole has none, "" for neither. */
  function nameOf(found) {
    const bare = found
      .replace(/[\uFE0E\uFE0F\u{1F3FB}-\u{1F3FF}]/gu, "")
      .replace(/^\u200D+|\u200D+$/g, "");
    const tones = Array.from(new Set(found.match(/[\u{1F3FB}-\u{1F3FF}]/gu) ?? []), (tone) =>
      names.get(tone),
    );
    if (names.has(bare)) {
      const [head, ...others] = names.get(bare).split(": ");
      const rest = others.length ? [others.join(": ")] : [];
      const peopleFirst = head === "kiss" || head === "couple with heart";
      const details = peopleFirst ? [...rest, ...tones] : [...tones, ...rest];
      return details.length ? `${head}: ${details.join(", ")}` : head;
    }
    if (Array.from(bare).length > 1) {
      const whole = found.replace(/[\uFE0E\uFE0F]/g, "");
      const parts = whole.includes("\u200D") ? whole.split("\u200D") : Array.from(whole);
      return parts.map(nameOf).filter(Boolean).join(", ");
    }
    return bare ? "" : tones.join(", ");
  }

  /* The same text with the name of each emoji that the vocabulary lacks in its place. */
  function nameEmoji(text) {
    if (!names.size) return text;
    return text.replace(emoji, (found) => {
      const name = idOf.has(found) ? "" : nameOf(found);
      return name ? ` ${name} ` : found;
    });
  }

  /* Without control characters and accents, in lower case. */
  function normalise(text) {
    const clean = text
      .replace(/[\t\n\r]/g, " ")
      .replace(/[\p{Cc}\p{Cf}\p{Co}\p{Cs}\uFFFD]/gu, "")
      .replace(ideograph, " $& ");
    const bare = clean.normalize("NFD").replace(/\p{Mn}/gu, "");
    return Array.from(bare, (character) => character.toLowerCase()).join("");
  }

  /* Words, and each mark of punctuation alone. */
  function split(text) {
    return normalise(text).match(/[\p{P}$+<=>^`|~]|[^\s\p{P}$+<=>^`|~]+/gu) ?? [];
  }

  /* The longest pieces that the vocabulary has, from left to right. */
  function piecesOf(word) {
    const characters = Array.from(word);
    if (characters.length > maxWordLength) return [unknown];
    const pieces = [];
    for (let start = 0; start < characters.length; ) {
      let end = characters.length;
      let piece;
      for (; end > start; end -= 1) {
        piece = idOf.get((start ? "##" : "") + characters.slice(start, end).join(""));
        if (piece !== undefined) break;
      }
      if (piece === undefined) return [unknown];
      pieces.push(piece);
      start = end;
    }
    return pieces;
  }

  return function encode(text) {
    const parts = nameEmoji(text).split(special);
    const pieces = parts.flatMap((part, index) =>
      index % 2 ? [idOf.get(part)] : split(part).flatMap(piecesOf),
    );
    return [idOf.get("[CLS]"), ...pieces.slice(0, maxLength - 2), idOf.get("[SEP]")];
  };
}

if (typeof module !== "undefined") module.exports = { makeWordPiece };
