"""Losses of a text by plain torch: independent_eval.py MODEL TEXT CONTEXT [HELD_OUT_JSON].

It shares no code with the toolkit. A document is a paragraph with the blank line after it, and the
end-of-text token; a longer one is cut into windows, of which every token but the first is counted.
"""

import json
import math
import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM


def independent_losses(folder, text, context, held_out=None):
    """Nats a token, perplexity, bits a byte, and counts; of the documents that a run held out."""
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True).eval()
    tokenizer = Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))
    end = json.loads((Path(folder) / "tokenizer_config.json").read_text())["eos_token"]
    *others, last = Path(text).read_text().split("\n\n")
    documents = [*(f"{paragraph}\n\n" for paragraph in others), last]
    if held_out is not None:
        numbers = json.loads(Path(held_out).read_text())["documents"]
        documents = [documents[number] for number in numbers]
    nats = tokens = size = 0
    for document in documents:
        ids = tokenizer.encode(document, add_special_tokens=False).ids
        ids.append(tokenizer.token_to_id(end))
        for begin in range(0, len(ids) - 1, context):
            window = torch.tensor([ids[begin : begin + context]])
            with torch.no_grad():
                logs = model(input_ids=window).logits[0].double().log_softmax(-1)
            for place, token in enumerate(window[0, 1:].tolist()):
                nats -= float(logs[place, token])
                tokens += 1
                # A byte-level token has as many characters as bytes; the end has none.
                size += (
                    0 if tokenizer.id_to_token(token) == end else len(tokenizer.id_to_token(token))
                )
    return {
        "nats_per_token": nats / tokens,
        "perplexity": math.exp(nats / tokens),
        "bits_per_byte": nats / math.log(2) / size,
        "tokens": tokens,
        "bytes": size,
    }


if __name__ == "__main__":
    path, text, context, *more = sys.argv[1:]
    print(json.dumps(independent_losses(path, text, int(context), *more)))
