"""Build `distilclip/emoji/emoji.parquet`, the embedded data set of chapter 7 (authors only).

In: seven pinned npm packages with pictures in six styles (Noto, Twemoji and the older Noto "blobs"
at 64 pixels, Microsoft's Fluent 3D at 256, OpenMoji and EmojiOne 2 as SVG) and emojibase's CLDR
labels and keywords. Out: one row a picture, 64x64 on white, with two to four captions. Run it again
and the file is the same, byte for byte, as long as Pillow, pyarrow, datasets and resvg-py are. The
last draws the SVG files and is needed here alone: `pip install resvg-py==0.5.0`.

A concept is an emoji that has its own, openly licensed picture as Noto, as Twemoji and as Fluent;
the other three styles add their pictures of it where they have one. Skin tones are left out, and so
are the pictures that the Fluent package has from elsewhere (see `LEFT_OUT`).

The `split` of a row follows from sha256 of a key, never from a random state:
- Concepts that differ only in person words ("firefighter", "man firefighter") are one family, and a
  family is never divided. About a tenth of the families are held out: `test_concepts` is their
  Fluent pictures, and their pictures in the other styles are not stored at all.
- `test` is the Fluent picture of every other concept: a known concept in a style never seen.
- `validation` is the Twemoji picture of about a tenth of those concepts, which `train` then knows
  by its other pictures only.
- `train` is every picture that is left, in the five styles that are not Fluent.
"""

import argparse
import hashlib
import io
import json
import math
import re
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import resvg_py
from datasets import Features, Image, List, Value
from PIL import Image as PILImage
from tqdm import tqdm

PACKAGES = {  # npm name, version, sha256 of the tarball
    "noto": (
        "emoji-datasource-google",
        "16.0.0",
        "fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438",
    ),
    "twemoji": (
        "emoji-datasource-twitter",
        "16.0.0",
        "f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877",
    ),
    "fluent": (
        "@lobehub/fluent-emoji-3d",
        "1.1.0",
        "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58",
    ),
    "openmoji": (
        "@iconify-json/openmoji",
        "1.2.29",
        "03181e2c156cab35cf4a62f1f7886bd971d59212e75ac3f189d5a4cae3930fc5",
    ),
    "blob": (
        "emoji-datasource-google",
        "3.0.0",
        "3247dd55dee7954d6d1d3d84b05759e49daf71cab5cccb4566940209679af66f",
    ),
    "emojione": (
        "@iconify-json/emojione",
        "1.2.3",
        "26a14f44284407e8bcde91799388dca2bfd91dbcd55a97f425524a1c5b73610e",
    ),
    "emojibase": (
        "emojibase-data",
        "17.0.0",
        "d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a",
    ),
}
PICTURES = {  # where a style keeps its pictures, one file a code point sequence
    "noto": "package/img/google/64/",
    "twemoji": "package/img/twitter/64/",
    "fluent": "package/assets/",
    "blob": "package/img/google/64/",
}
EVERY_CONCEPT_HAS = ("noto", "twemoji", "fluent")
STYLES = ("noto", "twemoji", "fluent", "openmoji", "blob", "emojione")
OUTPUT = Path(__file__).parents[1] / "distilclip" / "emoji" / "emoji.parquet"
FEATURES = Features(
    {
        "image": Image(),
        "captions": List(Value("string")),
        "image_id": Value("string"),
        "style": Value("string"),
        "emoji": Value("string"),
        "label": Value("string"),
        "group": Value("string"),
        "subgroup": Value("string"),
        "split": Value("string"),
    }
)


def words(text: str) -> set[str]:
    return set(text.split())


PERSON_WORDS = words("man woman person men women people boy girl child men's women's")
SAME_FAMILY = {  # what is left of a label without its person words, where that alone would not do
    "princess": "prince",
    "with crown": "prince",
    "mermaid": "merperson",
    "merman": "merperson",
    "mrs. claus": "santa claus",
    "mx claus": "santa claus",
    "older": "old",
    "and holding hands": "holding hands",
    "breast-feeding": "feeding baby",
}

