"""Tokenizers are found and read as transformers reads them, without transformers."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest
from huggingface_hub import constants
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from engram.addressing import tokenizer_files
from engram.addressing.tokenizer_files import describe_tokenizer, load_tokenizer
from engram.errors import CorruptFileError, MissingFileError

EXTRA = {"content": "<extra>", "lstrip": False, "normalized": False, "rstrip": True}
# Changes to the files beside tokenizer.json, by file.
VARIANTS = {
    "as it is": {},
    "added by the settings": {
        "tokenizer_config.json": {
            "added_tokens_decoder": {
                "545": {**EXTRA, "single_word": False, "special": False, "content": "<second>"},
                "544": {**EXTRA, "single_word": False, "special": True},
            }
        }
    },
    "pad that is new": {"tokenizer_config.json": {"pad_token": "[PAD]", "cls_token": "<cls>"}},
    "tokens with flags": {
        "tokenizer_config.json": {"eos_token": {"__type": "AddedToken", **EXTRA}, "bos_token": None}
    },
    "extra special tokens": {
        "tokenizer_config.json": {"extra_special_tokens": ["<one>", "<two>", "<eos>"]}
    },
    "older files": {
        "special_tokens_map.json": {"pad_token": "<old pad>", "eos_token": "<old eos>"},
        "added_tokens.json": {"<b>": 545, "<a>": 544},
    },
}


@pytest.fixture
def folder(tmp_path, local_bpe):
    return shutil.copytree(local_bpe, tmp_path / "tokenizer")


def change(file, values):
    old = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps({**old, **values}))


def assert_as_auto(folder):
    auto, mine = AutoTokenizer.from_pretrained(folder), load_tokenizer(folder)
    assert mine.vocab_size == len(auto)
    assert (mine.pad_id, mine.eos_id, mine.bos_id) == (
        auto.pad_token_id,
        auto.eos_token_id,
        auto.bos_token_id,
    )
    ids = [[i] for i in range(len(auto))]
    texts = mine.tokenizer.decode_batch(ids, skip_special_tokens=False)
    assert texts == [auto.decode(one) for one in ids]
    text = "Only  Alexander the Great\ncould <extra> tame <eos> the <a> horse ½ é."
    assert mine.tokenizer.encode(text, add_special_tokens=False).ids == auto.encode(
        text, add_special_tokens=False
    )


@pytest.mark.parametrize("name", VARIANTS)
def test_as_transformers(folder, name):
    for file, values in VARIANTS[name].items():
        change(folder / file, values)
    assert_as_auto(folder)


def test_word_tokenizer_as_transformers(local_word):
    assert_as_auto(local_word)


@pytest.mark.real
@pytest.mark.parametrize("name", ["gpt2", "deepseek-v3", "deepseek-v4", "smollm2"])
def test_real_as_transformers(real_assets, name):
    here = "smollm2-135m" if name == "smollm2" else f"tokenizers/{name}"
    assert_as_auto(real_assets / here)


def test_ways_to_name_one(folder, tmp_path, monkeypatch):
    (tmp_path / "shipping_it" / "data").mkdir(parents=True)
    (tmp_path / "shipping_it" / "__init__.py").write_text("raise RuntimeError('imported')")
    for file in folder.iterdir():
        shutil.copy(file, tmp_path / "shipping_it" / "data")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    digests = {
        load_tokenizer(name).digest
        for name in (
            folder,
            str(folder),
            "tokenizer",
            str(folder / "tokenizer.json"),
            "package:shipping-it",
        )
    }
    assert len(digests) == 1


def test_digest_is_of_what_matters(folder):
    first = load_tokenizer(folder).digest
    file = folder / "tokenizer.json"
    values = json.loads(file.read_text())
    values["padding"] = {"strategy": "BatchLongest", "direction": "Left", "pad_id": 0}
    values["padding"] |= {"pad_type_id": 0, "pad_token": "<pad>", "pad_to_multiple_of": None}
    values["truncation"] = {"direction": "Right", "max_length": 9, "strategy": "LongestFirst"}
    values["truncation"]["stride"] = 0
    merges = values["model"]["merges"]
    values["model"]["merges"] = [
        merge if isinstance(merge, str) else " ".join(merge) for merge in merges
    ]
    file.write_text(json.dumps(dict(reversed(values.items())), indent=3))
    assert load_tokenizer(folder).digest == first
    assert load_tokenizer(folder).digest == first  # from the cache
    change(folder / "tokenizer_config.json", {"pad_token": "[PAD]"})
    padded = load_tokenizer(folder).digest
    values["model"]["merges"].pop()
    file.write_text(json.dumps(values))
    assert len({first, padded, load_tokenizer(folder).digest}) == 3


def test_special_tokens_from_the_models_config(folder):
    (folder / "tokenizer_config.json").unlink()
    change(folder / "config.json", {"eos_token_id": [7, 8], "pad_token_id": 10_000})
    tokenizer = load_tokenizer(folder)
    assert (tokenizer.pad_id, tokenizer.eos_id, tokenizer.bos_id) == (None, 7, None)


@pytest.mark.parametrize("old", ["vocab.json", "tokenizer.model"])
def test_folder_that_needs_converting(tmp_path, old):
    (tmp_path / old).write_text("{}")
    with pytest.raises(MissingFileError, match=old) as caught:
        load_tokenizer(tmp_path)
    assert "save_pretrained" in caught.value.hint


@pytest.mark.parametrize(
    "name",
    ["./nothing", "/nothing/here", "a/b/c", "no tokenizer", "tokenizer.json", "package:no-such"],
)
def test_nothing_there(name):
    with pytest.raises(MissingFileError, match="no tokenizer at|no installed package"):
        load_tokenizer(name)


def test_folder_without_any(tmp_path):
    with pytest.raises(MissingFileError, match=r"has no tokenizer\.json"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"\xff\xfe", b'{"model": {"type": "BPE"}}', b"[" * 100_000]
)
def test_damaged_tokenizer(folder, content):
    (folder / "tokenizer.json").write_bytes(content)
    with pytest.raises(CorruptFileError, match="cannot be read as a tokenizer"):
        load_tokenizer(folder)


@pytest.mark.parametrize("content", ["", "[]", "[" * 100_000])
def test_damaged_settings(folder, content):
    (folder / "tokenizer_config.json").write_text(content)
    with pytest.raises(CorruptFileError, match=r"tokenizer_config\.json"):
        load_tokenizer(folder)


def test_hub_that_cannot_be_reached(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(MissingFileError, match="asking the hub failed") as caught:
        load_tokenizer("some/model")
    assert caught.value.hint.count("folder") == 1


@pytest.mark.parametrize(
    ("error", "message"),
    [
        ("GatedRepoError", "is gated"),
        ("RepositoryNotFoundError", "not on the hub"),
        ("RevisionNotFoundError", "no revision 'v9'"),
        ("EntryNotFoundError", r"no tokenizer\.json on the hub"),
        ("RuntimeError", "RuntimeError: what"),
    ],
)
def test_hub_that_refuses(monkeypatch, error, message):
    from huggingface_hub import errors

    kind = getattr(errors, error, RuntimeError)

    def refuse(*_):
        raise kind.__new__(kind, "what") if kind is not RuntimeError else kind("what")

    monkeypatch.setattr(tokenizer_files, "fetch", refuse)
    with pytest.raises(MissingFileError, match=message):
        load_tokenizer("some/model", revision="v9")


def test_hub_files_are_read_like_a_folder(folder, monkeypatch):
    from huggingface_hub import errors

    asked = []

    def download(name, file, revision, offline):
        asked.append((name, file, revision, offline))
        if not (folder / file).exists():
            raise errors.EntryNotFoundError.__new__(errors.EntryNotFoundError)
        return folder / file

    monkeypatch.setattr(
        tokenizer_files, "fetch", lambda *key: (download(*key, offline=False), True)
    )
    monkeypatch.setattr(tokenizer_files, "download", download)
    tokenizer = load_tokenizer("some/model", revision="v9")
    assert (tokenizer.vocab_size, tokenizer.name, tokenizer.eos_id) == (544, "some/model", 1)
    assert {one[:1] + one[2:] for one in asked} == {("some/model", "v9", False)}
    assert "tokenizer_config.json" in {one[1] for one in asked}


def test_neither_torch_nor_transformers_is_imported(local_bpe):
    code = (
        "import sys\n"
        "from engram import EngramConfig, EngramTokenizer\n"
        "config = EngramConfig(hidden_size=8, engram_vocab_size=544, k=2, n_embed_per_ngram=8,\n"
        "                      max_ngram_size=3, layer_ids=[1])\n"
        f"EngramTokenizer(config, {str(local_bpe)!r}).compress_and_hash([[1, 2, 3]])\n"
        "print(sorted({'torch', 'transformers', 'numba', 'sympy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_text_is_never_truncated_or_padded(folder):
    """Many tokenizer.json state a length for training, which is not that of the texts here."""
    whole = load_tokenizer(folder).tokenizer.encode("one two three " * 20).ids
    own = Tokenizer.from_file(str(folder / "tokenizer.json"))
    own.enable_truncation(5)
    own.enable_padding(length=9)
    own.save(str(folder / "tokenizer.json"))
    for given in (folder, own):
        assert describe_tokenizer(given).tokenizer.encode("one two three " * 20).ids == whole
    assert len(own.encode("one two three " * 20).ids) == 9  # the caller's is as it was
