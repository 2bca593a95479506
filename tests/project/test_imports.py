"""Start-up: what a command does not need, it does not import; the library never imports its CLI."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import engram
from engram_cli import main as cli
from support.cli import imported_by

SLOW = ("torch", "transformers", "numba", "sympy", "tokenizers", "matplotlib", "ray", "pyarrow")
PACKAGE = Path(engram.__file__).parent


@pytest.mark.parametrize(
    "line",
    [
        "--help",
        *(f"{command} --help" for command in cli.COMMANDS),
        *(f"config {command} --help" for command in ("ls", "new", "show", "check")),
        "size --model gpt2 --json",
        "size --model gpt2",
        "allocate --total 9.9B --active 993M --json",
        "allocate --model qwen3-30b-a3b --rho 0.8 --emit traded",
        "config ls",
        "config show deepseek-v4.1-flash",
        "config new llama --model llama-3.2-3b --budget 400M -o new.yaml",
        "config check gpt2 demo --json",
        "report engram-27b --json",
        "env",
    ],
)
def test_commands_that_need_nothing_slow_import_nothing_slow(line, tmp_path):
    done, imported = imported_by(*line.split(), cwd=tmp_path)
    done.ended()
    assert imported & {*SLOW, "pydantic"} == set()
    assert "numpy" not in imported
    if line in (
        "--help",
        *(f"{command} --help" for command in cli.COMMANDS),
        "size --model gpt2 --json",
    ):
        assert "rich" not in imported


@pytest.mark.parametrize("module", ["engram_cli", "engram_cli.main"])
def test_modules_that_stand_for_the_command(module):
    for words, code in ((["--version"], 0), (["nonsense"], 2)):
        done = subprocess.run(
            [sys.executable, "-m", module, *words], text=True, capture_output=True, check=False
        )
        assert done.returncode == code
        said = f"engram {engram.__version__}" if code == 0 else "Unknown command 'nonsense'"
        assert said in done.stdout + done.stderr


def test_matplotlib_is_imported_where_something_is_drawn(tmp_path):
    size = ("size", "--model", "gpt2", "--json")
    assert "matplotlib" not in imported_by(*size, cwd=tmp_path)[1]
    done, imported = imported_by(*size, "--plot", "size.svg", cwd=tmp_path)
    assert done.ended().json()["curve"]
    assert "matplotlib" in imported
    assert "matplotlib.pyplot" not in imported  # it has a state that belongs to the user
    assert not {"torch", "transformers"} & imported
    code = "import sys, engram.pictures.style; assert 'matplotlib' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_pictures_alone_import_matplotlib():
    folders = (PACKAGE, PACKAGE.parent / "engram_cli")
    found = [
        f"{path.name} imports {name}"
        for folder in folders
        for path in folder.rglob("*.py")
        for name in imported_names(path)
        if name.startswith("matplotlib.pyplot")
        or (name.startswith("matplotlib") and path.parent != PACKAGE / "pictures")
    ]
    assert found == []


def test_help_imports_no_command(tmp_path):
    done, imported = imported_by("--help", cwd=tmp_path)
    done.ended()
    assert {f"engram_cli.{command}" for command in cli.COMMANDS} & imported == set()


def test_modules_of_memories_import_no_compiler():
    """torch.compile takes more than a second to import, and commands like `convert` need none."""
    code = "import sys, engram.nn, engram.nn.quantised\nassert 'torch._dynamo' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_public_names_are_sorted_and_lazy():
    assert engram.__all__ == sorted(engram.__all__)
    code = (
        "import sys, engram\n"
        "assert set(engram.__all__) <= set(dir(engram))\n"
        f"assert not {{*{SLOW}, 'numpy'}} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_public_names_exist():
    for name in engram.__all__:
        assert getattr(engram, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = engram.nothing


def test_the_library_neither_imports_its_command_line_nor_prints():
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        if path != PACKAGE / "__main__.py":
            assert "import engram_cli" not in text, path
            assert "from engram_cli" not in text, path
        for word in ("print(", "sys.exit(", "input("):
            lines = [line for line in text.splitlines() if line.strip().startswith(word)]
            assert lines == [], path


# From the lowest floor up; a part may import from itself and from the floors below its own.
FLOORS = {
    "engram": (
        ("errors",),
        ("checks", "growth", "seams", "tensor_names", "threads", "units", "version"),
        ("arguments",),
        ("storage",),
        ("layouts",),
        ("config", "backbone"),
        ("addressing",),
        ("sizing", "corpus"),
        ("nn",),
        ("hf",),
        ("checkpoints",),
        ("engines",),
        ("training",),
        ("evaluation",),
        ("pictures",),
    ),
    "engram.corpus": (
        ("text",),
        ("results",),
        ("tokens",),
        ("foreign",),
        ("building", "counts"),
        ("ray",),
        ("hash",),
        ("verify",),
    ),
    "engram.checkpoints": (
        ("published", "gguf"),
        ("read",),
        ("attach", "report"),
        ("verify",),
        ("convert",),
    ),
}


def imported_names(path):
    """Dotted names that a file imports: `engram.addressing.primes.head_primes`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            yield from (f"{node.module or ''}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize("house", FLOORS)
def test_imports_point_downwards(house):
    floor_of = {name: floor for floor, names in enumerate(FLOORS[house]) for name in names}
    folder = PACKAGE.joinpath(*house.split(".")[1:])
    parts = {path.stem for path in folder.iterdir() if path.suffix == ".py" or path.is_dir()}
    parts -= {"__init__", "__main__", "__pycache__", "data", "_templates"}
    assert parts <= floor_of.keys(), "a new part of the library needs its floor"
    upwards = [
        f"{path.relative_to(PACKAGE)} imports {name}"
        for path in folder.rglob("*.py")
        if (part := path.relative_to(folder).parts[0].removesuffix(".py")) in floor_of
        for name in imported_names(path)
        if name.startswith(f"{house}.")
        and (other := name.removeprefix(f"{house}.").partition(".")[0]) in floor_of
        and other != part
        and floor_of[other] >= floor_of[part]
    ]
    assert upwards == []


def test_nothing_below_imports_the_front_door():
    parts = {path.stem for path in PACKAGE.iterdir()}
    found = [
        f"{path.relative_to(PACKAGE)} imports {name}"
        for path in PACKAGE.rglob("*.py")
        if path.parent != PACKAGE
        for name in imported_names(path)
        if name == "engram" or (name.startswith("engram.") and name.split(".")[1] not in parts)
    ]
    assert found == []


def test_no_test_imports_another():
    folder = Path(__file__).parents[1]
    found = [
        f"{path.relative_to(folder)} imports {name}"
        for path in folder.rglob("*.py")
        for name in imported_names(path)
        if any(part.startswith("test_") for part in name.split("."))
    ]
    assert found == [], "what tests share lies in tests/support"
