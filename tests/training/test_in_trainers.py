"""`MemoryOptimizer` where people train: an unmodified Trainer, PEFT, and loops of their own."""

import copy

import pytest
import torch
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments

import engram
from engram.errors import InputError
from engram.training import MemoryOptimizer, freeze_backbone, optimizer_for
from support import tiny

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*gradient_checkpointing.*:FutureWarning",
    "ignore:.*pin_memory.*:UserWarning",
)

TOKENS = torch.randint(3, tiny.VOCAB, (8, 17), generator=torch.Generator().manual_seed(5))
DATA = [{"input_ids": row, "labels": row} for row in TOKENS]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An attached folder whose memory matters."""
    folder = tmp_path_factory.mktemp("trained")
    attached = tiny.family_folders("llama", tmp_path_factory)[1]
    tiny.randomise(engram.load(attached)).save_pretrained(folder)
    return folder


@pytest.fixture
def model(folder):
    return engram.load(folder)


def trainer_of(model, place, options=None, **arguments):
    """Return transformers' Trainer, as it is, with the optimiser of rows."""
    settings = {
        "output_dir": str(place),
        "max_steps": 4,
        "per_device_train_batch_size": 4,
        "max_grad_norm": 0.0,
        "lr_scheduler_type": "constant",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        **arguments,
    }
    made = optimizer_for(**(options or {}))
    args = TrainingArguments(**settings)
    return Trainer(model=model, args=args, train_dataset=DATA, optimizer_cls_and_kwargs=made)


def losses_of(trainer):
    trainer.train()
    return [it["loss"] for it in trainer.state.log_history if "loss" in it]


def weights_of(model):
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def is_table(name):
    return "multi_head_embedding" in name


def distance(one, other):
    """The largest difference of two sets of weights."""
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def steps_by_hand(model, batches, optimizer):
    for batch in batches:
        optimizer.zero_grad()
        model.train()(input_ids=batch, labels=batch, use_cache=False).loss.backward()
        optimizer.step()
    return weights_of(model)


def test_an_unmodified_trainer_trains_the_memory_and_nothing_else(model, tmp_path):
    trained, before = freeze_backbone(model), weights_of(model)
    losses = losses_of(trainer_of(model, tmp_path, max_steps=20))
    assert losses[-1] < losses[0] - 0.5
    after = weights_of(model)
    assert {name for name in after if (after[name] != before[name]).any()} == set(trained)


def test_schedules_reach_the_groups_and_keep_their_proportion(model, tmp_path):
    trainer = trainer_of(
        model, tmp_path, {"lr": 1e-3, "table_lr": 0.2}, lr_scheduler_type="linear", max_steps=4
    )
    trainer.train()
    rates = [group["lr"] for group in trainer.optimizer.optimizer.param_groups]
    assert rates == [0.0, 0.0, 0.0]
    logged = [it["learning_rate"] for it in trainer.state.log_history if "loss" in it]
    assert logged == pytest.approx([1e-3, 7.5e-4, 5e-4, 2.5e-4])


def test_accumulated_micro_batches_equal_one_batch(folder, tmp_path):
    results = []
    for batch, accumulated in ((4, 1), (2, 2)):
        model = engram.load(folder).double()
        trainer = trainer_of(
            model,
            tmp_path,
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=accumulated,
        )
        trainer.train()
        results.append((weights_of(model), trainer.optimizer.optimizer.last_grad_norm))
    (one, norm), (other, other_norm) = results
    assert norm == pytest.approx(other_norm, rel=1e-9)
    assert distance(one, other) <= 1e-9
    assert distance(one, weights_of(engram.load(folder).double())) > 0.1


