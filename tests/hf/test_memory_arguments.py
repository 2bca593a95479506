"""Arguments of a call that are for the memory: ids beside embeddings, masks, hash ids."""

from __future__ import annotations

import copy
import inspect
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    DynamicCache,
    PreTrainedModel,
)

import engram
from engram.addressing.tokenizer_files import load_tokenizer
from engram.errors import InputError, MismatchError, MissingFileError, UsageError
from engram.hf.arguments import MEMORY_ARGUMENTS
from engram.hf.compat import self_attention_cache
from support import tiny
from support.layouts import layout_config
from support.near import assert_near
from support.paths import BPE, WORD

LENGTH = 17
OPTIONS = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 2, "eos_token_id": None}


@pytest.fixture(scope="module", params=["bloom", "gpt2", "llama"])
def folders(request, tmp_path_factory):
    return tiny.family_folders(request.param, tmp_path_factory)


@pytest.fixture(scope="module")
def model(folders):
    return tiny.randomise(engram.load(folders[1])).requires_grad_(False)


@pytest.fixture(scope="module")
def ids():
    return torch.randint(3, tiny.VOCAB, (2, LENGTH), generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="module")
def hashed(folders, ids):
    config = tiny.memory_config()
    tokenizer = engram.EngramTokenizer(config, str(folders[0]))
    return tokenizer.compress_and_hash(ids.tolist(), return_tensors="pt")


def full(model, ids, **kwargs):
    return model(input_ids=ids, use_cache=False, **kwargs).logits


def test_hash_ids_are_used(model, ids, hashed):
    expected = full(model, ids)
    assert torch.equal(full(model, ids, hash_ids=hashed), expected)
    assert torch.equal(full(model, ids, hash_ids=hashed.int()), expected)
    other = hashed.flip(1)
    assert (full(model, ids, hash_ids=other) - expected).abs().max() > 1e-2
    assert (full(model, ids, hash_ids=torch.zeros_like(hashed)) - expected).abs().max() > 1e-2


def test_hash_ids_may_be_arrays_and_leave_tokens_out(model, ids, hashed):
    """-1 stands for what the model is to hash itself."""
    expected = full(model, ids, hash_ids=hashed.flip(1))
    assert torch.equal(full(model, ids, hash_ids=hashed.flip(1).numpy()), expected)
    some = hashed.clone()
    some[:, 5:] = -1
    assert torch.equal(full(model, ids, hash_ids=some), full(model, ids))


def test_a_crop_keeps_the_hash_ids_that_were_given(model, ids, hashed):
    """The convolutions' windows are computed again from them, not from the tokens."""
    other, past = hashed.flip(1), DynamicCache(config=model.config)
    model(ids[:, :12], hash_ids=other[:, :12], past_key_values=past)
    past.crop(-3)
    logits = model(ids[:, 9:], hash_ids=other[:, 9:], past_key_values=past).logits
    assert_near(logits, full(model, ids, hash_ids=other)[:, 9:], 128)


@pytest.mark.filterwarnings("ignore")  # of torch, about what the base does
def test_compiled_decoders_are_told(model, ids, hashed):
    """A decoder that is compiled alone gets what its model was given, or the call is refused."""
    other, mask = hashed.flip(1), torch.ones_like(ids)
    mask[0, 3:6] = 0
    expected = full(model, ids, hash_ids=other, engram_mask=mask)
    decoder = model.engram_decoder
    decoder.compile(backend="eager")
    try:
        if model.config.model_type == "engram_bloom":
            with pytest.raises(InputError, match="(hands|passes) no keywords"):
                full(model, ids, hash_ids=other)
        else:
            assert_near(full(model, ids, hash_ids=other, engram_mask=mask), expected, 128)
    finally:
        decoder._compiled_call_impl = None
        torch.compiler.reset()


def test_masks_that_are_none_and_masks_of_none(model, ids):
    mask = torch.ones_like(ids)
    mask[0, 3:6] = 0
    hidden = model.engram_decoder(ids, attention_mask=mask, use_cache=False)[0]
    again = model.engram_decoder(ids, attention_mask=mask, engram_mask=None, use_cache=False)[0]
    assert torch.equal(again, hidden)
    unmasked = model.engram_decoder(ids, attention_mask=mask, engram_mask=False, use_cache=False)[0]
    assert (unmasked - hidden).abs().max() > 1e-3
    with pytest.raises(InputError, match=r"engram_mask must have the shape \[2, tokens"):
        model(ids, engram_mask=torch.ones(3, LENGTH))
    with pytest.raises(InputError, match="engram_mask must be a tensor, got list"):
        model(ids, engram_mask=mask.tolist())


