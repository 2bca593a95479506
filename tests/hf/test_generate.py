"""Every way of generating gives the tokens of the plain one, for random weights of the memory."""

from __future__ import annotations

import threading

import pytest
import torch
from transformers import AutoModelForCausalLM, CompileConfig, GenerationConfig, GenerationMixin

import engram
from support import tiny

OPTIONS = {"max_new_tokens": 10, "pad_token_id": 2, "eos_token_id": None, "do_sample": False}


@pytest.fixture(scope="module", params=tiny.FAMILIES)
def folders(request, tmp_path_factory):
    return tiny.family_folders(request.param, tmp_path_factory)


@pytest.fixture(scope="module")
def model(folders):
    return tiny.randomise(engram.load(folders[1])).requires_grad_(False)


@pytest.fixture(scope="module")
def prompt():
    return torch.randint(3, tiny.VOCAB, (1, 9), generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="module")
def plain(model, prompt):
    return model.generate(prompt, use_cache=False, **OPTIONS)


def test_beams(model, prompt):
    options = {**OPTIONS, "num_beams": 4, "num_return_sequences": 4}
    with_cache = model.generate(prompt, use_cache=True, **options)
    assert torch.equal(with_cache, model.generate(prompt, use_cache=False, **options))


def test_sampling_with_a_fixed_seed(model, prompt):
    texts = []
    for use_cache in (True, False):
        torch.manual_seed(11)
        texts.append(
            model.generate(
                prompt, use_cache=use_cache, **{**OPTIONS, "do_sample": True, "top_k": 9}
            )
        )
    assert torch.equal(*texts)


def test_prompt_lookup_with_rejected_tokens(model, plain):
    tiny.skip_unless_possible(model, "assist")
    # A prompt that repeats itself makes candidates, most of which are rejected.
    prompt = torch.cat([plain, plain[:, :10]], dim=1)
    expected = model.generate(prompt, **OPTIONS)
    got = model.generate(prompt, prompt_lookup_num_tokens=4, **OPTIONS)
    assert torch.equal(got, expected)


def test_assisted_by_the_base_model(folders, model, prompt, plain):
    tiny.skip_unless_possible(model, "assist")
    assistant = AutoModelForCausalLM.from_pretrained(folders[0])
    got = model.generate(prompt, assistant_model=assistant, **OPTIONS)
    assert torch.equal(got, plain)


def test_static_cache(model, prompt, plain):
    if not model._can_compile_fullgraph:
        pytest.skip("transformers has no static cache for this family")
    got = model.generate(prompt, cache_implementation="static", disable_compile=True, **OPTIONS)
    assert torch.equal(got, plain)


def test_static_cache_with_left_padding(model, prompt, plain):
    if not model._can_compile_fullgraph:
        pytest.skip("transformers has no static cache for this family")
    batch = torch.cat([torch.full((1, 5), 2), prompt], dim=1).repeat(2, 1)
    batch[1, :5] = torch.tensor([9, 8, 7, 6, 5])
    mask = torch.ones_like(batch)
    mask[0, :5] = 0
    got = model.generate(
        batch, attention_mask=mask, cache_implementation="static", disable_compile=True, **OPTIONS
    )
    assert torch.equal(got[:1, 5:], plain)
    assert torch.equal(got[1:], model.generate(batch[1:], **OPTIONS))


def test_two_threads_at_once(model, plain):
    prompts = [plain[:, :9], plain[:, 3:12], plain[:, 5:18]]
    expected = [model.generate(ids, **OPTIONS) for ids in prompts]
    found: dict[int, torch.Tensor] = {}

    def work(index: int) -> None:
        for _ in range(2):
            found[index] = model.generate(prompts[index], **OPTIONS)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(prompts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(found[index], text) for index, text in enumerate(expected))


def test_generate_from_embeddings(model, prompt, plain):
    tiny.skip_unless_possible(model, "embeddings")
    embedded = model.get_input_embeddings()(prompt)
    if model.config.model_type.startswith("engram_gemma"):
        pytest.skip("its embedding scales what it returns")
    got = model.generate(inputs_embeds=embedded, engram_input_ids=prompt, **OPTIONS)
    assert torch.equal(got, plain[:, prompt.shape[1] :])


def test_ids_that_the_tokenizer_does_not_have(folders, model, prompt):
    """A padded vocabulary: such ids are to the memory as if they were masked."""
    tiny.skip_unless_possible(model, "resize")
    model = tiny.randomise(engram.load(folders[1])).requires_grad_(False)
    model.resize_token_embeddings(tiny.VOCAB + 6)
    ids = torch.cat([prompt, torch.full((1, 1), tiny.VOCAB + 2), prompt], dim=1)
    added = []
    memory = model.get_decoder().engram_layers[1].engram
    memory.register_forward_hook(lambda module, given, read: added.append(read[0] - given[0]))
    assert torch.isfinite(model(input_ids=ids, use_cache=False).logits).all()
    model.generate(ids, **{**OPTIONS, "max_new_tokens": 1})
    for read in added:
        given = read.flatten(2).abs().amax(dim=(0, 2)) > 0  # [T]
        assert given.tolist() == [True] * len(prompt[0]) + [False] + [True] * len(prompt[0])


def test_generate_records_no_cuda_graph_by_itself(tmp_path_factory, monkeypatch):
    """Its outputs would be overwritten, and the memory's past is among them."""
    attached = engram.load(tiny.family_folders("llama", tmp_path_factory)[1])
    monkeypatch.setattr(GenerationMixin, "generate", lambda self, *args, **kwargs: kwargs)
    assert attached.generate()["disable_compile"] is True
    for mode, compiles in (("default", True), (None, True), ("reduce-overhead", False)):
        asked = CompileConfig(mode=mode)
        for given in (
            {"compile_config": asked},
            {"generation_config": GenerationConfig(compile_config=asked)},
        ):
            assert ("disable_compile" not in attached.generate(**given)) is compiles


@pytest.mark.slow
def test_static_cache_as_generate_compiles_it_on_gpus(tmp_path_factory):
    """There, `generate` compiles every model that is given a static cache."""
    attached = tiny.family_folders("llama", tmp_path_factory)[1]
    model = tiny.randomise(engram.load(attached)).requires_grad_(False)
    ids = torch.randint(3, tiny.VOCAB, (2, 9), generator=torch.Generator().manual_seed(5))
    mask = torch.ones_like(ids)
    mask[0, :4] = 0
    compiling = CompileConfig(backend="eager", mode=None)
    compiling._compile_all_devices = True
    options = {**OPTIONS, "max_new_tokens": 4, "attention_mask": mask}
    try:
        got = model.generate(
            ids, cache_implementation="static", compile_config=compiling, **options
        )
        assert model._last_compile_config is compiling
    finally:
        torch.compiler.reset()
    assert torch.equal(got, model.generate(ids, **options))
