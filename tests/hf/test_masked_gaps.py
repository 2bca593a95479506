"""Masked tokens inside rows: passed over by the demo's memory, dead to the other layouts'."""

from __future__ import annotations

import pytest
import torch
from transformers import DynamicCache

import engram
from engram.addressing.reference import hash_ids
from engram.errors import InputError
from engram.hf.calls import _read
from engram.hf.state import MemoryState
from engram.nn import EngramModule
from support import tiny
from support.near import assert_near

LENGTH = 24
EOS = 1
FAMILIES = ["deepseek_v4", "gpt2", "llama"]
# Rows with a gap, with gaps at both ends and inside, and with none.
MASKED = ([8, 9, 10, 11], [0, 1, 5, 6, 7, 8, 9, 13, 23], [])
CUTS = [[LENGTH], [6, 4, 3, 11], [1] * LENGTH, [9, 15], [12, 1, 11]]


@pytest.fixture(scope="module", params=FAMILIES)
def model(request, tmp_path_factory):
    attached = tiny.family_folders(request.param, tmp_path_factory)[1]
    return tiny.randomise(engram.load(attached)).requires_grad_(False)


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    attached = tiny.family_folders("llama", tmp_path_factory)[1]
    return tiny.randomise(engram.load(attached)).requires_grad_(False)


@pytest.fixture(scope="module")
def ids():
    shape = (len(MASKED), LENGTH)
    return torch.randint(3, tiny.VOCAB, shape, generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="module")
def mask():
    mask = torch.ones(len(MASKED), LENGTH, dtype=torch.long)
    for row, places in zip(mask, MASKED, strict=True):
        row[places] = 0
    return mask


def positions_of(mask):
    return (mask.cumsum(dim=1) - 1).clamp_min(0)


def hidden_states(model, seed=6):
    streams = getattr(model.config, "hc_mult", 1)
    shape = (len(MASKED), LENGTH, *([streams] if streams > 1 else []), tiny.HIDDEN)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def added(model, ids, hidden, mask, positions=None, cuts=None):
    """What the layers' memories add to hidden states, in pieces if there are cuts."""
    decoder, outs, start = model.get_decoder(), [], 0
    state = None if cuts is None else MemoryState(decoder.engram_ids.addresses.layer_ids)
    for size in cuts or [ids.shape[1]]:
        end = start + size
        lookup = decoder._look_up(
            ids[:, start:end],
            None if mask is None else mask[:, :end],
            None if positions is None else positions[:, start:end],
            state,
        )
        piece = hidden[:, start:end]
        layers = decoder.engram_layers
        outs.append(torch.stack([_read(layers[i].engram, i, piece, lookup) for i in (1, 2)]))
        start = end
    return torch.cat(outs, dim=2) - hidden


def assert_same(got, expected):
    assert_near(got, expected, 128)


def assert_as_if_absent(model, ids, mask, got, **options):
    """Compare each row with the row of its other tokens alone."""
    hidden = hidden_states(model)
    for row in range(len(MASKED)):
        keep = mask[row].bool()
        chosen = {name: value[row : row + 1, keep] for name, value in options.items()}
        alone = added(model, ids[row : row + 1, keep], hidden[row : row + 1, keep], None, **chosen)
        assert_same(got[:, row : row + 1, keep], alone)
        assert alone.abs().amax(dim=-1).min() > 1e-3
        assert not got[:, row, ~keep].any()


@pytest.mark.parametrize("cuts", [None, *CUTS], ids=str)
def test_the_memory_is_that_of_the_row_without_its_gaps(model, ids, mask, cuts):
    got = added(model, ids, hidden_states(model), mask, cuts=cuts)
    assert_as_if_absent(model, ids, mask, got)


@pytest.mark.parametrize("cuts", [None, *CUTS], ids=str)
def test_packed_documents_with_gaps(llama, ids, mask, cuts):
    """A document that starts after a gap, or inside one, starts there all the same."""
    positions = positions_of(mask)
    for row, start in enumerate((12, 8, 9)):
        positions[row, start:] = positions_of(mask[row : row + 1, start:])
    got = added(llama, ids, hidden_states(llama), mask, positions, cuts)
    assert_as_if_absent(llama, ids, mask, got, positions=positions)
    assert (got - added(llama, ids, hidden_states(llama), mask)).abs().max() > 1e-2


