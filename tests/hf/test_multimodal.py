"""Memories of multimodal models: their text alone is read, with an image between it or without."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoTokenizer,
)

import engram.hf
from engram import EngramTokenizer
from engram.checkpoints.attach import attach, detach
from engram.checkpoints.read import load_checkpoint
from engram.checkpoints.verify.image_ways import (
    IMAGE_GENERATING,
    IMAGE_READING,
    ImagePrompt,
    image_prompt,
)
from engram.checkpoints.verify.verify import verify
from engram.checkpoints.verify.ways import READING
from engram.errors import InputError, LayoutError
from engram.hf.compat import cache_name, cache_of
from engram.hf.multimodal import MULTIMODAL, placeholder_ids
from support.paths import BPE
from support.tiny import HIDDEN, VOCAB, attached_model, memory_config, randomise
from support.tiny_multimodal import PARTS, PROCESSOR_FILES, multimodal_base

# Those with a memory that the toolkit names first.
MAIN = ("qwen3_5", "gemma3", "gemma4")
TOLERANCE = 1e-5
_BEFORE, _AFTER = 9, 12


@dataclass
class Made:
    """Folders of one family, and its attached model with a random memory."""

    base: Path
    attached: Path
    model: object

    def prompt(self) -> ImagePrompt:
        """A text of 9 tokens, an image, a text of 12."""
        ids = torch.randint(3, 490, (1, _BEFORE + _AFTER), generator=_seeded())
        return image_prompt(self.model, ids[:, :_BEFORE], ids[:, _BEFORE:])


def _seeded() -> torch.Generator:
    return torch.Generator().manual_seed(5)


_MADE: dict[str, Made] = {}


def _make(family: str, tmp_path_factory: pytest.TempPathFactory) -> Made:
    if family not in _MADE:
        folder = tmp_path_factory.mktemp(family)
        base = multimodal_base(family, folder / "base")
        attached = attached_model(base, folder / "attached")
        _MADE[family] = Made(base, attached, randomise(load_checkpoint.load(attached)))
    return _MADE[family]


@pytest.fixture(params=MAIN)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    return _make(request.param, tmp_path_factory)


@pytest.fixture(params=sorted(PARTS))
def any_made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    return _make(request.param, tmp_path_factory)


def _close(one: torch.Tensor, other: torch.Tensor) -> bool:
    return float((one - other).abs().max()) <= TOLERANCE * float(other.abs().max())


def _logits(model: object, prompt: ImagePrompt, **kwargs: object) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=prompt.ids, **prompt.arguments(), **kwargs).logits


def test_every_type_is_tested() -> None:
    assert sorted(PARTS) == sorted(MULTIMODAL)


@pytest.mark.parametrize("name", ["AutoModelForImageTextToText", "AutoModelForCausalLM"])
def test_right_after_attaching_the_output_is_the_base_s(made: Made, name: str) -> None:
    base = AutoModelForImageTextToText.from_pretrained(made.base).eval()
    model = getattr(transformers, name).from_pretrained(made.attached).eval()
    prompt = made.prompt()
    assert type(model) is type(made.model)
    assert torch.equal(_logits(model, prompt), _logits(base, prompt))
    assert torch.equal(model(prompt.ids[:, :5]).logits, base(prompt.ids[:, :5]).logits)


def test_every_type_starts_as_its_base(any_made: Made) -> None:
    base = AutoModelForImageTextToText.from_pretrained(any_made.base).eval()
    model = load_checkpoint.load(any_made.attached)
    prompt = any_made.prompt()
    assert torch.equal(_logits(model, prompt), _logits(base, prompt))


@pytest.mark.parametrize("way", [*IMAGE_READING, "cached = full", "padded = full"])
def test_every_type_reads_right(any_made: Made, way: str) -> None:
    any_made.model.model.rope_deltas = None  # Qwen's remember where their last image was
    ids = torch.randint(3, 490, (1, 20), generator=_seeded())
    with torch.no_grad():
        for found, expected in {**READING, **IMAGE_READING}[way](any_made.model, ids):
            assert _close(found.logits, expected.logits)


def test_verify_runs_it_with_an_image(tmp_path_factory: pytest.TempPathFactory) -> None:
    made = _make("qwen3_5", tmp_path_factory)
    checks = {check.name: check for check in verify(made.attached)}
    assert not [check for check in checks.values() if check.ok is False]
    assert {*IMAGE_READING, *IMAGE_GENERATING} <= checks.keys()
    assert all(checks[name].ok for name in (*IMAGE_READING, "image, greedy"))


def test_the_memory_counts(made: Made) -> None:
    prompt = made.prompt()
    own, at_first = (
        _logits(made.model, prompt),
        _logits(load_checkpoint.load(made.attached), prompt),
    )
    assert float((own - at_first).abs().max()) > 0.01 * float(own.abs().max())


def test_cached_is_full(made: Made) -> None:
    prompt = made.prompt()
    cut = prompt.ids.shape[1] - _AFTER + 2
    first = replace(prompt, ids=prompt.ids[:, :cut], text=prompt.text[:, :cut])
    name = cache_name(made.model.forward)
    logits = []
    with torch.no_grad():
        out = made.model(input_ids=first.ids, use_cache=True, **first.arguments())
        logits.append(out.logits)
        for place in range(cut, prompt.ids.shape[1]):
            token, past = prompt.ids[:, place : place + 1], {name: cache_of(out)}
            # A caller's mask covers the past, too, and knows nothing of images.
            mask = torch.ones(1, place + 1, dtype=torch.long)
            out = made.model(token, engram_mask=mask, use_cache=True, **past)
            logits.append(out.logits)
    assert _close(torch.cat(logits, dim=1), _logits(made.model, prompt, use_cache=False))


def test_padded_is_full(made: Made) -> None:
    prompt, pads = made.prompt(), 4
    row = torch.nn.functional.pad(prompt.ids, (pads, 0), value=7)
    mask = (torch.arange(row.shape[1]) >= pads).long()[None]
    with torch.no_grad():
        out = made.model(input_ids=row, attention_mask=mask, **prompt.arguments(pads))
    assert _close(out.logits[:, pads:], _logits(made.model, prompt))


def test_beam_search_is_the_same_with_and_without_a_cache(made: Made) -> None:
    prompt = made.prompt()
    options = {"max_new_tokens": 5, "num_beams": 3, "do_sample": False, "eos_token_id": None}
    asked = {**options, **prompt.arguments(), "output_scores": True}
    runs = []
    for cached in (True, False):
        runs.append(
            made.model.generate(prompt.ids, use_cache=cached, return_dict_in_generate=True, **asked)
        )
    if "qwen3_5" in made.model.config.model_type and not _uncached_beams_work(made, prompt, asked):
        pytest.skip("this transformers searches with an image for Qwen3.5 in a cache alone")
    assert torch.equal(runs[0].sequences, runs[1].sequences)
    assert _close(runs[0].sequences_scores, runs[1].sequences_scores)


def _uncached_beams_work(made: Made, prompt: ImagePrompt, asked: dict[str, object]) -> bool:
    base = AutoModelForImageTextToText.from_pretrained(made.base).eval()
    found = [base.generate(prompt.ids, use_cache=cached, **asked) for cached in (True, False)]
    return torch.equal(*found)


def test_an_image_gets_nothing_and_is_in_no_n_gram(made: Made) -> None:
    """The first layer with a memory gets hash ids as if the image were not there."""
    prompt = made.prompt()
    seen = {}
    layers = [m for m in made.model.modules() if "engram" in m._modules]
    memory = layers[0].engram

    def watch(module: object, given: tuple[torch.Tensor, ...], kwargs: object, read: Any) -> None:
        out = read[0] if isinstance(read, tuple) else read
        seen.update(added=out - given[0], ids=given[1])

    handle = memory.register_forward_hook(watch, with_kwargs=True)
    _logits(made.model, prompt)
    handle.remove()
    text = prompt.text[0]
    assert not bool(seen["added"][0, ~text].any())
    assert bool((seen["added"][0, text].abs().amax(dim=-1) > 0).all())
    hashed = EngramTokenizer(memory_config(), BPE).compress_and_hash(prompt.ids[:, text].tolist())
    expected = torch.as_tensor(hashed).reshape(1, int(text.sum()), *seen["ids"].shape[2:])
    assert torch.equal(seen["ids"][:, text], expected)


def test_it_saves_and_loads_again(made: Made, tmp_path: Path) -> None:
    made.model.save_pretrained(tmp_path / "saved")
    prompt = made.prompt()
    for auto in (AutoModelForImageTextToText, AutoModelForCausalLM):
        again = auto.from_pretrained(tmp_path / "saved").eval()
        assert torch.equal(_logits(again, prompt), _logits(made.model, prompt))
    stated = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert {"AutoModelForImageTextToText", "AutoModelForCausalLM"} <= stated["auto_map"].keys()


def test_tables_on_disk_read_the_same(made: Made, tmp_path: Path) -> None:
    made.model.save_pretrained(tmp_path / "saved")
    prompt = made.prompt()
    disk = load_checkpoint.load(tmp_path / "saved", tables="disk", cache_rows=16)
    assert torch.equal(_logits(disk, prompt), _logits(made.model, prompt))


def test_the_processor_s_files_are_copied(made: Made, tmp_path: Path) -> None:
    for name, text in PROCESSOR_FILES.items():
        assert (made.attached / name).read_text() == text
    detach.detach(made.attached, tmp_path / "detached")
    own = {path.name: path.read_bytes() for path in made.base.iterdir()}
    assert {path.name: path.read_bytes() for path in (tmp_path / "detached").iterdir()} == own


def test_auto_classes_know_the_processor_and_the_tokenizer(made: Made) -> None:
    config = AutoConfig.from_pretrained(made.attached)
    base = AutoConfig.from_pretrained(made.base)
    mapping = transformers.PROCESSOR_MAPPING
    assert mapping[type(config)] is mapping[type(base)]
    assert len(AutoTokenizer.from_pretrained(made.attached)) == VOCAB


def test_the_card_names_the_class_that_loads_it(made: Made) -> None:
    assert (
        "`AutoModelForImageTextToText.from_pretrained`" in (made.attached / "README.md").read_text()
    )


def test_trust_remote_code_finds_it_by_either_auto_class(made: Made) -> None:
    stated = json.loads((made.attached / "config.json").read_text())
    names = {"AutoModelForImageTextToText", "AutoModelForCausalLM"}
    assert {stated["auto_map"][name] for name in names} == {
        f"modeling_engram.{type(made.model).__name__}"
    }


def test_embeddings_alone_are_refused_and_their_ids_are_used(made: Made) -> None:
    ids = made.prompt().ids[:, :_BEFORE]
    embedded = made.model.get_input_embeddings()(ids).detach()
    with pytest.raises(InputError, match="engram_input_ids"):
        made.model(inputs_embeds=embedded)
    with torch.no_grad():
        given = made.model(inputs_embeds=embedded, engram_input_ids=ids)
        assert _close(given.logits, made.model(ids).logits)


def test_old_names_of_tensors_load_with_a_memory(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Published Gemma 3 files say language_model.model where transformers says the reverse."""
    from safetensors.torch import load_file, save_file

    base = _make("gemma3", tmp_path_factory).base
    folder = tmp_path / "old"
    folder.mkdir()
    for path in base.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    weights = load_file(base / "model.safetensors")
    renamed = {
        name.replace("model.language_model.", "language_model.model.")
        .replace("model.vision_tower.", "vision_tower.")
        .replace("model.multi_modal_projector.", "multi_modal_projector."): value
        for name, value in weights.items()
    }
    assert not any(name.startswith("model.") for name in renamed)
    save_file(renamed, folder / "model.safetensors", metadata={"format": "pt"})
    model = load_checkpoint.load(attached_model(folder, tmp_path / "attached"))
    prompt = _make("gemma3", tmp_path_factory).prompt()
    plain = AutoModelForImageTextToText.from_pretrained(base).eval()
    assert torch.equal(_logits(model, prompt), _logits(plain, prompt))
    randomise(model).save_pretrained(tmp_path / "saved")
    disk = load_checkpoint.load(tmp_path / "saved", tables="disk")
    disk.save_pretrained(tmp_path / "again")
    for saved in ("saved", "again"):
        again = load_checkpoint.load(tmp_path / saved)
        assert torch.equal(_logits(again, prompt), _logits(model, prompt))
        assert not [it for it in verify(tmp_path / saved, headers_only=True) if it.ok is False]


