"""Put onnxruntime-web, which runs the model in a reader's browser, into the book (authors only).

In: the pinned npm package, through the npm client, and the licences that the Python package
onnxruntime ships, of the same source code. Out: `book/_static/search/onnxruntime-web/` with the
build for WebAssembly alone (it runs with one thread, on any server) and the licences. The
WebAssembly is stored compressed, and the browser unpacks it: a quarter of the download.
"""

import argparse
import gzip
import hashlib
import importlib.util
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

PACKAGE = "onnxruntime-web@1.30.0"
SHA256 = "d2228df7e4616bc3348bf504ee888f3bec43789a273f0a63f3e68d203ce3bf71"
FILES = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")
FOLDER = Path(__file__).parents[1] / "book" / "_static" / "search" / "onnxruntime-web"


def main() -> None:
    argparse.ArgumentParser(description=__doc__.split("\n\n")[0]).parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["npm", "pack", PACKAGE, "--pack-destination", folder], check=True)
        tarball = next(Path(folder).glob("*.tgz"))
        found = hashlib.sha256(tarball.read_bytes()).hexdigest()
        if found != SHA256:
            sys.exit(f"{PACKAGE} has the sha256 {found}, but this tool is pinned to {SHA256}.")
        with tarfile.open(tarball) as archive:
            for name in FILES:
                write(name, archive.extractfile(f"package/dist/{name}").read())
    wheel = Path(importlib.util.find_spec("onnxruntime").origin).parent
    for name in ("LICENSE", "ThirdPartyNotices.txt"):
        shutil.copyfile(wheel / name, FOLDER / name)


def write(name: str, content: bytes) -> None:
    """The file as it is, or compressed where that pays; the same bytes each time."""
    if name.endswith(".wasm"):
        name, content = f"{name}.gz", gzip.compress(content, 9, mtime=0)
    else:  # the address of the source map, which we do not ship
        content = content.split(b"\n//# sourceMappingURL=")[0] + b"\n"
    (FOLDER / name).write_bytes(content)
    print(f"{len(content):>9,} bytes  {FOLDER / name}")


if __name__ == "__main__":
    main()