@pytest.mark.parametrize("extra", [{"use_cache": False}, {"prefill_chunk_size": 5}], ids=str)
def test_hash_ids_of_a_prompt_in_every_way(model, ids, hashed, extra):
    """All steps of a text without a cache read them, and every piece of a prompt in pieces."""
    if "prefill_chunk_size" in extra and model.config.model_type == "engram_bloom":
        pytest.skip("bloom by itself cannot do it: read a prompt in pieces")
    asked = {**OPTIONS, "output_logits": True, "return_dict_in_generate": True}
    mask = torch.ones_like(ids)
    expected = model.generate(ids, attention_mask=mask, hash_ids=hashed.flip(1), **asked)
    got = model.generate(ids, attention_mask=mask, hash_ids=hashed.flip(1), **asked, **extra)
    own = model.generate(ids, attention_mask=mask, **asked)
    for one, other in zip(got.logits, expected.logits, strict=True):
        assert_near(one, other, 256)
    assert (own.logits[0] - expected.logits[0]).abs().max() > 1e-3


def test_a_second_turn_takes_the_hash_ids_of_the_whole_text(model, ids, hashed):
    past, mask = DynamicCache(config=model.config), torch.ones_like(ids)
    model(ids[:, :9], hash_ids=hashed.flip(1)[:, :9], past_key_values=past)
    asked = {**OPTIONS, "output_logits": True, "return_dict_in_generate": True}
    told = {"attention_mask": mask, "hash_ids": hashed.flip(1)}
    expected = model.generate(ids, **told, **asked).logits
    got = model.generate(ids, past_key_values=past, **told, **asked).logits
    for one, other in zip(got, expected, strict=True):
        assert_near(one, other, 256)


def test_other_ids_for_the_memory(model, ids):
    other = ids.flip(1)
    asked = {**OPTIONS, "output_logits": True, "return_dict_in_generate": True}
    got = model.generate(ids, engram_input_ids=other, **asked).logits
    first = full(model, ids, engram_input_ids=other)[:, -1]
    assert_near(got[0], first, 128)
    assert (first - full(model, ids)[:, -1]).abs().max() > 1e-3
    with pytest.raises(
        InputError, match=r"engram_input_ids must be whole numbers of shape \[2, 17"
    ):
        model(ids, engram_input_ids=other[:, 1:])
    with pytest.raises(InputError, match="must be >= 0, got"):
        model(ids, engram_input_ids=other - 500)


def test_generate_refuses_what_it_cannot_hand_on(model, ids, hashed):
    with pytest.raises(InputError, match="Pass the 2-D mask as attention_mask"):
        model.generate(ids, engram_mask=torch.ones_like(ids), **OPTIONS)
    with pytest.raises(InputError, match="assistant_model"):
        model.generate(ids, hash_ids=hashed, assistant_model=model, **OPTIONS)
    with pytest.raises(InputError, match="of shape"):
        model.generate(ids, hash_ids=hashed[:, 1:], **OPTIONS)


def test_a_cache_of_another_memory_is_refused(model, ids, tmp_path):
    past = DynamicCache(config=model.config)
    model(ids, past_key_values=past)
    self_attention_cache(past).engram.gates[0] = self_attention_cache(past).engram.gates.pop(1)
    with pytest.raises(MismatchError, match=r"layers \[2, 0\]"):
        model(ids, past_key_values=past)


def test_hash_ids_with_a_cache(model, ids, hashed):
    other = hashed.flip(0)
    first = model(ids[:, :9], hash_ids=other[:, :9], use_cache=True)
    logits = [first.logits]
    out = model(ids[:, 9:], hash_ids=other[:, 9:], past_key_values=first[1], use_cache=True)
    logits.append(out.logits)
    expected = full(model, ids, hash_ids=other)
    assert_near(torch.cat(logits, dim=1), expected, 128)


