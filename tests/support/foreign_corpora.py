"""Writers of other tools' corpora, after the public definitions of their formats."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Documents = Sequence[Sequence[int]]
# Types of Megatron's tokens, as struct writes them.
MEGATRON = {1: "B", 2: "b", 3: "h", 4: "i", 5: "q", 6: "d", 7: "f", 8: "H"}
GPT2, LLAMA3 = (20240520, 1, "H"), (20240801, 7, "I")


def megatron(prefix: Path, documents: Documents, code: int = 8, pieces: int = 1) -> Path:
    """Write a .bin and its .idx.

    Args:
        prefix: Both names without their suffix.
        documents: Token ids.
        code: Type of the tokens.
        pieces: Sequences of each document.
    """
    sequences: list[Sequence[int]] = []
    firsts = [0]
    for document in documents:
        size = max(1, -(-len(document) // pieces))
        sequences += [document[at : at + size] for at in range(0, len(document), size)] or [()]
        firsts.append(len(sequences))
    kind = MEGATRON[code]
    data = b"".join(struct.pack(f"<{len(it)}{kind}", *it) for it in sequences)
    begins, at = [], 0
    for sequence in sequences:
        begins.append(at)
        at += len(sequence) * struct.calcsize(kind)
    index = b"MMIDIDX\0\0" + struct.pack("<Q", 1) + struct.pack("<B", code)
    index += struct.pack("<QQ", len(sequences), len(firsts))
    index += struct.pack(f"<{len(sequences)}i", *map(len, sequences))
    index += struct.pack(f"<{len(begins)}q", *begins) + struct.pack(f"<{len(firsts)}q", *firsts)
    prefix.with_name(f"{prefix.name}.idx").write_bytes(index)
    path = prefix.with_name(f"{prefix.name}.bin")
    path.write_bytes(data)
    return path


def datatrove(
    path: Path, documents: Documents, token_bytes: int = 2, metadata: str | None = None
) -> Path:
    """Write a .ds and its .ds.index; with the name of a tokenizer, its .ds.metadata, too."""
    kind, ends, done = {2: "H", 4: "I"}[token_bytes], [], 0
    with path.open("wb") as file:
        for document in documents:
            file.write(struct.pack(f"<{len(document)}{kind}", *document))
            done += len(document)
            ends.append(done)
    Path(f"{path}.index").write_bytes(struct.pack(f"<{len(ends)}Q", *ends))
    if metadata is not None:
        Path(f"{path}.metadata").write_text(f"{metadata}|{token_bytes}\n{done}\n{done} T")
    return path


def llm_c(path: Path, documents: Documents, kind: tuple[int, int, str] = GPT2) -> Path:
    """Write a shard of llm.c; documents begin with the token that says so."""
    magic, version, letter = kind
    tokens = [token for document in documents for token in document]
    header = struct.pack("<256i", magic, version, len(tokens), *[0] * 253)
    path.write_bytes(header + struct.pack(f"<{len(tokens)}{letter}", *tokens))
    return path


def dataset(
    folder: Path,
    columns: dict[str, Any],
    files: int = 1,
    batch_rows: int = 40,
    compression: str | None = None,
) -> Path:
    """Write a data set as `save_to_disk` does.

    Args:
        folder: The folder.
        columns: Arrays of pyarrow by name.
        files: How many files of as many rows.
        batch_rows: Rows of a record batch.
        compression: Compression of the batches, which `save_to_disk` has none of.
    """
    import pyarrow as pa

    folder.mkdir(parents=True, exist_ok=True)
    table = pa.table(columns)
    names = [f"data-{at:05d}-of-{files:05d}.arrow" for at in range(files)]
    rows = -(-table.num_rows // files)
    options = pa.ipc.IpcWriteOptions(compression=compression)
    for at, name in enumerate(names):
        part = table.slice(at * rows, rows)
        with (
            pa.OSFile(os.fsencode(folder / name), "wb") as sink,
            pa.ipc.new_stream(sink, table.schema, options=options) as writer,
        ):
            writer.write_table(part, max_chunksize=batch_rows)
    state = {"_data_files": [{"filename": name} for name in names], "_fingerprint": "0"}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text(json.dumps({"features": {}}))
    return folder


def id_lists(documents: Documents, kind: str = "int32") -> Any:
    """Return documents as a column of lists of whole numbers."""
    import pyarrow as pa

    return pa.array([list(it) for it in documents], pa.list_(getattr(pa, kind)()))
