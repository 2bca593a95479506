"""What users see, replayed: exit codes, JSON and files of every command on fixed inputs.

`commands.txt` lists the commands in scenes, each run in a folder of its own; `recorded/` holds what
came out. After a change that is meant, run ``ENGRAM_RECORD=1 pytest tests/replay`` and read the
difference.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
from pathlib import Path
from typing import Any

import pytest

from replay.inputs import write_inputs
from support.paths import REPOSITORY

_HERE = Path(__file__).parent
# Prose for people, and what no two runs or machines have in common.
_LEFT_OUT = {"message", "hint", "detail", "assumptions", "notes", "next", "seconds"} | {
    "tokens_per_second",
    "free_bytes",
    "details",
}
# The cache, files of true headers and hundreds of gigabytes, and answers kept with ">".
_NOT_DIGESTED = {"cache", "released", "half", "stats.json"}


def scenes() -> dict[str, list[str]]:
    """Read the commands by scene."""
    found: dict[str, list[str]] = {}
    for line in (_HERE / "commands.txt").read_text().splitlines():
        if line.startswith("# "):
            found[line[2:]] = lines = []
        elif line:
            lines.append(line)
    return found


SCENES = scenes()


def plain(value: Any, folder: Path) -> Any:
    """Leave out what may differ, round numbers to six digits, and take paths relative."""
    if isinstance(value, dict):
        return {key: plain(v, folder) for key, v in value.items() if key not in _LEFT_OUT}
    if isinstance(value, list):
        return [plain(one, folder) for one in value]
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, str):
        for place in (folder, REPOSITORY):
            value = value.replace(f"{place}/", "").replace(str(place), ".")
        return value
    return value


def digests(folder: Path) -> dict[str, str]:
    """Digest every file of a folder; the folder's own path in them does not count."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(
            path.read_bytes().replace(str(folder).encode(), b".")
        ).hexdigest()[:16]
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.relative_to(folder).parts[0] not in _NOT_DIGESTED
    }


def seen(line: str, folder: Path, forks: Any) -> dict[str, Any]:
    """Run one command and tell what a user sees."""
    line, _, target = line.partition(" > ")
    done = forks.run(
        [*shlex.split(line), "--json"], folder, env={"ENGRAM_CACHE": str(folder / "cache")}
    )
    if target:
        (folder / target).write_text(done.stdout)
    told: dict[str, Any] = {"code": done.code}
    if done.stdout:
        told["stdout"] = plain(json.loads(done.stdout), folder)
    errors = [text for text in done.stderr.splitlines() if text.startswith('{"schema"')]
    if errors:
        told["error"] = json.loads(errors[-1])["code"]
    return told


@pytest.mark.parametrize("scene", SCENES)
def test_commands_answer_as_recorded(scene, forks, tmp_path):
    write_inputs(tmp_path)
    before, found = digests(tmp_path), []
    for line in SCENES[scene]:
        told = seen(line, tmp_path, forks)
        after = digests(tmp_path)
        changed = {name: value for name, value in after.items() if before.get(name) != value}
        gone = {name: "removed" for name in before if name not in after}
        found.append({"command": line, **told, "files": {**changed, **gone}})
        before = after
    file = _HERE / "recorded" / f"{scene}.jsonl"
    if os.environ.get("ENGRAM_RECORD") == "1":
        lines = (json.dumps(one, ensure_ascii=False) + "\n" for one in found)
        file.write_text("".join(lines))
    recorded = [json.loads(line) for line in file.read_text().splitlines()]
    assert [one["command"] for one in found] == [one["command"] for one in recorded]
    for now, then in zip(found, recorded, strict=True):
        assert now == then