@pytest.mark.parametrize("cuts", [None, *CUTS], ids=str)
def test_ends_of_documents_before_gaps(ids, mask, cuts, tmp_path_factory):
    base = tiny.family_folders("llama", tmp_path_factory)[0]
    config = tiny.memory_config(eos_id=EOS, ends_after_eos=True)
    folder = tiny.attached_model(base, tmp_path_factory.mktemp("ends") / "attached", config)
    model = tiny.randomise(engram.load(folder)).requires_grad_(False)
    ended = ids.clone()
    ended[0, 7] = ended[1, 4] = ended[2, 9] = EOS  # the first two right before a gap
    ended[0, 10] = ended[1, 6] = EOS  # masked ones end nothing
    got = added(model, ended, hidden_states(model), mask, cuts=cuts)
    assert_as_if_absent(model, ended, mask, got)


def test_logits_are_those_of_the_row_without_its_gaps(model, ids, mask):
    if model.config.model_type == "engram_deepseek_v4":
        pytest.skip("deepseek_v4 by itself gives other logits: its indexer counts masked tokens")
    positions = positions_of(mask)
    logits = model(ids, attention_mask=mask, position_ids=positions, use_cache=False).logits
    for row in range(len(MASKED)):
        keep = mask[row].bool()
        alone = model(ids[row : row + 1, keep], use_cache=False).logits
        assert_same(logits[row : row + 1, keep], alone)


def test_a_right_padded_prompt_then_steps(llama, ids):
    """Each row's next token follows its own last one, not the pads."""
    lengths, prompt = [9, 12, 4], 12
    mask = torch.ones(3, LENGTH, dtype=torch.long)
    for row, length in zip(mask, lengths, strict=True):
        row[length:prompt] = 0
    positions = positions_of(mask)
    past, logits = DynamicCache(config=llama.config), []
    for start, end in ((0, prompt), (prompt, prompt + 1), (prompt + 1, LENGTH)):
        out = llama(
            ids[:, start:end],
            attention_mask=mask[:, :end],
            position_ids=positions[:, start:end],
            past_key_values=past,
        )
        logits.append(out.logits)
    got = torch.cat(logits, dim=1)
    for row in range(3):
        keep = mask[row].bool()
        alone = llama(ids[row : row + 1, keep], use_cache=False).logits
        assert_same(got[row : row + 1, keep], alone)


@pytest.mark.parametrize("layout", ["demo", "deepseek_v41", "qwen_ple"])
def test_a_second_turn_masks_what_the_first_one_read(ids, layout, tmp_path_factory):
    """Rows that ended early hold pads, which `generate` took as read and the caller then masks."""
    base = tiny.family_folders("llama", tmp_path_factory)[0]
    changes = {
        "demo": {},
        "deepseek_v41": {"seed": 0, "kernel_size": 0, "engram_table_size": [302, 302, 302]},
        "qwen_ple": {"seed": 1234, "eos_id": EOS, "engram_table_size": [302, 302, 302]},
    }
    config = tiny.memory_config(layout=layout, **changes[layout])
    folder = tiny.attached_model(base, tmp_path_factory.mktemp(layout) / "attached", config)
    model = tiny.randomise(engram.load(folder)).requires_grad_(False)
    decoder, hidden = model.get_decoder(), hidden_states(model)
    state = MemoryState(decoder.engram_ids.addresses.layer_ids)
    mask = torch.ones(len(MASKED), LENGTH, dtype=torch.long)
    pieces = []
    for start, end in ((0, 9), (9, 13), (13, 16), (16, LENGTH)):
        if start == 13:
            mask[0, 6:13] = mask[1, 12:13] = 0  # what the second turn says of the first
        lookup = decoder._look_up(ids[:, start:end], mask[:, :end], None, state)
        pieces.append(_read(decoder.engram_layers[1].engram, 1, hidden[:, start:end], lookup))
    whole = decoder._look_up(ids, mask, None, None)
    expected = _read(decoder.engram_layers[1].engram, 1, hidden, whole)
    assert_same(torch.cat(pieces, dim=1)[:, 13:], expected[:, 13:])
    assert not torch.equal(torch.cat(pieces, dim=1)[0, 9:13], expected[0, 9:13])