# Families whose Fluent picture is not its own or not open. Microsoft's MIT-licensed set has no
# couples and families, and shut out what carries a trademark (Clippy, a game controller, a Windows
# laptop): the package has these from elsewhere. It also ships the grinning cat as the cat face.
LEFT_OUT = {
    "cat face",
    "couple with heart",
    "family",
    "holding hands",
    "kiss",
    "paperclip",
    "technologist",
    "video game",
}
LEFT_OUT_SUBGROUPS = {"country-flag", "subdivision-flag"}  # the package's are Noto's own drawings

# Head words that take no article, singular words in -s, and labels that only read as English in
# other words.
MASS = words(
    """arts badminton bacon bowling bread broccoli butter camping candy construction cooking coral
    cream DNA falafel fire fog food garlic hockey ice lacrosse liquid luggage mate milk money oden
    polish pong popcorn racing rice sake salt soap spaghetti sushi tea tennis thread voltage wood
    yarn"""
)
SINGULAR_IN_S = words(
    """abacus bus cactus compass cross dress fleur-de-lis glass hibiscus hippopotamus lotus
    minibus octopus princess rhinoceros trolleybus"""
)
TAKES_A = words("ewe euro one-piece unicorn")
TAKES_AN = words("hourglass NG SOS x-ray")
PHRASES = {
    "breast-feeding": "a woman breast-feeding",
    "construction": "a construction barrier",
    "copyright": "a copyright sign",
    "dashing away": "a puff of air dashing away",
    "dizzy": "a dizzy star",
    "dna": "DNA",
    "dvd": "a DVD",
    "foggy": "a foggy city",
    "hourglass done": "an hourglass that has run out",
    "hourglass not done": "an hourglass still running",
    "hundred points": "a hundred points",
    "infinity": "an infinity sign",
    "information": "an information sign",
    "kaaba": "the Kaaba",
    "locked": "a locked padlock",
    "locked with key": "a padlock locked with a key",
    "locked with pen": "a padlock locked with a pen",
    "milky way": "the Milky Way",
    "mount fuji": "Mount Fuji",
    "om": "an om sign",
    "registered": "a registered sign",
    "rolling on the floor laughing": "a face rolling on the floor laughing",
    "star-struck": "a star-struck face",
    "Statue of Liberty": "the Statue of Liberty",
    "Tokyo tower": "the Tokyo Tower",
    "trade mark": "a trade mark sign",
    "unlocked": "an unlocked padlock",
    "wireless": "a wireless sign",
    "ZZZ": "the letters ZZZ",
}
KEYCAPS = {"#": "the number sign", "*": "an asterisk"}

# The keyword list is cut at every space. These are put together again; what says nothing about a
# picture (function words, slang, and on a face or a hand its parts) is left out.
JOINED = """
    amusement park, baseball cap, bathing suit, big cat, bok choy, cell phone, Cinco de Mayo,
    climate change, close call, coin purse, corn maze, dad hat, direct hit, down under, fairy tale,
    fast food, Father Christmas, flip flop, good luck, good morning, good night, hang loose,
    heat stroke, high five, Jolly Roger, knocked out, life preserver, mai tai, mind blown, New York,
    old school, pick me, pina colada, pulled over, punk rock, puppy eyes, sea lion, soft drink,
    soft serve, steam engine, sunny side up, Super Bowl, sweet tooth, table tennis, tennis shoe,
    theme park, throw up, ugly duckling, vitamin C"""