def test_text_decoders_of_their_own_stay_as_they_are() -> None:
    config, model = engram.hf.model_classes("gemma3_text")
    assert model.__name__ == "EngramGemma3ForCausalLM"
    assert model.engram_auto_classes == ("AutoModelForCausalLM",)
    assert not model.engram_multimodal
    assert placeholder_ids(config()) == ()


def _other_base(folder: Path, model_type: str) -> Path:
    """A folder of a multimodal type that the toolkit does not attach to."""
    multimodal_base("llava", folder)
    path = folder / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "model_type": model_type}))
    return folder


@pytest.mark.parametrize("model_type", ["aya_vision", "fuyu", "gemma3n", "mllama", "qwen2_audio"])
def test_another_type_is_refused_by_name(model_type: str, tmp_path: Path) -> None:
    base = _other_base(tmp_path / "base", model_type)
    with pytest.raises(LayoutError, match="multimodal") as raised:
        attach.attach(base, memory_config(), tmp_path / "out")
    assert "qwen3_5" in str(raised.value.hint)
    assert model_type in raised.value.message
    assert not (tmp_path / "out").exists()


def test_a_memory_of_another_width_is_refused(made: Made, tmp_path: Path) -> None:
    with pytest.raises(LayoutError, match=f"must be {HIDDEN}"):
        attach.attach(made.base, memory_config(hidden_size=64), tmp_path / "out")
