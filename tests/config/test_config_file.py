"""Config files: strict, with every problem and its line; written so that they read back equal."""

import json
import os
from dataclasses import replace

import pytest

from engram.config.config_file import dump_config, read_config, read_values, write_config
from engram.config.engram_config import CONFIG_KEYS, EngramConfig
from engram.config.strict_yaml import parse_mapping, parse_value
from engram.config.templates import load_template
from engram.errors import ConfigError, MissingFileError

GOOD = """\
layout: demo
hidden_size: 64
engram_vocab_size: 1_000
engram_table_size: [800, 1600]
max_ngram_size: 3
n_embed_per_ngram: 32
n_head_per_ngram: 4
layer_ids: [1, 3]
pad_id: 0
"""


def write(folder, text, name="config.yaml"):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def problems(path):
    with pytest.raises(ConfigError) as refusal:
        read_config(path)
    error = refusal.value
    assert error.exit_code == 3
    assert error.hint
    return [(problem.line, problem.key, problem.message) for problem in error.problems]


def test_read(tmp_path):
    config = read_config(write(tmp_path, GOOD))
    assert config == EngramConfig(
        hidden_size=64,
        engram_vocab_size=1000,
        engram_table_size=[800, 1600],
        max_ngram_size=3,
        n_embed_per_ngram=32,
        n_head_per_ngram=4,
        layer_ids=[1, 3],
        pad_id=0,
    )
    assert read_config(write(tmp_path, "schema: 1\n" + GOOD)) == config
    assert read_config(write(tmp_path, b"\xef\xbb\xbf" + GOOD.encode())) == config
    assert read_config(write(tmp_path, GOOD.replace("\n", "\r\n"))) == config


@pytest.mark.parametrize("indent", [None, 2, "\t"])
def test_json_is_read_as_well(tmp_path, indent):
    config = read_config(write(tmp_path, GOOD))
    text = json.dumps(config.to_dict(), indent=indent)
    assert read_config(write(tmp_path, text, "config.json")) == config


def test_k_is_rows_per_order_in_vocabularies(tmp_path):
    text = GOOD.replace("engram_table_size: [800, 1600]", "k: 2.5")
    assert read_config(write(tmp_path, text)).engram_table_size == [2500, 2500]


def test_every_problem_at_once_with_its_line(tmp_path):
    text = (
        "layout: demoo\n"  # 1
        "hiden_size: 3\n"  # 2
        "hidden_size: wide\n"  # 3
        "hidden_size: 64\n"  # 4
        "engram_vocab_size: [646400, 646400]\n"  # 5
        "max_ngram_size: 3\n"
        "n_head_per_ngram: 7\n"
        "layer_ids: [1, 1]\n"  # 8
        "eps: 1e-20\n"
        "pad_id: !!python/name:os.system\n"  # 10
        "schema: 7\n"  # 11
    )
    path = write(tmp_path, text)
    found = problems(path)
    assert [(line, key) for line, key, _ in found] == [
        (None, "n_embed_per_ngram"),
        (None, "engram_table_size"),
        (1, "layout"),
        (2, "hiden_size"),
        (3, "hidden_size"),
        (4, "hidden_size"),
        (5, "engram_vocab_size"),
        (8, "layer_ids"),
        (10, "pad_id"),
        (11, "schema"),
    ]
    by_line = {line: message for line, _, message in found}
    assert "did you mean hidden_size?" in by_line[2]
    assert by_line[4] == "given twice; the first is on line 3"
    assert "rows per HEAD" in by_line[5]
    with pytest.raises(ConfigError, match=f"{path}:8: layer_ids: "):
        read_config(path)


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("", None, "the file is empty"),
        ("# only a comment\n", None, "the file is empty"),
        ("- 1\n- 2\n", 1, "not a mapping"),
        ("just text", 1, "not a mapping"),
        ("a: 1\n\tb: 2\n", 2, "a tab"),
        ("seed:\t1\n", 1, "a tab"),
        ("a: &x 1\nb: *x\n", 1, "anchors"),
        ("a: &x [*x]\n", 1, "anchors"),
        ("a: *nothing\n", 1, "anchors"),
        ("a: [1,\n", 2, "flow node"),
        ("a: [1, 2\nb: 3\n", 2, "a bracket or brace is not closed"),
        ("a: [1, 2]]\n", 1, "a bracket too many"),
        ("a: b: c\n", 1, "has a second colon"),
        ("a: 1\n  b: 2\n", 2, "not indented like the keys around it"),
        ("a 1\nb: 2\n", 2, "above lacks the colon and space after its key"),
        ("a: 1\nb\nc: 2\n", 3, "the line above is not a `key: value` line: its colon is missing"),
        ("  a: 1\nb: 2\n", 2, "the lines above are indented differently"),
        ("a: 'x\nb: 2\n", 3, "a quotation mark is not closed"),
        ("a: @x\n", 1, "needs quotes (YAML: while scanning"),
        ("- a\nb: 2\n", 2, "a list and `key: value` lines are mixed"),
        ("a: 1\n---\nb: 1\n", 2, "a second document"),
        ("a: \x01\n", 1, "#x0001"),
        ("a: " + "[" * 200_000, 1, "nested more than 8 deep"),
        ("a: " + "{a: " * 200_000, 1, "nested more than 8 deep"),
        (b"a: 1\nb: \xff\n", 2, "byte 0xff is not UTF-8"),
        (b"a: 1 # " + b"x" * 2**20, None, "larger than 1048576 bytes"),
    ],
)
def test_what_is_no_config_is_refused(tmp_path, text, line, message):
    ((found_line, _, found),) = problems(write(tmp_path, text))
    assert (found_line, message in found) == (line, True), found