NOISE = words(
    """a a+ adorbs af again ass at awk away back bae be bff brb bro bruh bs c call cmon comic cya d
    dapper deg doo dr dunno dying eek emoji epic everyone ew extra fart father feels fleek fml fosho
    g2g geez get getting glbt glbtq go gone good got gotcha gotta gtg gua guapi here heavy hm homie
    huh human i i'm idk ily jel jelly jew job keep know knows lady lai legged legit let's life lit
    litaf lives lmao lust m mad man mao mark me men men's muah mwah my no nooo not ny o of oh omg
    omw on on! order ornithology out outtie over own p pearly person people pga pi pissed r rad
    really right rofl roflcopter roflmao see sexy shade side smh sort sucks sure swag t tache tai
    tale tash tbt terrestrial this throw time tmi totally triste ttfn ttyl turd u ugly uh uhh um
    under up v vu way wet what where whatever who whoa why woah woman women women's work wtv x xoxo
    yo yolo you yup"""
)
PARTS = words(
    """big blue closed eye eyes face finger fingers gesture hand hands head high mouth nose open
    teeth thumb tongue"""
)
PROPER = words(
    """africa americas antarctica arctic aries asia australia aquarius bollywood buckingham buddhism
    buddhist capricorn chinese christ christian christmas cupid dionysus dracula europe european
    fatima french halloween hanukkah hindu hinduism hollywood irish islam japanese jewish judaism
    leo libra london mary mexican miriam muslim neptune oberon ophiuchus pinocchio pisces poseidon
    ramadan russia sagittarius saturn scorpio sikh sikhism taoist taurus thanksgiving titania
    triton virgo"""
)


def fetch(style: str, cache: Path) -> dict[str, bytes]:
    """The files of one npm package by their names, from the cache or through the npm client."""
    name, version, sha256 = PACKAGES[style]
    tarball = cache / f"{name.lstrip('@').replace('/', '-')}-{version}.tgz"
    if not tarball.exists():
        command = ["npm", "pack", f"{name}@{version}", "--pack-destination", str(cache)]
        if subprocess.run(command, stdout=subprocess.DEVNULL).returncode:
            sys.exit(f"\nnpm could not fetch {name}@{version}; put {tarball.name} into --cache.")
    found = hashlib.sha256(tarball.read_bytes()).hexdigest()
    if found != sha256:
        sys.exit(f"\n{tarball} has the sha256 {found}, but this tool is pinned to {sha256}.")
    wanted = PICTURES.get(style, "package/")
    files = {}
    with tarfile.open(tarball) as archive:
        for member in archive:
            if member.isfile() and member.name.startswith((wanted, "package/emoji.json")):
                files[member.name] = archive.extractfile(member).read()
    return files


def key_of(code_points: str) -> str:
    """One spelling of a code point sequence: lower case, without the variation selector FE0F,
    which each package writes or leaves out as it likes."""
    return "-".join(part for part in code_points.lower().split("-") if part != "fe0f")