def test_generate_takes_hash_ids_for_the_prompt(model, ids, hashed):
    """Later tokens are hashed by the model, also after a prompt of one token."""
    expected = model.generate(ids, **OPTIONS)
    assert torch.equal(model.generate(ids, hash_ids=hashed, **OPTIONS), expected)
    one = model.generate(ids[:, :1], hash_ids=hashed[:, :1], **OPTIONS)
    assert torch.equal(one, model.generate(ids[:, :1], **OPTIONS))
    beams = {**OPTIONS, "num_beams": 2}
    got = model.generate(ids, hash_ids=hashed, **beams)
    assert torch.equal(got, model.generate(ids, **beams))
    told = {**OPTIONS, "output_logits": True, "return_dict_in_generate": True}
    first = [model.generate(ids, hash_ids=h, **told).logits[0] for h in (hashed, hashed.flip(1))]
    assert (first[0] - first[1]).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda hashed: hashed[:, :-1], r"of shape \[2, 17, 2, 6\].* got torch.int64 \[2, 16"),
        (lambda hashed: hashed[:, :, 0], "got torch.int64"),
        (lambda hashed: hashed.double(), "got torch.float64"),
        (lambda hashed: hashed + 500, "must be in 0..1"),
        (lambda hashed: hashed - 500, "must be in 0.."),
        (lambda hashed: hashed > 9, "got torch.bool"),
        (lambda hashed: hashed.to(torch.complex64), "got torch.complex64"),
        (lambda hashed: hashed.tolist(), "must be a tensor, got list"),
    ],
)
def test_hash_ids_of_another_memory_are_refused(model, ids, hashed, change, match):
    with pytest.raises(InputError, match=match):
        model(ids, hash_ids=change(hashed))


def test_ids_beside_embeddings(model, ids):
    tiny.skip_unless_possible(model, "embeddings")
    embedded = model.get_input_embeddings()(ids)
    expected = model.generate(ids, **OPTIONS)[:, LENGTH:]
    got = model.generate(ids, inputs_embeds=embedded, **OPTIONS)[:, -6:]
    assert torch.equal(got, expected)
    with pytest.raises(InputError, match="inputs_embeds alone"):
        model.generate(ids[:, :4], inputs_embeds=embedded, **OPTIONS)


def test_signatures_name_what_the_memory_takes(model):
    """transformers and its Trainer drop what a signature does not name."""
    parameters = inspect.signature(type(model).forward).parameters
    assert set(MEMORY_ARGUMENTS) < set(parameters)
    base = inspect.signature(type(model).__mro__[2].forward).parameters
    assert [name for name in parameters if name not in MEMORY_ARGUMENTS] == list(base)


def test_a_dataset_knows_its_model(folders, ids, tmp_path_factory):
    config, tokenizer = tiny.memory_config(), str(folders[0])
    rows = ids.tolist()
    dataset = engram.HashedDataset(rows, config, window_tokens=8, tokenizer=tokenizer)
    model = tiny.randomise(engram.load(folders[1])).requires_grad_(False)
    dataset.check(model)
    dataset.check(torch.nn.DataParallel(model))
    window = next(iter(dataset))
    batch = {name: value[None] for name, value in window.items()}
    assert torch.equal(full(model, batch.pop("input_ids"), **batch), full(model, ids[:1, :8]))
    other = engram.HashedDataset(
        rows, tiny.memory_config(seed=4), window_tokens=8, tokenizer=tokenizer
    )
    with pytest.raises(MismatchError, match="layers"):
        other.check(model)
    with pytest.raises(UsageError, match="has no memory"):
        other.check(AutoModelForCausalLM.from_pretrained(folders[0]))


def test_from_config_finds_its_token_map(folders, ids):
    """Training from scratch starts from a config: the tokenizer beside it gives the map."""
    import engram.hf

    config = AutoConfig.from_pretrained(folders[1])
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    loaded = engram.load(folders[1])
    model.load_state_dict({**loaded.state_dict(), **_without_map(model)})
    assert torch.equal(full(model, ids), full(loaded, ids))


def _without_map(model):
    state = {name: value for name, value in model.state_dict().items() if "token_map" in name}
    assert len(state) == 1
    assert all(value.any() for value in state.values())
    return state


def made_from_config(folder):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder)).eval()


@pytest.fixture
def lone_config(folders, tmp_path, monkeypatch):
    """The folder of a config without a tokenizer, where the hub must not be asked."""

    def ask(*args, **kwargs):
        raise AssertionError("the hub is asked")

    monkeypatch.setattr("engram.addressing.tokenizer_files.fetch_files", ask)
    (tmp_path / "lone").mkdir()
    (tmp_path / "lone" / "config.json").write_bytes((folders[1] / "config.json").read_bytes())
    return tmp_path / "lone"


