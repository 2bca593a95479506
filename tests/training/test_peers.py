"""TRL's SFTTrainer and lm-evaluation-harness, unmodified, on a memory that `train` trained.

`make range` lays both packages over the environment; elsewhere these tests are skipped.
"""

import json
import os
import re
import subprocess
import sys

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

import engram
from engram.training import TrainOptions, freeze_backbone, optimizer_for, train
from support import tiny
from support.paths import REPOSITORY

TEXTS = ["Alexander the Great saw the Milky Way.", "By the way, the Milky Way is wide."]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A base, and the result of a short run of `train` on it."""
    base, _ = tiny.family_folders("llama", tmp_path_factory)
    folder = tmp_path_factory.mktemp("peers")
    (folder / "corpus.txt").write_text("\n\n".join(TEXTS * 20))
    engram.attach(base, tiny.memory_config(), folder / "attached", init="zero-table")
    options = TrainOptions(steps=4, batch=2, context=32, table_lr=0.5)
    train(folder / "attached", folder / "trained", folder / "corpus.txt", options=options)
    return base, folder / "trained"


@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.filterwarnings("default")  # other people's
def test_sft_trainer_trains_the_memory(folders, tmp_path, packing):
    trl = pytest.importorskip("trl", reason="needs trl; `make range` runs it")
    datasets = pytest.importorskip("datasets", reason="needs datasets; `make range` runs it")
    model, tokenizer = engram.load(folders[1]), AutoTokenizer.from_pretrained(folders[1])
    trained = freeze_backbone(model)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    arguments = trl.SFTConfig(
        output_dir=str(tmp_path / "run"),
        max_steps=12,
        per_device_train_batch_size=4,
        max_length=32,
        packing=packing,
        max_grad_norm=0.0,
        lr_scheduler_type="constant",
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
    )
    trainer = trl.SFTTrainer(
        model=model,
        args=arguments,
        train_dataset=datasets.Dataset.from_dict({"text": TEXTS * 24}),
        processing_class=tokenizer,
        optimizer_cls_and_kwargs=optimizer_for(table_lr=0.2),
    )
    trainer.train()
    losses = [it["loss"] for it in trainer.state.log_history if "loss" in it]
    assert losses[-1] < losses[0] - 0.15
    after = dict(model.named_parameters())
    assert {name for name in after if (after[name] != before[name]).any()} == set(trained)
    trainer.save_model(tmp_path / "saved")
    again = dict(engram.load(tmp_path / "saved").named_parameters())
    assert all(torch.equal(again[name], weight) for name, weight in after.items())
    assert engram.verify(tmp_path / "saved").ok


def bits_per_byte(folder):
    """Bits a byte of the texts, each after the token that the harness begins with."""
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True).eval()
    tokenizer, nats = AutoTokenizer.from_pretrained(folder), 0.0
    first = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    for text in TEXTS:
        ids = torch.tensor([[first, *tokenizer(text, add_special_tokens=False).input_ids]])
        with torch.no_grad():
            logits = model(input_ids=ids).logits[0, :-1]
        nats += float(torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum"))
    return nats / torch.tensor(2.0).log().item() / sum(len(text.encode()) for text in TEXTS)


def page_says(kind):
    """The blocks of a kind on the page that tells how to run the harness."""
    page = (REPOSITORY / "docs/how-to/evaluate.md").read_text(encoding="utf-8")
    return re.findall(rf"```{kind}\n(.*?)```", page, flags=re.DOTALL)


def test_the_harness_evaluates_it_offline_as_the_page_says(folders, tmp_path):
    pytest.importorskip("lm_eval", reason="needs lm-eval; `make range` runs it")
    base, trained = folders
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    for text in page_says("yaml"):
        (tasks / f"{yaml.safe_load(text)['task']}.yaml").write_text(text)
    choices = {"choices": ["Way", "wide", "Great"], "answer": 0}
    for name, records in {
        "local_text": [{"text": text} for text in TEXTS],
        "local_choice": [{"question": it, **choices} for it in ("saw the Milky", "the Milky")],
    }.items():
        lines = "".join(f"{json.dumps(record)}\n" for record in records)
        (tasks / f"{name}.jsonl").write_text(lines)
    (tmp_path / "trained").symlink_to(trained)
    (command,) = [block for block in page_says("bash") if "local_text" in block]
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
    set_by_page, words = command.split(" lm_eval ")
    assert set_by_page.split() == [f"{name}=1" for name in list(offline)[:2]]
    done = subprocess.run(
        [sys.executable, "-m", "lm_eval", *words.split()],
        env={**os.environ, **offline},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (file,) = (tmp_path / "results").rglob("results_*.json")
    found = json.loads(file.read_text())["results"]
    assert 0 <= found["local_choice"]["acc,none"] <= 1
    expected = bits_per_byte(trained)
    assert found["local_text"]["bits_per_byte,none"] == pytest.approx(expected, rel=1e-4)
    assert expected < bits_per_byte(base) - 0.1
