"""Exports test vectors of a memory: token ids, compressed ids, row ids, rows, module outputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from engram.arguments import checked
from engram.config.engram_config import EngramConfig
from engram.engines.constants import describe_constants
from engram.engines.export_folder import ExportedFile, ExportFolder
from engram.engines.exported_memory import ExportedMemory, find_exported
from engram.engines.golden_cases import RULES, Case, Reading, make_cases, read_case

SCHEMA = "engram.golden/1"
MANIFEST = "golden.json"
TEXT_FILE = "golden.txt"

_SHAPES = {
    "token_ids": "[token]; -1 at dead positions",
    "starts": "[token]; 1 where a document starts inside the text",
    "compressed_ids": "[token]; the token ids themselves where raw ids are hashed",
    "rows": "[token][layer][column]; offsets are included; layers in the order of layer_ids",
    "history": "[max_ngram_size - 1]; slots of the last token, the oldest first",
    "at": "tokens of the text that stay before those of the step",
}


@dataclass(frozen=True, repr=False)
class ExportedGolden:
    """Result of `export_golden`.

    Attributes:
        output: The folder.
        memory: The memory.
        cases: The cases, each with what an engine must find for its steps.
        row_values: Sampled rows of the tables; empty of a config, and of a checkpoint on the hub.
        module: Vectors of a small module; None where they were not asked for.
        files: The files beside golden.json.
    """

    output: str
    memory: ExportedMemory
    cases: tuple[tuple[Case, tuple[Reading, ...]], ...]
    row_values: list[dict[str, Any]]
    module: dict[str, Any] | None
    files: tuple[ExportedFile, ...]

    def __repr__(self) -> str:
        return f"<ExportedGolden of {self.memory.name}: {len(self.cases)} cases>"

    @property
    def row_ids(self) -> int:
        """Row ids in all cases."""
        return sum(reading.rows.size for _, readings in self.cases for reading in readings)

    def to_dict(self) -> dict[str, Any]:
        """Return what ``engram golden --json`` prints: what was written, without the vectors."""
        return {
            "schema": SCHEMA,
            "output": self.output,
            "target": self.memory.name,
            "layout": self.memory.addresses.layout.name,
            "fingerprint": self.memory.addresses.fingerprint,
            "map_sha256": self.memory.addresses.map_sha256,
            "cases": [
                {
                    "name": case.name,
                    "rule": case.rule,
                    "steps": len(readings),
                    "tokens": sum(len(reading.rows) for reading in readings),
                }
                for case, readings in self.cases
            ],
            "row_ids": self.row_ids,
            "row_values": [
                {key: row[key] for key in ("layer_id", "row", "why", "dtype")}
                for row in self.row_values
            ],
            "module": self.module is not None,
            "files": list(map(asdict, self.files)),
        }


@checked()
def export_golden(
    target: str | Path,
    output: str | Path,
    *,
    config: str | Path | EngramConfig | None = None,
    tokenizer: str | Path | None = None,
    module: bool = False,
    overwrite: bool = False,
) -> ExportedGolden:
    """Write test vectors that an engine can check itself against.

    Every number is computed by the reference form of the hash, the reader of stored tables, and the
    module of the layout.

    Args:
        target: A config file or a template's name; or an attached folder, an adapter, a folder or
            safetensors file with published names, or the hub id of one.
        output: The folder to appear.
        config: The memory, or its config file, where a checkpoint does not state it.
        tokenizer: Name or path of the tokenizer; the target's own when None.
        module: Whether to run a small module of the layout, too; it takes torch.
        overwrite: Whether to replace a folder that this function wrote.

    Returns:
        The cases; `to_dict()` is what ``engram golden --json`` prints.

    Raises:
        MissingFileError: There is no such target, or no tokenizer where the layout needs one.
        InputError: The target has no memory, or the output is there already.
        MismatchError: It is another tokenizer.

    Examples:
        >>> import engram
        >>> exported = engram.export_golden("attached", "golden")
        >>> exported.cases[0][0].name
        'start_of_text'
    """
    memory = find_exported(target, config, tokenizer)
    addresses = memory.addresses
    folder = ExportFolder(Path(output), MANIFEST, SCHEMA, overwrite)
    cases = tuple(
        (case, read_case(addresses, case)) for case in make_cases(addresses, memory.tokenizer)
    )
    with folder.new() as part:
        values = _row_values(memory, cases)
        vectors = None
        if module:
            from engram.engines.golden_module import module_vectors

            vectors = module_vectors(memory.config)
        writers = {
            TEXT_FILE: (
                "the cases as numbers, for readers without JSON",
                lambda path: path.write_text(_as_text(cases), encoding="ascii"),
            )
        }
        files = folder.write(part, writers)
        described = {
            **describe_constants(memory),
            "dead_id": -1,
            "shapes": _SHAPES,
            "rules": RULES,
            "cases": [
                {
                    "name": case.name,
                    "rule": case.rule,
                    **({} if case.text is None else {"text": case.text}),
                    "steps": [reading.to_dict() for reading in readings],
                }
                for case, readings in cases
            ],
            "row_values": values,
            "module": vectors,
        }
        folder.describe(part, described, files)
    return ExportedGolden(str(output), memory, cases, values, vectors, files)


def _row_values(
    memory: ExportedMemory, cases: Sequence[tuple[Case, tuple[Reading, ...]]]
) -> list[dict[str, Any]]:
    """Read sampled rows of the tables, if their files are here."""
    if memory.checkpoint is None or memory.checkpoint.path is None:
        return []
    from engram.engines.golden_rows import row_values

    rows_read = {
        layer_id: list(
            dict.fromkeys(
                row
                for _, readings in cases
                for reading in readings
                for row in reading.rows[:, i].ravel().tolist()
            )
        )
        for i, layer_id in enumerate(memory.addresses.layer_ids)
    }
    return row_values(memory.checkpoint, rows_read)


def _as_text(cases: Sequence[tuple[Case, tuple[Reading, ...]]]) -> str:
    """Write the cases as words and numbers.

    A line with the version; a line with the number of steps, layers and columns; for every step a
    line with its case, `at` and its tokens, and for each of these one with its id, start,
    compressed id and rows.
    """
    steps = [(case.name, reading) for case, readings in cases for reading in readings]
    shape = steps[0][1].rows.shape
    lines = ["engram-golden 1", f"{len(steps)} {shape[1]} {shape[2]}"]
    for name, reading in steps:
        answers = reading.to_dict()
        lines.append(f"{name} {reading.step.at} {len(reading.rows)}")
        columns = (answers[key] for key in ("token_ids", "starts", "compressed_ids"))
        flat = reading.rows.reshape(len(reading.rows), -1).tolist()
        for *numbers, rows in zip(*columns, flat, strict=True):
            lines.append(" ".join(map(str, (*numbers, *rows))))
    return "\n".join([*lines, ""])
