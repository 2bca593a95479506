"""What `engram hash` answers for programs, and the facts behind its notes."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from engram.storage.dtypes import row_bytes

if TYPE_CHECKING:
    from engram.addressing.addresses import Addresses
    from engram.addressing.tokenizer_files import TokenizerFile
    from engram.config.engram_config import EngramConfig
    from engram.corpus.hash.hash_folder import Target
    from engram.corpus.hash.pipeline import HashedText
    from engram.corpus.text.readers import TextReader
    from engram.corpus.tokens.stored_tokens import StoredTokens

SCHEMA = "engram.hash/1"
_CACHE_DTYPES = ("float32", "bfloat16", "fp8", "int8")


def default_note(config: EngramConfig, addresses: Addresses) -> str:
    """Say which memory a text is hashed for without a config."""
    layers = ", ".join(map(str, addresses.layer_ids))
    return (
        f"No -c: sized for the tokenizer, with {config.engram_table_size[0]:,} rows per order "
        f"(twice its {config.engram_vocab_size:,} ids) in {config.n_head_per_ngram} heads, orders "
        f"2 to {config.max_ngram_size}, layers [{layers}], layout {config.layout}, "
        f"seed {config.seed}."
    )


def write_plan(
    target: Target,
    reader: TextReader | StoredTokens,
    tokenizer: TokenizerFile,
    addresses: Addresses,
    add_eos: bool,
) -> dict[str, Any]:
    """Say what would be written; .parquet files are somewhat smaller."""
    from engram.corpus.hash.hash_shards import bytes_per_token
    from engram.corpus.hash.pipeline import estimate_bytes

    parent = target.folder.absolute().parent
    while not parent.exists():
        parent = parent.parent
    return {
        "schema": SCHEMA,
        "dry_run": True,
        "fingerprint": addresses.fingerprint,
        "output": str(target.folder),
        "format": target.format,
        "bytes_per_token": bytes_per_token(addresses, tokenizer.vocab_size),
        "estimated_bytes": estimate_bytes(reader, tokenizer, addresses, add_eos),
        "free_bytes": shutil.disk_usage(parent).free,
    }


def answer(
    hashed: HashedText,
    tokenizer: TokenizerFile,
    addresses: Addresses,
    add_eos: bool,
    row_width: int,
    predict: int | None,
) -> dict[str, Any]:
    """Return what was found, for `--json`.

    Args:
        hashed: What came of hashing.
        tokenizer: The tokenizer.
        addresses: The memory's constants.
        add_eos: Whether every document ends with the end-of-text token.
        row_width: Values of a row of its tables.
        predict: Tokens for which distinct n-grams are predicted; 10 times the text's when None.
    """
    return {
        "schema": SCHEMA,
        "documents": hashed.documents,
        "skipped": hashed.notes.skipped,
        "tokens": hashed.tokens,
        "ids": hashed.ids,
        "seconds": round(hashed.seconds, 3),
        "tokens_per_second": round(hashed.tokens / hashed.seconds),
        "tokenizer": {
            "name": tokenizer.name,
            "vocab_size": tokenizer.vocab_size,
            "sha256": tokenizer.digest,
            "eos_id": tokenizer.eos_id if add_eos else None,
        },
        "eos_token": eos_token(tokenizer, add_eos),
        "compressed_vocab_size": None if addresses.token_map is None else addresses.vocab_size,
        "fingerprint": addresses.fingerprint,
        "layers": [asdict(layer) for layer in hashed.layers],
        "growth": _growth(hashed, predict or 10 * hashed.tokens),
        "cache": _cache(hashed, addresses, row_width) if hashed.caches else None,
    }


def eos_token(tokenizer: TokenizerFile, add_eos: bool) -> str | None:
    """Return the token that ends documents; None when none does."""
    if not add_eos or tokenizer.eos_id is None:
        return None
    name: str | None = tokenizer.tokenizer.id_to_token(tokenizer.eos_id)
    return name


def _growth(hashed: HashedText, tokens: int) -> list[dict[str, Any]]:
    curves = []
    for curve in hashed.growth:
        prediction = curve.predict(tokens)
        curves.append(
            {
                **curve.to_dict(),
                "prediction": None if prediction is None else asdict(prediction),
            }
        )
    return curves


def _cache(hashed: HashedText, addresses: Addresses, row_width: int) -> dict[str, Any]:
    sizes = {dtype: row_bytes(row_width, dtype) for dtype in _CACHE_DTYPES}
    layers = [asdict(layer) for layer in hashed.caches]
    for layer in layers:
        for point in layer["points"]:
            point["bytes"] = {dtype: point["rows"] * size for dtype, size in sizes.items()}
    return {
        "tokens": hashed.cache_tokens,
        "is_whole_text": hashed.cache_tokens == hashed.tokens,
        "rows_per_token": addresses.n_columns,
        "row_width": row_width,
        "row_bytes": sizes,
        "layers": layers,
    }
