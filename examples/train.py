"""Trains a memory with transformers' Trainer: python examples/train.py FOLDER TEXT OUT."""

from __future__ import annotations

import sys
from pathlib import Path

from transformers import AutoTokenizer, Trainer, TrainingArguments

import engram
from engram.training import freeze_backbone, optimizer_for


def main(folder: str, text: str, out: str, context: int = 128) -> None:
    """Train the memory of an attached folder on a text, once, and save the model."""
    model, tokenizer = engram.load(folder), AutoTokenizer.from_pretrained(folder)
    freeze_backbone(model)
    ids = tokenizer(Path(text).read_text(encoding="utf-8"), return_tensors="pt").input_ids[0]
    rows = ids[: len(ids) // context * context].view(-1, context)
    arguments = TrainingArguments(
        out, num_train_epochs=1, per_device_train_batch_size=4, max_grad_norm=0, save_strategy="no"
    )
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=[{"input_ids": row, "labels": row} for row in rows],
        processing_class=tokenizer,
        # It clips gradients itself, rows and all, and has learning rates of its own.
        optimizer_cls_and_kwargs=optimizer_for(lr=2e-3, table_lr=0.1, max_grad_norm=1.0),
    )
    trainer.train()
    trainer.save_model(out)


if __name__ == "__main__":
    main(*sys.argv[1:4])
