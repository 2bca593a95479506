"""`MemoryOptimizer` against independent references, and in the places that people train in."""

import math
import warnings

import pytest
import torch
from torch import nn

import engram
from engram.errors import InputError, UsageError
from engram.nn import MultiHeadEmbedding
from engram.training import MemoryOptimizer, freeze_backbone
from support import tiny

SIZES, WIDTH = (7, 11), 4
ROWS = sum(SIZES)


class Toy(nn.Module):
    """A table and a dense layer."""

    def __init__(self, dtype=torch.float32):
        super().__init__()
        torch.manual_seed(3)
        self.table = MultiHeadEmbedding(SIZES, WIDTH, dtype=dtype)
        self.dense = nn.Linear(len(SIZES) * WIDTH, 3, dtype=dtype)

    def forward(self, ids):
        return self.dense(self.table(ids).tanh())


def some_ids(step, count=24):
    """Return hash ids with many repetitions."""
    generator = torch.Generator().manual_seed(step)
    return torch.stack([torch.randint(size, (count,), generator=generator) for size in SIZES], 1)


def loss_of(model, step):
    out = model(some_ids(step))
    return (out * torch.arange(1.0, out.numel() + 1).reshape(out.shape).to(out.dtype).sin()).sum()


def adagrad_reference(weight, grad, state, lr):
    """Follow FBGEMM's formula row by row, in Python's own numbers."""
    for row in range(len(weight)):
        values = [float(value) for value in grad[row]]
        if any(values):
            state[row] = state.get(row, 0.0) + sum(value * value for value in values) / len(values)
            for column, value in enumerate(values):
                weight[row, column] -= lr * value / (math.sqrt(state[row]) + 1e-8)


def rmsprop_reference(weight, grad, state, lr):
    for row in range(len(weight)):
        values = [float(value) for value in grad[row]]
        if any(values):
            mean = sum(value * value for value in values) / len(values)
            state[row] = 0.99 * state.get(row, 0.0) + 0.01 * mean
            for column, value in enumerate(values):
                weight[row, column] -= lr * value / (math.sqrt(state[row]) + 1e-8)


REFERENCES = {"rowwise-adagrad": adagrad_reference, "rowwise-rmsprop": rmsprop_reference}


