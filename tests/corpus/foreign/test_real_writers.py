"""Corpora that the tools themselves wrote, where they are installed."""

from __future__ import annotations

import pytest

from engram.addressing.tokenizer_files import load_tokenizer
from engram.corpus.foreign.find_tokens import find_tokens
from engram.corpus.text.readers import TextReader
from engram.corpus.text.text_options import TextOptions
from engram.training.documents import TrainingDocuments
from support.hashed import documents_of
from support.paths import BPE

DOCUMENTS = documents_of("ids")[1]


def check(where, documents=DOCUMENTS):
    tokens = find_tokens(where).open(load_tokenizer(BPE))
    in_memory = TrainingDocuments(documents, BPE, options=TextOptions(add_eos=False))
    assert tokens.sha256 == in_memory.sha256


def test_save_to_disk(tmp_path):
    datasets = pytest.importorskip("datasets")
    texts = documents_of("texts")[0]
    data = datasets.Dataset.from_dict({"text": texts, "input_ids": DOCUMENTS})
    data.save_to_disk(tmp_path / "one", num_shards=3)
    check(tmp_path / "one")
    shuffled = data.shuffle(seed=1)
    shuffled.save_to_disk(tmp_path / "two")
    check(tmp_path / "two", list(shuffled["input_ids"]))
    datasets.DatasetDict(train=data).save_to_disk(tmp_path / "three")
    check(tmp_path / "three")
    reader = TextReader(tmp_path / "three")
    assert [text for block in reader for text in block.texts] == texts


@pytest.mark.parametrize("token_size", [2, 4])
def test_datatrove(tmp_path, token_size):
    pytest.importorskip("datatrove")
    from datatrove.pipeline.tokens.megatron_tokenizer import MegatronTokenizedFile
    from datatrove.pipeline.tokens.tokenizer import TokenizedFile

    options = {"token_size": token_size, "save_final_metadata": True}
    file = TokenizedFile(str(tmp_path), "x.ds", tokenizer_name_or_path="a/b", **options)
    megatron = MegatronTokenizedFile(str(tmp_path), "m", token_size=token_size)
    for document in DOCUMENTS:
        file.write(document, None)
        megatron.write(document)
    file.close()
    megatron.close()
    check(tmp_path / "x.ds")
    assert find_tokens(tmp_path / "x.ds").tokenizer == "a/b"
    check(tmp_path / "m")


# Megatron's writer copies tensors in a way that numpy warns of.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("kind", ["int16", "int32", "int64", "uint16"])
def test_megatron_core(tmp_path, kind):
    indexed = pytest.importorskip("megatron.core.datasets.indexed_dataset")
    import numpy as np
    import torch

    builder = indexed.IndexedDatasetBuilder(str(tmp_path / "m.bin"), dtype=getattr(np, kind))
    for number, document in enumerate(DOCUMENTS):
        cut = number % 3  # none, or a first sentence of one token or two
        builder.add_document(
            torch.tensor(document), [it for it in (cut, len(document) - cut) if it]
        )
    builder.finalize(str(tmp_path / "m.idx"))
    builder.data_file.close()
    check(tmp_path / "m")