@pytest.mark.parametrize("by", ["positions", "ends"])
def test_a_later_mask_moves_the_starts_of_documents(ids, by, tmp_path_factory):
    """A document whose first token, or whose end before it, is masked later starts elsewhere."""
    base = tiny.family_folders("llama", tmp_path_factory)[0]
    ends = {"eos_id": EOS, "ends_after_eos": True} if by == "ends" else {}
    config = tiny.memory_config(**ends)
    folder = tiny.attached_model(base, tmp_path_factory.mktemp(by) / "attached", config)
    model = tiny.randomise(engram.load(folder)).requires_grad_(False)
    ids = ids.clone()
    ids[:, 6] = EOS
    positions = torch.cat([torch.arange(7), torch.arange(LENGTH - 7)]).expand_as(ids)
    positions = positions if by == "positions" else None
    decoder, hidden = model.get_decoder(), hidden_states(model)
    for gone in ([7], [6], [6, 7], [5, 6, 7, 8]):
        state = MemoryState(decoder.engram_ids.addresses.layer_ids)
        mask, pieces = torch.ones(len(MASKED), LENGTH, dtype=torch.long), []
        for start, end in ((0, 9), (9, 11), (11, LENGTH)):
            if start == 9:
                mask[:, gone] = 0
            places = None if positions is None else positions[:, start:end]
            lookup = decoder._look_up(ids[:, start:end], mask[:, :end], places, state)
            pieces.append(_read(decoder.engram_layers[1].engram, 1, hidden[:, start:end], lookup))
        whole = decoder._look_up(ids, mask, positions, None)
        expected = _read(decoder.engram_layers[1].engram, 1, hidden, whole)
        assert_near(torch.cat(pieces, dim=1)[:, 9:], expected[:, 9:], 128)


def test_a_later_mask_that_shows_more_is_refused(llama, ids, mask):
    past = DynamicCache(config=llama.config)
    llama(ids[:, :12], attention_mask=mask[:, :12], past_key_values=past)
    with pytest.raises(InputError, match="that were masked when they were read"):
        llama(ids[:, 12:], attention_mask=torch.ones_like(mask), past_key_values=past)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of torch, about caches whose class changes
def test_a_compiled_second_turn(llama, ids):
    """What the caller masks later is masked in compiled models, too."""
    positions = torch.arange(LENGTH).expand_as(ids)
    late = torch.ones(len(MASKED), LENGTH, dtype=torch.long)
    late[0, 5:9] = 0
    compiled = torch.compile(llama, backend="eager")
    logits = []
    try:
        for model in (llama, compiled):
            past = DynamicCache(config=llama.config)
            call = {
                "position_ids": positions[:, :9],
                "attention_mask": torch.ones_like(late)[:, :9],
            }
            model(ids[:, :9], past_key_values=past, **call)
            call = {"position_ids": positions[:, 9:], "attention_mask": late}
            logits.append(model(ids[:, 9:], past_key_values=past, **call).logits)
    finally:
        torch.compiler.reset()
    assert_near(logits[1], logits[0], 128)


def test_exported_for_masked_texts_of_any_length(llama, ids, mask):
    class Whole(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = llama

        def forward(self, ids, mask):
            return self.model(input_ids=ids, attention_mask=mask, use_cache=False).logits

    tokens = torch.export.Dim("tokens", min=2, max=64)
    shapes = {"ids": {1: tokens}, "mask": {1: tokens}}
    made = torch.export.export(Whole(), (ids, torch.ones_like(mask)), dynamic_shapes=shapes)
    for end in (LENGTH, 11):
        call = (ids[:, :end], mask[:, :end])
        shown = call[1].bool()
        assert_near(made.module()(*call)[shown], Whole()(*call)[shown], 128)


@pytest.mark.parametrize("kept", [2, 10, 14, 20])
def test_crop_into_and_behind_a_gap(llama, ids, mask, kept):
    positions = positions_of(mask)
    past = DynamicCache(config=llama.config)
    call = {"attention_mask": mask, "position_ids": positions}
    expected = llama(ids, use_cache=False, **call).logits
    llama(ids, past_key_values=past, **call)
    past.crop(kept - LENGTH)
    for start in range(kept, LENGTH, 3):
        end = min(start + 3, LENGTH)
        out = llama(
            ids[:, start:end],
            attention_mask=mask[:, :end],
            position_ids=positions[:, start:end],
            past_key_values=past,
        )
        shown = mask[:, start:end].bool()
        assert_same(out.logits[shown], expected[:, start:end][shown])


def test_generation_after_a_gap(llama, ids, mask):
    options = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 2, "eos_token_id": None}
    mask = mask.clone()
    mask[1, -1] = 1  # `generate` reads the last column of every row
    for extra in (
        {},
        {"num_beams": 3},
        {"cache_implementation": "static", "disable_compile": True},
    ):
        together = llama.generate(ids, attention_mask=mask, **options, **extra)[:, LENGTH:]
        for row in range(len(MASKED)):
            alone = ids[row : row + 1, mask[row].bool()]
            expected = llama.generate(alone, **options, **extra)[:, alone.shape[1] :]
            assert torch.equal(together[row : row + 1], expected)