def share(text: str) -> float:
    """A number in [0, 1) that depends on the text alone."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


def family_of(label: str) -> str:
    """What concepts that differ only in person words have in common."""
    named = [word.strip(":,") for word in plain(label).lower().split()]
    rest = " ".join(word for word in named if word not in PERSON_WORDS)
    return SAME_FAMILY.get(rest, rest)


def plain(text: str) -> str:
    """Straight quotes, as a person would type them in a search."""
    return re.sub("[“”]", '"', text).replace("’", "'")


def with_article(name: str) -> str:
    """ "grinning face" -> "a grinning face", and no article before a plural or a mass noun."""
    first = name.split()[0]
    if first in {"men", "women", "people", "thumbs", "palms"}:
        return name
    head = re.split(" (?:with|without|of|in|on|at|over|and|behind) ", name)[0].split()[-1]
    plural = head.endswith("s") and head not in SINGULAR_IN_S
    if first not in {"man", "woman", "person", "face", "globe"} and (plural or head in MASS):
        return name
    if first in TAKES_AN or (first[0] in "aeiouAEIO" and first not in TAKES_A):
        return f"an {name}"
    return f"a {name}"


def phrase_of(label: str, subgroup: str) -> str:
    """The noun phrase, article included, that puts a CLDR label into a sentence."""
    label = plain(label)
    before, _, after = label.partition(": ")
    if label in PHRASES:
        return PHRASES[label]
    if subgroup == "zodiac":
        return f"the zodiac sign {label}"
    if before == "keycap":
        return f"a keycap with {KEYCAPS.get(after, f'the number {after}')}"
    if after == "bald":
        return f"a bald {before}"
    if after:
        return f"a {before} with {'a beard' if after == 'beard' else after}"
    if label.endswith(" (blood type)"):
        return f"a blood type {label.split()[0]} button"
    if label.endswith(("o'clock", "-thirty")):
        return f"a clock showing {label}"
    if subgroup in {"transport-sign", "warning", "math"} and not re.search("sign|symbol", label):
        return with_article(f"{label} sign")
    if label.startswith("input "):
        return f"a button for {label[6:]}"
    return with_article(label.replace("index pointing", "index finger pointing"))


def same_word(a: str, b: str) -> bool:
    """Whether two words say the same: "smile" and "smiling", "heart" and "hearts"."""
    if a.rstrip("s") == b.rstrip("s"):
        return True
    length = max(4, math.ceil(0.7 * min(len(a), len(b))))
    return a[:length] == b[:length]


def keywords_of(tags: list[str], phrase: str, noise: set[str]) -> list[str]:
    """At most ten keywords that add something to the phrase and to one another."""
    joined = [text.strip() for text in JOINED.split(",")]
    joined = [text for text in joined if set(text.lower().split()) <= set(tags)]
    used = words(" ".join(joined).lower())
    known = re.findall(r"\w+", phrase.lower()) + re.findall(r"[\w'-]+", phrase.lower())
    keywords = []
    for tag in [*joined, *(plain(tag) for tag in tags if tag not in used)]:
        new = [part for part in tag.split() if not any(same_word(part, word) for word in known)]
        if new and tag not in noise and re.match(r"[^\W\d_]|\d+:", tag):
            keywords.append(tag.capitalize() if tag in PROPER else tag)
            known += new
    count = min(len(keywords), 10)
    return [keywords[i * len(keywords) // count] for i in range(count)]


def listed(parts: list[str]) -> str:
    """["a", "b", "c"] -> "a, b and c"."""
    return " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))


def captions_of(label: str, subgroup: str, tags: list[str]) -> list[str]:
    """Two to four captions of a concept: its name, a plain sentence, and its keywords in two."""
    phrase = phrase_of(label, subgroup)
    kind = ("a picture", "an image", "a drawing", "an icon")[int(4 * share("kind:" + phrase))]
    captions = [re.sub("^(an?|the) ", "", phrase), f"{kind} of {phrase}"]

    is_sign = re.match("face|hand-f|hand-s|heart|emotion|person-gesture", subgroup)
    is_sign = is_sign and subgroup != "face-costume"  # a ghost means nothing, a smile does
    keywords = keywords_of(tags, phrase, NOISE | PARTS if is_sign else NOISE)
    first, second = keywords[0::2], keywords[1::2]
    if len(keywords) in (2, 3):
        first, second = keywords, keywords[::-1]
    if first:
        captions.append(f"{phrase}, {'meaning' if is_sign else 'tagged'} {listed(first)}")
    if second:
        captions.append(f"{listed(second)}: {phrase}")
    return captions


def drawings_of(files: dict[str, bytes]) -> dict[str, str]:
    """The SVG text of every icon of an Iconify package, by its name; aliases included."""
    icons = json.loads(files["package/icons.json"])
    side = icons.get("width", 16), icons.get("height", 16)
    drawings = {}
    for name, icon in icons["icons"].items():
        width, height = icon.get("width", side[0]), icon.get("height", side[1])
        drawings[name] = (
            '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'viewBox="{icon.get("left", 0)} {icon.get("top", 0)} {width} {height}" '
            f'width="256" height="256">{icon["body"]}</svg>'
        )
    for name, alias in icons.get("aliases", {}).items():
        if alias["parent"] in drawings:
            drawings[name] = drawings[alias["parent"]]
    return drawings


def slug(label: str) -> str:
    """ "face with tears of joy" -> "face-with-tears-of-joy", as Iconify names its icons."""
    return re.sub("[^a-z0-9]+", "-", plain(label).lower()).strip("-")


def read_pictures(files: dict[str, dict[str, bytes]]) -> dict[str, dict[str, bytes | str]]:
    """Every style's pictures (PNG or WebP files, or SVG text) by the key of the emoji.

    EmojiOne's icons have names only: CLDR labels of their day, which OpenMoji's package, made in
    the same way, gives with code points.
    """
    pictures = {}
    for style, folder in PICTURES.items():
        names = sorted(name for name in files[style] if name.startswith(folder))
        pictures[style] = {key_of(Path(name).stem): files[style][name] for name in names}
    name_of = {}
    for code_points, name in json.loads(files["openmoji"]["package/chars.json"]).items():
        name_of.setdefault(key_of(code_points), name)
    labels = {
        key_of(entry["hexcode"]): slug(entry["label"])
        for entry in json.loads(files["emojibase"]["package/en/data.json"])
    }
    for style, names in (("openmoji", [name_of]), ("emojione", [labels, name_of])):
        drawings = drawings_of(files[style])
        pictures[style] = {
            key: drawings[known[key]]
            for known in reversed(names)
            for key in known
            if known[key] in drawings
        }
    return pictures


def read_concepts(files: dict[str, dict[str, bytes]]) -> list[dict]:
    """Every emoji that has its own picture in three styles or more, in the order of Unicode."""
    pictures = read_pictures(files)
    qualified = {
        key_of(entry["unified"]): entry["unified"]
        for entry in json.loads(files["noto"]["package/emoji.json"])
    }
    groups = json.loads(files["emojibase"]["package/meta/groups.json"])
    concepts = []
    for entry in json.loads(files["emojibase"]["package/en/data.json"]):
        key, label = key_of(entry["hexcode"]), entry["label"]
        if key not in qualified or not all(key in pictures[style] for style in EVERY_CONCEPT_HAS):
            continue
        subgroup = groups["subgroups"][str(entry["subgroup"])]
        if family_of(label) in LEFT_OUT or subgroup in LEFT_OUT_SUBGROUPS:
            continue
        concept = {
            "key": key,
            "emoji": "".join(chr(int(part, 16)) for part in qualified[key].split("-")),
            "label": label,
            "captions": captions_of(label, subgroup, entry["tags"]),
            "group": groups["groups"][str(entry["group"])],
            "subgroup": subgroup,
            "pictures": {s: pictures[s][key] for s in STYLES if key in pictures[s]},
        }
        concepts.append(concept)
    return concepts


def names_of(files: dict[str, bytes]) -> dict[str, str]:
    """The CLDR name of every emoji, without FE0F and skin tones, as `storage.words` looks it up."""
    tones = range(0x1F3FB, 0x1F400)
    names = {}
    for entry in json.loads(files["package/en/data.json"]):
        key = "".join(chr(int(part, 16)) for part in key_of(entry["hexcode"]).split("-"))
        names[key] = entry["label"]
        for skin in entry.get("skins", ()):  # two hands that only tones join to one emoji
            parts = [int(part, 16) for part in key_of(skin["hexcode"]).split("-")]
            bare = "".join(chr(part) for part in parts if part not in tones)
            names.setdefault(bare, re.sub(r"(: |, )[a-z-]+ skin tone", "", skin["label"]))
    return names


def splits_of(concept: dict) -> dict[str, str]:
    """The split of each style of a concept; a style that is not stored is not named."""
    if share("held out:" + family_of(concept["label"])) < 0.1:
        return {"fluent": "test_concepts"}
    validation = share("validation:" + concept["key"]) < 0.1
    splits = {"twemoji": "validation" if validation else "train", "fluent": "test"}
    return {style: splits.get(style, "train") for style in concept["pictures"]}


def render(picture: bytes | str) -> bytes:
    """64x64 RGB on white, as WebP. Pillow resizes RGBA with premultiplied alpha: clean edges."""
    if isinstance(picture, str):
        picture = bytes(resvg_py.svg_to_bytes(svg_string=picture))
    image = PILImage.open(io.BytesIO(picture)).convert("RGBA")
    side = max(image.size)
    square = PILImage.new("RGBA", (side, side))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    square = square.resize((64, 64), PILImage.Resampling.LANCZOS)
    white = PILImage.new("RGBA", (64, 64), "white")
    encoded = io.BytesIO()
    image = PILImage.alpha_composite(white, square).convert("RGB")
    image.save(encoded, "WEBP", quality=95, method=6, use_sharp_yuv=True)
    return encoded.getvalue()


def leave_out_shared(concepts: list[dict]) -> None:
    """Take out the pictures that a style, of those not asked for, uses for several concepts."""
    users = Counter(item for concept in concepts for item in concept["pictures"].items())
    for concept in concepts:
        concept["pictures"] = {
            style: picture
            for style, picture in concept["pictures"].items()
            if style in EVERY_CONCEPT_HAS or users[style, picture] == 1
        }


def check(concepts: list[dict]) -> None:
    """Stop if two concepts share a caption or, in one style, a picture."""
    owner = {}
    for concept in concepts:
        label, captions = concept["label"], concept["captions"]
        for thing in [*captions, *concept["pictures"].items()]:
            if owner.setdefault(thing, label) != label:
                sys.exit(f"{label} and {owner[thing]} share a caption or a picture.")
        if not 2 <= len(set(captions)) == len(captions) <= 5:
            sys.exit(f"{label} needs 2 to 5 different captions, not {captions}.")
        if any(len(caption.split()) > 25 for caption in captions):
            sys.exit(f"{label} has a caption of more than 25 words: {captions}.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, help="folder for the packages (default: temporary)")
    parser.add_argument("--out", type=Path, default=OUTPUT)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        cache = arguments.cache or Path(temporary)
        cache.mkdir(parents=True, exist_ok=True)
        files = {name: fetch(name, cache) for name in tqdm(PACKAGES, desc="packages")}
    concepts = read_concepts(files)
    for concept in tqdm(concepts, desc="pictures"):
        concept["pictures"] = {s: render(p) for s, p in concept["pictures"].items()}
    leave_out_shared(concepts)
    check(concepts)

    rows = []
    for concept in concepts:
        for style, split in splits_of(concept).items():
            image_id = f"{style}/{concept['key']}"
            image = {"bytes": concept["pictures"][style], "path": f"{image_id}.webp"}
            own = {"image": image, "image_id": image_id, "style": style, "split": split}
            rows.append({name: own.get(name, concept.get(name)) for name in FEATURES})
    table = pa.Table.from_pylist(rows, schema=FEATURES.arrow_schema)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, arguments.out, compression="zstd", row_group_size=500)

    names = json.dumps(names_of(files["emojibase"]), ensure_ascii=False, indent=0)
    (arguments.out.parent / "names.json").write_text(names + "\n", encoding="utf-8")

    counts = Counter((row["split"], row["style"]) for row in rows)
    print(f"{len(concepts)} concepts, {len(rows)} pictures, ", end="")
    print(f"{arguments.out.stat().st_size / 1e6:.2f} MB in {arguments.out}")
    print(f"{'split':<14}" + "".join(f"{style:>10}" for style in STYLES))
    for split in ("train", "validation", "test", "test_concepts"):
        print(f"{split:<14}" + "".join(f"{counts[split, style]:>10}" for style in STYLES))


if __name__ == "__main__":
    main()