def test_from_config_without_a_tokenizer_says_what_is_missing(folders, ids, lone_config):
    model = made_from_config(lone_config)
    assert isinstance(model, PreTrainedModel)
    with pytest.raises(MismatchError, match="from_config") as caught:
        model(ids)
    assert f"{lone_config} has no tokenizer.json" in caught.value.message
    assert "fill_token_map" in caught.value.hint
    model.fill_token_map(str(folders[0]))
    assert torch.isfinite(full(model, ids)).all()
    with pytest.raises(MismatchError, match="not the one"):
        model.fill_token_map(str(WORD))


def refused(model, ids):
    with pytest.raises(MismatchError, match="from_config") as caught:
        copy.deepcopy(model)(ids)
    return caught.value.message


def test_from_config_tells_of_a_tokenizer_that_cannot_be_used(ids, lone_config):
    tokenizer = lone_config / "tokenizer.json"
    tokenizer.write_bytes((WORD / "tokenizer.json").read_bytes())
    assert "the tokenizer is not the one" in refused(made_from_config(lone_config), ids)
    tokenizer.write_bytes((BPE / "tokenizer.json").read_bytes()[:999])
    assert "cannot be read as a tokenizer" in refused(made_from_config(lone_config), ids)


def test_from_config_looks_only_where_its_config_lies(ids, lone_config, monkeypatch):
    monkeypatch.chdir(lone_config.parent)
    config = AutoConfig.from_pretrained("lone")
    config.engram["config"]["tokenizer"] = "someone/model"
    monkeypatch.chdir(lone_config)
    message = refused(AutoModelForCausalLM.from_config(config), ids)
    assert "no tokenizer at lone." in message
    assert "no tokenizer at someone/model." in message
    config.engram["config"]["tokenizer"] = str(BPE)
    model = AutoModelForCausalLM.from_config(config).eval()
    assert torch.isfinite(full(model, ids)).all()
    config.engram["config"]["tokenizer"] = "package:no_such_package"
    assert "no installed package" in refused(AutoModelForCausalLM.from_config(config), ids)


def test_from_config_of_a_file_looks_beside_it(folders, ids):
    config = AutoConfig.from_pretrained(folders[1] / "config.json")
    assert torch.isfinite(full(AutoModelForCausalLM.from_config(config).eval(), ids)).all()


def test_an_empty_map_that_was_loaded_is_not_one_of_from_config(folders, tmp_path):
    folder = tmp_path / "empty"
    shutil.copytree(folders[1], folder)
    emptied = 0
    for file in folder.glob("*.safetensors"):
        tensors = load_file(file)
        maps = [name for name in tensors if name.endswith("token_map")]
        tensors |= {name: torch.zeros_like(tensors[name]) for name in maps}
        emptied += len(maps)
        save_file(tensors, file, {"format": "pt"})
    assert emptied == 1
    with pytest.raises(MismatchError, match="token map is empty") as caught:
        engram.load(folder)
    assert "from_config" not in str(caught.value)


def test_a_token_map_is_filled_from_any_form_of_a_tokenizer(folders, ids, lone_config):
    expected = engram.load(folders[1]).engram_decoder.engram_token_map
    fast = AutoTokenizer.from_pretrained(BPE)
    model = made_from_config(lone_config)
    token_map = model.engram_decoder.engram_token_map
    for form in (fast, fast.backend_tokenizer, load_tokenizer(BPE), BPE):
        token_map.zero_()
        model.fill_token_map(form)
        assert torch.equal(token_map, expected)
    for wrong in (5, None, ["a", "b"]):
        with pytest.raises(UsageError, match="cannot be read as a tokenizer"):
            model.fill_token_map(wrong)


def test_raw_ids_need_no_token_map_but_a_tokenizer_that_exists(tmp_path):
    base = tiny.base_model("llama", tmp_path / "base")
    attached = tiny.attached_model(base, tmp_path / "attached", layout_config("qwen_ple"))
    model = made_from_config(attached)
    assert model.engram_decoder.engram_token_map is None
    model.fill_token_map(BPE)
    with pytest.raises(MissingFileError, match="no tokenizer at"):
        model.fill_token_map(tmp_path / "nowhere")