def test_gradients_pass_gaps(llama, ids, mask):
    """What a gap's tokens would get is no one's, and the others' gradients are those of the row."""
    module = llama.get_decoder().engram_layers[1].engram
    hidden = hidden_states(llama)
    gradients = []
    for keep in (None, mask[:1].bool()):
        shown = mask[0].bool()
        rows = hidden[:1] if keep is not None else hidden[:1, shown]
        rows = rows.clone().requires_grad_(True)
        tokens = ids[:1] if keep is not None else ids[:1, shown]
        lookup = llama.get_decoder()._look_up(tokens, keep, None, None)
        out = module.add(rows, lookup.ids, keep=keep) - rows
        out.square().sum().backward()
        gradients.append(rows.grad if keep is None else rows.grad[:, shown])
    assert gradients[0].abs().max() > 1e-3
    assert_same(gradients[1], gradients[0])


def test_recorded_graphs_close_gaps_too(llama, ids, mask):
    """A graph cannot look at the mask: it closes gaps whether there are any or not."""
    module = llama.get_decoder().engram_layers[1].engram
    hidden, keep = hidden_states(llama), mask.bool()
    lookup = llama.get_decoder()._look_up(ids, mask, None, None)
    compiled = torch.compile(module, backend="eager", fullgraph=True)
    try:
        assert_same(compiled(hidden, lookup.ids, keep=keep), module(hidden, lookup.ids, keep=keep))
        everything = torch.ones_like(keep)
        assert_same(
            compiled(hidden, lookup.ids, keep=everything), module(hidden, lookup.ids, keep=None)
        )
    finally:
        torch.compiler.reset()


def test_dead_tokens_of_deepseek_stop_the_look_back(ids, mask, tmp_path_factory):
    """LAYOUTS: dead positions block what lies behind them, and get nothing."""
    base = tiny.family_folders("llama", tmp_path_factory)[0]
    config = tiny.memory_config(
        layout="deepseek_v41", seed=0, kernel_size=0, engram_table_size=[302, 302, 302]
    )
    folder = tiny.attached_model(base, tmp_path_factory.mktemp("dead") / "attached", config)
    model = tiny.randomise(engram.load(folder)).requires_grad_(False)
    decoder = model.get_decoder()
    addresses = decoder.engram_ids.addresses.with_map(decoder.engram_token_map.numpy())
    expected = hash_ids(addresses, ids.numpy(), keep=mask.bool().numpy())[0]
    for cuts in ([LENGTH], [6, 4, 3, 11], [1] * LENGTH):
        state, start, found = MemoryState(addresses.layer_ids), 0, []
        for size in cuts:
            end = start + size
            found.append(decoder._look_up(ids[:, start:end], mask[:, :end], None, state).ids)
            start = end
        assert torch.equal(torch.cat(found, dim=1), torch.from_numpy(expected))
    whole = added(model, ids, hidden_states(model), mask)
    assert_same(added(model, ids, hidden_states(model), mask, cuts=[6, 4, 3, 11]), whole)
    assert not whole[:, ~mask.bool()].any()


def test_the_module_alone_passes_gaps_over():
    """The same for a module in a model of one's own, which is told by `keep`."""
    config = tiny.memory_config(layer_ids=[1])
    module = EngramModule(config, [[151, 157], [211, 223], [257, 263]])
    tiny.randomise(torch.nn.ModuleDict({"engram": module}))
    for parameter in module.parameters():
        parameter.data.normal_(0, 0.5, generator=torch.Generator().manual_seed(3))
    hidden, rows = torch.randn(1, 9, tiny.HIDDEN), torch.randint(0, 150, (1, 9, 6))
    keep = torch.tensor([[True, True, False, True, False, False, True, True, True]])
    with torch.no_grad():
        out = module(hidden, rows, keep=keep)
        assert_same(out[:, keep[0]], module(hidden[:, keep[0]], rows[:, keep[0]]))