@pytest.mark.parametrize("rule", ["rowwise-adagrad", "sparse-adam"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_run_that_was_resumed_equals_one_that_was_not(folder, tmp_path, rule, dtype):
    def run(place, **resume):
        model = engram.load(folder, dtype=dtype)
        options = {"table_optimizer": rule}
        trainer = trainer_of(model, place, options, save_strategy="steps", save_steps=2)
        trainer.train(**resume)
        state = trainer.optimizer.optimizer.state_dict()["state"]
        return weights_of(model), state, trainer.state.log_history

    one, one_state, one_log = run(tmp_path / "one")
    other, other_state, other_log = run(
        tmp_path / "two", resume_from_checkpoint=str(tmp_path / "one" / "checkpoint-2")
    )
    assert distance(one, other) == 0
    for key, values in one_state.items():
        for name, value in values.items():
            assert value.dtype == other_state[key][name].dtype
            assert torch.equal(value, other_state[key][name]), name
    losses = [[it["loss"] for it in log if "loss" in it] for log in (one_log, other_log)]
    assert losses[0] == losses[1]


def test_autocast_to_bfloat16_learns_and_leaves_weights_in_float32(model, tmp_path):
    freeze_backbone(model)
    losses = losses_of(trainer_of(model, tmp_path, max_steps=20, bf16=True))
    assert losses[-1] < losses[0] - 0.5
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}


def test_autocast_to_float16_is_refused(model):
    MemoryOptimizer(model)
    with torch.autocast("cpu", torch.float16), pytest.raises(InputError, match="float16"):
        model(input_ids=TOKENS, labels=TOKENS, use_cache=False)


def test_gradient_checkpointing_changes_nothing(folder, tmp_path):
    results = []
    for on in (False, True):
        model = engram.load(folder)
        trainer_of(model, tmp_path, gradient_checkpointing=on).train()
        results.append(weights_of(model))
    assert distance(*results) <= 1e-6


def test_rows_and_dense_weights_are_clipped_jointly(folder, tmp_path):
    """Against torch's own clipping and optimisers, with dense gradients of tables.

    Every step touches the same rows, so that momentum of the others stays zero.
    """
    bound, model, twin = 0.01, engram.load(folder).double(), engram.load(folder).double()
    options = {"max_grad_norm": bound, "table_optimizer": "momentum", "table_lr": 1.0}
    trainer = trainer_of(model, tmp_path, options, max_steps=3, per_device_train_batch_size=8)
    trainer.train()
    named = dict(twin.named_parameters())
    tables = [weight for name, weight in named.items() if is_table(name)]
    dense = [weight for name, weight in named.items() if not is_table(name)]
    theirs = [
        torch.optim.AdamW(dense, lr=2e-3, weight_decay=0.0),
        torch.optim.SGD(tables, lr=1.0, momentum=0.9, nesterov=True),
    ]
    norms = []
    for _ in range(3):
        twin.zero_grad()
        twin.train()(input_ids=TOKENS, labels=TOKENS, use_cache=False).loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(twin.parameters(), bound)))
        for optimizer in theirs:
            optimizer.step()
    assert min(norms) > 10 * bound
    assert trainer.optimizer.optimizer.last_grad_norm == pytest.approx(norms[-1], rel=1e-6)
    assert distance(weights_of(model), weights_of(twin)) <= 1e-6


def test_clipping_by_the_trainer_is_warned_about_when_it_changes_gradients(folder, tmp_path):
    model = engram.load(folder)
    with pytest.warns(UserWarning, match="max_grad_norm=0"):
        trainer_of(model, tmp_path, max_steps=1, max_grad_norm=1e-3).train()
    trainer_of(engram.load(folder), tmp_path, max_steps=1, max_grad_norm=1e6).train()


@pytest.mark.parametrize("saved", [None, ["engram"]])
def test_the_memory_beside_lora(model, tmp_path, saved):
    from peft import LoraConfig, get_peft_model

    settings = LoraConfig(
        r=2, target_modules=["q_proj"], modules_to_save=saved, task_type="CAUSAL_LM"
    )
    wrapped = get_peft_model(model, settings)
    if saved is None:  # PEFT froze the memory
        for name, weight in wrapped.named_parameters():
            weight.requires_grad_(weight.requires_grad or ".engram." in name)
    before = weights_of(wrapped)
    trainer = trainer_of(wrapped, tmp_path, max_steps=20)
    losses = losses_of(trainer)
    assert losses[-1] < losses[0] - 0.5
    after = weights_of(wrapped)
    changed = {name for name in after if (after[name] != before[name]).any()}
    assert changed == {name for name, weight in wrapped.named_parameters() if weight.requires_grad}
    assert any("lora_B" in name for name in changed)
    assert len(trainer.optimizer.optimizer.tables) == 2
    assert sum(map(is_table, changed)) == 2


@pytest.mark.slow
def test_a_compiled_model_in_a_plain_loop(folder):
    batches = list(DataLoader(TOKENS, batch_size=4))
    model, twin = engram.load(folder).double(), engram.load(folder).double()
    torch._dynamo.reset()
    optimizer = MemoryOptimizer(model)
    compiled = torch.compile(model, backend="aot_eager")
    one = steps_by_hand(compiled, batches, optimizer)
    other = steps_by_hand(twin, batches, MemoryOptimizer(twin))
    one = {name.removeprefix("_orig_mod."): value for name, value in one.items()}
    assert distance(one, other) <= 1e-9
    assert distance(other, weights_of(engram.load(folder).double())) > 0.05


def test_a_copied_model_is_trained_by_an_optimizer_of_its_own(model):
    first = MemoryOptimizer(model)
    twin = copy.deepcopy(model)
    second = MemoryOptimizer(twin)
    batch = TOKENS[:2]
    for it, optimizer in ((model, first), (twin, second)):
        it.train()(input_ids=batch, labels=batch, use_cache=False).loss.backward()
        optimizer.step()
        assert optimizer.rows_touched > 0
    assert distance(weights_of(model), weights_of(twin)) == 0
