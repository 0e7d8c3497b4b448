/* A sentence becomes numbers, as BERT's uncased tokenizer does it (Devlin et al., 2019).

   In: a string. Out: ids of word pieces, [CLS] first and [SEP] last. The same rules as the class
   BertTokenizer of `transformers`; tests/tools/test_build_search_page.py compares the two.
   Chapter 4 says why words are cut into pieces. */

function makeWordPiece(vocabulary, maxLength) {
  "use strict";
  const idOf = new Map(vocabulary.map((token, id) => [token, id]));
  const unknown = idOf.get("[UNK]");
  const special = /(\[(?:PAD|UNK|CLS|SEP|MASK)\])/;
  const maxWordLength = 100;
  // What BERT takes for Chinese characters: each becomes a word of its own.
  const ideograph =
    /[\u4E00-\u9FFF\u3400-\u4DBF\u{20000}-\u{2A6DF}\u{2A700}-\u{2B73F}\u{2B740}-\u{2B81F}\u{2B920}-\u{2CEAF}\uF900-\uFAFF\u{2F800}-\u{2FA1F}]/gu;

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
    const parts = text.split(special);
    const pieces = parts.flatMap((part, index) =>
      index % 2 ? [idOf.get(part)] : split(part).flatMap(piecesOf),
    );
    return [idOf.get("[CLS]"), ...pieces.slice(0, maxLength - 2), idOf.get("[SEP]")];
  };
}

if (typeof module !== "undefined") module.exports = { makeWordPiece };