@pytest.mark.parametrize(("dtype", "near"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("rule", REFERENCES)
def test_rowwise_rules_equal_their_formula_over_100_steps(rule, dtype, near):
    model, lr = Toy(dtype), {"rowwise-adagrad": 0.1, "rowwise-rmsprop": 0.01}[rule]
    start = model.table.embedding.weight.detach().double().clone()
    optimizer = MemoryOptimizer(model, lr=0, table_lr=lr, table_optimizer=rule, max_grad_norm=None)
    weight, state = start.clone(), {}
    for step in range(100):
        ids = some_ids(step)
        # Gradients that do not depend on the rows: rounding is the rule's own, not the model's.
        factors = torch.randn(len(ids), len(SIZES) * WIDTH, dtype=dtype)
        (model.table(ids) * factors).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        grad = torch.zeros(ROWS, WIDTH, dtype=torch.float64)
        rows = ids + torch.tensor([0, SIZES[0]])
        grad.index_add_(0, rows.flatten(), factors.reshape(-1, WIDTH).double())
        REFERENCES[rule](weight, grad, state, lr)
    assert (weight - start).abs().max() > 0.3
    assert (model.table.embedding.weight - weight).abs().max() <= near


@pytest.mark.parametrize(("dtype", "near"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_sparse_adam_equals_torchs(dtype, near):
    model, twin = Toy(dtype), Toy(dtype)
    twin.load_state_dict(model.state_dict())
    twin.table.embedding.sparse = True
    ours = MemoryOptimizer(
        model, lr=0, table_lr=0.01, table_optimizer="sparse-adam", max_grad_norm=0
    )
    theirs = torch.optim.SparseAdam([twin.table.embedding.weight], lr=0.01)
    for step in range(100):
        for it, optimizer in ((model, ours), (twin, theirs)):
            optimizer.zero_grad()
            loss_of(it, step).backward()
            optimizer.step()
    assert (model.table.embedding.weight - twin.table.embedding.weight).abs().max() <= near


def test_momentum_equals_torchs_where_every_row_is_read():
    model, twin = Toy(torch.float64), Toy(torch.float64)
    twin.load_state_dict(model.state_dict())
    ours = MemoryOptimizer(model, lr=0, table_lr=0.01, table_optimizer="momentum", max_grad_norm=0)
    theirs = torch.optim.SGD([twin.table.embedding.weight], lr=0.01, momentum=0.9, nesterov=True)
    every = torch.stack([torch.arange(max(SIZES)) % size for size in SIZES], 1)
    for step in range(20):
        for it, optimizer in ((model, ours), (twin, theirs)):
            optimizer.zero_grad()
            (it(every) * (step + 1)).sin().sum().backward()
            optimizer.step()
    assert (model.table.embedding.weight - twin.table.embedding.weight).abs().max() <= 1e-12


def test_balanced_momentum_equals_the_algorithm_of_the_report():
    model, twin = Toy(torch.float64), Toy(torch.float64)
    ours = MemoryOptimizer(
        model, lr=0, table_lr=0.01, table_optimizer="balanced-momentum", max_grad_norm=0
    )
    weight, momentum = twin.table.embedding.weight.detach().clone(), torch.zeros(ROWS, WIDTH)
    momentum = momentum.double()
    for step in range(5):
        ours.zero_grad()
        loss_of(model, step).backward()
        ours.step()
        twin.zero_grad()
        with torch.no_grad():
            twin.table.embedding.weight.copy_(weight)
        loss_of(twin, step).backward()
        grad = twin.table.embedding.weight.grad
        momentum = 0.95 * momentum + 0.05 * grad
        u = 0.95 * momentum + 0.05 * grad
        norms = u.norm(dim=1)
        u[norms <= 1e-3 * norms.mean()] = 0
        for k in range(1, 12):
            u = u / (u.norm(dim=1 if k % 2 else 0, keepdim=True) + 1e-20)
        weight = weight - 0.18 * 0.01 * WIDTH**0.5 * u
    assert (model.table.embedding.weight - weight).abs().max() <= 1e-12


def dense_norm(model, steps):
    """Return the norm of all gradients with plain dense ones, after several backward passes."""
    model.zero_grad()
    for step in steps:
        loss_of(model, step).backward()
    return torch.linalg.vector_norm(
        torch.cat([weight.grad.double().flatten() for weight in model.parameters()])
    )


def test_the_clipped_norm_is_that_of_dense_copies_after_two_micro_batches():
    model, twin = Toy(), Toy()
    expected = float(dense_norm(twin, (0, 1)))
    optimizer = MemoryOptimizer(model, max_grad_norm=0.5 * expected)
    for step in (0, 1):
        loss_of(model, step).backward()
    before = model.dense.weight.grad.clone()
    assert model.table.embedding.weight.grad is None
    optimizer.step()
    assert optimizer.last_grad_norm == pytest.approx(expected, rel=1e-6)
    assert torch.allclose(model.dense.weight.grad, before * 0.5, rtol=1e-5)


def test_only_touched_rows_change_and_are_counted():
    model = Toy()
    before = model.table.embedding.weight.detach().clone()
    optimizer = MemoryOptimizer(model)
    ids = torch.tensor([[1, 2], [1, 5], [3, 2]])
    model(ids).sum().backward()
    optimizer.step()
    changed = (model.table.embedding.weight != before).any(1).nonzero().flatten().tolist()
    assert changed == [1, 3, SIZES[0] + 2, SIZES[0] + 5]
    assert optimizer.rows_touched == 4
    optimizer.zero_grad()
    optimizer.step()
    assert optimizer.rows_touched == 0


@pytest.mark.parametrize("rule", ["rowwise-adagrad", "rowwise-rmsprop", "sparse-adam", "momentum"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_state_that_is_saved_continues_bit_for_bit(rule, dtype):
    runs = []
    for restart in (False, True):
        model = Toy(dtype)
        optimizer = MemoryOptimizer(model, table_optimizer=rule, seed=9)
        for step in range(8):
            if restart and step == 4:
                saved, state = model.state_dict(), optimizer.state_dict()
                model = Toy(dtype)
                model.load_state_dict(saved)
                optimizer = MemoryOptimizer(model, table_optimizer=rule, seed=9)
                optimizer.load_state_dict(state)
            optimizer.zero_grad()
            loss_of(model, step).backward()
            optimizer.step()
        runs.append((model.state_dict(), optimizer.state_dict()))
    (one, one_state), (other, other_state) = runs
    assert all(torch.equal(one[name], other[name]) for name in one)
    for key, values in one_state["state"].items():
        for name, value in values.items():
            assert torch.equal(value, other_state["state"][key][name]), name
    columns = [it for table in optimizer.tables for it in table.columns.values()]
    assert {column.dtype for column in columns} == {torch.float32}


def test_a_new_optimizer_takes_over_from_an_old_one():
    model = Toy()
    old = MemoryOptimizer(model, max_grad_norm=0)
    new = MemoryOptimizer(model, max_grad_norm=0)
    loss_of(model, 0).backward()
    new.step()
    assert new.rows_touched > 0
    old.step()
    assert old.rows_touched == 0


def test_autocast_to_float16_is_refused_and_bfloat16_is_not():
    model = Toy()
    MemoryOptimizer(model)
    with torch.autocast("cpu", torch.bfloat16):
        loss_of(model, 0).backward()
    with torch.autocast("cpu", torch.float16), pytest.raises(InputError, match="float16"):
        model(some_ids(0))


def test_gradients_that_are_not_finite_change_nothing():
    model = Toy()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = MemoryOptimizer(model)
    (model(some_ids(0)) * math.nan).sum().backward()
    with pytest.raises(InputError, match="not finite"):
        optimizer.step()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_clipping_by_somebody_else_is_warned_about_once():
    model = Toy()
    optimizer = MemoryOptimizer(model)
    loss_of(model, 0).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
    with pytest.warns(UserWarning, match="max_grad_norm=0"):
        optimizer.step()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for step in (1, 2):
            optimizer.zero_grad()
            loss_of(model, step).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            optimizer.step()
    clean = MemoryOptimizer(Toy())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        clean.step()


def test_nothing_to_train_and_wrong_arguments_are_refused():
    with pytest.raises(InputError, match="float16 cannot be trained"):
        MemoryOptimizer(Toy(torch.float16))
    model = Toy().requires_grad_(False)
    with pytest.raises(UsageError, match="no parameter"):
        MemoryOptimizer(model)
    with pytest.raises(UsageError, match="table_optimizer"):
        MemoryOptimizer(Toy(), table_optimizer="adam")
    with pytest.raises(UsageError, match="table_lr"):
        MemoryOptimizer(Toy(), table_lr=-1.0)


def test_a_frozen_table_stays_and_the_rest_learns():
    model = Toy()
    model.table.embedding.weight.requires_grad_(False)
    before = model.table.embedding.weight.detach().clone()
    optimizer = MemoryOptimizer(model)
    assert optimizer.tables == []
    loss_of(model, 0).backward()
    optimizer.step()
    assert torch.equal(model.table.embedding.weight, before)


def test_the_memory_of_an_attached_model_learns_and_its_base_does_not(tmp_path_factory):
    model = tiny.randomise(engram.load(tiny.family_folders("llama", tmp_path_factory)[1]))
    trained = freeze_backbone(model)
    assert all(".engram." in name for name in trained)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = MemoryOptimizer(model)
    ids = torch.randint(3, tiny.VOCAB, (2, 17), generator=torch.Generator().manual_seed(5))
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = model.train()(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.5
    changed = {name for name, value in model.state_dict().items() if (value != before[name]).any()}
    assert changed == set(trained)