@pytest.mark.parametrize("key", [*CONFIG_KEYS, "schema"])
@pytest.mark.parametrize(
    "value", ["{a: 1}", "[]", "''", "-1", "1.5", ".nan", "2020-01-01", "9" * 5000]
)
def test_no_value_of_any_key_crashes(tmp_path, key, value):
    lines = [line for line in GOOD.splitlines() if not line.startswith(f"{key}:")]
    path = write(tmp_path, "\n".join([*lines, f"{key}: {value}"]))
    try:
        read_config(path)
        found = []
    except ConfigError as error:
        found = error.problems
    assert all(len(problem.message) < 600 for problem in found)
    assert not found or key == "layout" or key in {problem.key for problem in found}


def test_long_values_are_not_repeated_whole(tmp_path):
    ((_, key, message),) = problems(write(tmp_path, GOOD + f"seed: {'x' * 10_000}\n"))
    assert key == "seed"
    assert len(message) < 500


def test_scalars_follow_yaml_1_2():
    text = "a: 1e-20\nb: no\nc: 0777\nd: 1:30\ne: ~\nf:\ng: 1_000\nh: '5'\ni: True\nj: .5\nk: -3"
    assert parse_mapping(text).values == {
        **{"a": 1e-20, "b": "no", "c": "0777", "d": "1:30", "e": None, "f": None},
        **{"g": 1000, "h": "5", "i": True, "j": 0.5, "k": -3},
    }


def test_parse_value():
    assert parse_value("[1, 6]") == [1, 6]
    assert parse_value("") is None
    for text in ("a: b", "1\nb: 2", "[1", "*x"):
        with pytest.raises(ValueError, match=r"\w"):
            parse_value(text)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(MissingFileError, match="does not exist"):
        read_config(tmp_path / "none.yaml")
    (tmp_path / "file").write_text("")
    with pytest.raises(MissingFileError, match="does not exist"):
        read_config(tmp_path / "file" / "none.yaml")
    with pytest.raises(IsADirectoryError):
        read_config(tmp_path)


def test_a_file_that_never_ends_is_refused():
    if not os.path.exists("/dev/zero"):  # noqa: PTH110
        pytest.skip("no /dev/zero")
    assert problems("/dev/zero") == [(None, "", "larger than 1048576 bytes: not a config file")]


def test_values_without_defaults(tmp_path):
    path = write(tmp_path, GOOD)
    assert list(read_values(path)) == [line.split(":")[0] for line in GOOD.splitlines()]
    with pytest.raises(ConfigError):
        read_values(write(tmp_path, "a: 1\na: 2\n"))


@pytest.mark.parametrize("comments", [True, False])
@pytest.mark.parametrize(
    "tokenizer",
    [
        "gpt2",
        "a/b.json",
        "1e5",
        "no",
        "12",
        "with space",
        "# x",
        "é 😀",
        "",
        "null",
        "a: b",
        "'\"\\",
    ],
)
def test_written_configs_read_back_equal(tmp_path, tokenizer, comments):
    config = EngramConfig(
        tokenizer=tokenizer,
        hidden_size=64,
        engram_vocab_size=1000,
        engram_table_size=[800, 1600, 900],
        max_ngram_size=4,
        layer_ids=[7, 1],
        pad_id="<|pad|>",
        eps=1e-20,
        use_offload=True,
    )
    path = tmp_path / "config.yaml"
    write_config(path, config, comments=comments, title="A title")
    assert read_config(path) == config
    assert path.read_text(encoding="utf-8").startswith("# A title\n")
    assert [file.name for file in tmp_path.iterdir()] == ["config.yaml"]


def test_other_yaml_readers_read_the_same():
    import yaml

    config = EngramConfig(
        tokenizer="1e5",
        hidden_size=64,
        engram_vocab_size=1000,
        k=2,
        eps=1e-20,
        layer_ids=[1],
    )
    assert yaml.safe_load(dump_config(config)) == config.to_dict()


def test_every_key_is_explained_and_rows_per_head_stand_beside_the_tables():
    config = EngramConfig(hidden_size=64, engram_vocab_size=1000, engram_table_size=[800, 1600])
    lines = dump_config(config).splitlines()
    for key, value in config.to_dict().items():
        (at,) = [i for i, line in enumerate(lines) if line.startswith(f"{key}: ")]
        if key != "schema":
            assert f"# {CONFIG_KEYS[key]}" in lines[at - 2 : at]
        assert value is not None or lines[at].endswith(": null")
    at = lines.index("engram_table_size: [800, 1600]")
    assert lines[at - 1] == "# Rows per HEAD: [100, 200], this // n_head_per_ngram."


def test_names_of_every_kind_are_written_and_read(tmp_path):
    name = "/tmp/\udcff\x1b\nseed: 3"
    config = replace(load_template("tiny"), tokenizer=name)
    write_config(tmp_path / "a.yaml", config, title=f"For {name}")
    assert read_config(tmp_path / "a.yaml") == config


def test_the_config_of_a_checkpoint_is_one_problem(tmp_path):
    values = {"model_type": "engram_llama", "hidden_size": 32, "engram": {"schema": 1}}
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(ConfigError, match="config of a checkpoint's model") as caught:
        read_config(tmp_path / "config.json")
    assert len(caught.value.problems) == 1
    assert f"engram report {tmp_path}" in caught.value.hint
