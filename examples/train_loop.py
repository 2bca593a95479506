"""Trains a memory in a plain loop: python examples/train_loop.py FOLDER TEXT OUT."""

from __future__ import annotations

import sys

import numpy as np
import torch
from transformers import AutoTokenizer

import engram
from engram.training import MemoryOptimizer, TrainingDocuments, document_losses, freeze_backbone


def main(folder: str, text: str, out: str, context: int = 128) -> None:
    """Train the memory of an attached folder on a text, once, and save the model."""
    model, documents = engram.load(folder), TrainingDocuments(text, folder)
    freeze_backbone(model)
    optimizer = MemoryOptimizer(model, lr=2e-3, table_lr=0.1)
    ids = np.concatenate([documents.tokens(number) for number in documents.training])
    rows = torch.from_numpy(ids[: len(ids) // context * context].astype(np.int64))
    model.train()
    for batch in torch.utils.data.DataLoader(rows.view(-1, context), batch_size=4, shuffle=True):
        loss = model(input_ids=batch, labels=batch, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        print(f"loss {loss.item():.4f}, {optimizer.rows_touched} rows", file=sys.stderr)
    held_out = document_losses(model, documents.read_held_out(), folder, context=context)
    print(f"held out: {held_out.nats_per_token:.4f} nats a token")
    model.save_pretrained(out)
    AutoTokenizer.from_pretrained(folder).save_pretrained(out)


if __name__ == "__main__":
    main(*sys.argv[1:4])
