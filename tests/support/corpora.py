"""A text of some units and shards, built and hashed in small pieces."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

from engram.addressing.tokenizer_files import load_tokenizer
from engram.config.engram_config import EngramConfig
from engram.corpus.building.build_corpus import build_corpus
from engram.corpus.hash.hash_options import HashOptions
from engram.corpus.hash.hash_text import plan_hash
from engram.corpus.text.sources import find_sources
from engram.corpus.text.text_options import TextOptions
from support.paths import BPE

TEXT = "".join(
    f"Alexander the Great {i} saw the Milky Way.\nÜber {i * 7919} 字.{' ' * (i % 3)}\n\n"
    for i in range(900)
)


def text_file(folder: Path, name: str = "text.txt", text: str = TEXT) -> Path:
    path = folder / name
    path.write_bytes(text.encode())
    return path


def build_small(where, folder: Path, *, unit_bytes=5000, workers=1, resume=False, **values):
    names = where if isinstance(where, list) else [where]
    sources = [source for name in names for source in find_sources(name)[0]]
    options = {"unit_bytes": unit_bytes, "workers": workers, "resume": resume}
    options |= {key: values.pop(key) for key in ("overwrite", "progress") if key in values}
    return build_corpus(sources, load_tokenizer(str(BPE)), folder, TextOptions(**values), **options)


def hash_small(where, folder: Path, *, workers=1, progress=None, **options):
    config = EngramConfig(
        tokenizer=str(BPE),
        engram_vocab_size=544,
        k=3,
        pad_id=2,
        hidden_size=8,
        n_embed_per_ngram=8,
        n_head_per_ngram=4,
        layer_ids=[3, 1],
    )
    form = HashOptions(**{"shard_tokens": 3000, **options})
    plan = replace(plan_hash(where, config, output=folder, options=form), unit_bytes=5000)
    return plan.run(workers=workers, progress=progress).counts


def digests(folder: Path) -> dict[str, str]:
    return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(folder.iterdir())}
