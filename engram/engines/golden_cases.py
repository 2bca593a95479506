"""Cases of token ids and the row ids that they read, from the reference form of the hash.

Shapes: T tokens of a text, N highest n-gram order, L layers, C columns.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engram.addressing.addresses import Addresses
from engram.addressing.reference import compress, hash_ids
from engram.addressing.tokenizer_files import TokenizerFile

# A dead position: an image's, padding, or a token that the memory's tokenizer does not have.
DEAD = -1
# A text with names, which memories know.
TEXT = "Only Alexander the Great could tame the horse Bucephalus."

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Step:
    """Tokens that an engine is given at once.

    Attributes:
        at: Tokens of the text that stay before these: less than there are takes some back.
        token_ids: The tokens, `DEAD` at dead positions.
        starts: Which of them start a document, beside the text's first.
    """

    at: int
    token_ids: tuple[int, ...]
    starts: tuple[int, ...] = ()


@dataclass(frozen=True)
class Case:
    """A text, given in one or more steps.

    Attributes:
        name: Its name.
        rule: Name of the rule that it is about, see `RULES`.
        steps: The steps, in order.
        text: The text that the tokens are of, if they are of one.
    """

    name: str
    rule: str
    steps: tuple[Step, ...]
    text: str | None = None


@dataclass(frozen=True, eq=False)
class Reading:
    """Everything that an engine must find for a step.

    Attributes:
        step: The step.
        compressed_ids: Ids of the hashed vocabulary, `DEAD` at dead positions ``[T]``.
        rows: Rows of the layers' tables ``[T, L, C]``.
        history: Slots N-2..0 of the last token, oldest first: the state that decoding carries
            ``[N - 1]``.
    """

    step: Step
    compressed_ids: Ids
    rows: Ids
    history: Ids

    def to_dict(self) -> dict[str, Any]:
        """Return the step and its answers for JSON."""
        starts = set(self.step.starts)
        return {
            "at": self.step.at,
            "token_ids": list(self.step.token_ids),
            "starts": [int(i in starts) for i in range(len(self.step.token_ids))],
            "compressed_ids": self.compressed_ids.tolist(),
            "rows": self.rows.tolist(),
            "history": self.history.tolist(),
        }


RULES = {
    "start_of_text": "slots before the text read the fill",
    "dead_tokens": "see rule.dead_tokens; the id of a dead position is -1",
    "largest_ids": "the products of ids and multipliers take up to 63 bits: 64-bit integers",
    "pieces": "a piece reads the tokens before it: its rows are those of the whole text",
    "rollback": "tokens that were taken back leave no trace",
    "document_starts": "a token that starts a document looks back at nothing; packed texts",
    "end_of_text": "what follows the token end_id does not look back at it, nor past it",
    "tokenizer": "the text, tokenised without special tokens",
}


def make_cases(addresses: Addresses, tokenizer: TokenizerFile | None) -> tuple[Case, ...]:
    """Make the cases of a memory.

    Args:
        addresses: Its constants, with their token map.
        tokenizer: Its tokenizer; without one there is no case of a text.
    """
    return tuple(_cases(addresses, tokenizer))


def _cases(addresses: Addresses, tokenizer: TokenizerFile | None) -> Iterator[Case]:
    n, last = addresses.max_ngram_size, addresses.raw_vocab_size - 1
    text = _tokens(addresses, 3 * n + 1)
    yield _whole("start_of_text", "start_of_text", text)
    for length in range(1, n):
        yield _whole(f"text_of_{length}", "start_of_text", text[:length])
    yield _whole("dead_token_inside", "dead_tokens", (*text[:n], DEAD, *text[n:]))
    yield _whole("dead_tokens_apart", "dead_tokens", (*text[:2], DEAD, text[2], DEAD, *text[3:]))
    yield _whole("dead_tokens_first", "dead_tokens", (DEAD, DEAD, *text))
    yield _whole("all_dead", "dead_tokens", (DEAD,) * (n + 1))
    largest = [*range(last, max(last - n, 0), -1)]
    if addresses.token_map is not None:
        largest += [int(addresses.token_map.argmax())] * n
    largest = [token_id for token_id in largest if token_id != addresses.end_id]
    yield _whole("largest_ids", "largest_ids", (*largest, *largest[:1] * n, 0))
    yield Case("chunked_decode", "pieces", _pieces(text, (1, 2, 1, n, len(text))))
    yield Case("decode_after_prefill", "pieces", _pieces(text, (n + 1, *[1] * len(text))))
    yield Case(
        "dead_token_in_pieces", "dead_tokens", _pieces((*text[:3], DEAD, *text[3:]), (3, 1, 1, 99))
    )
    yield Case("speculative_rollback", "rollback", _drafted(text, n))
    starts = (0, n, n + 1, 2 * n + 1)
    yield Case("document_starts", "document_starts", (Step(0, text, starts),))
    if addresses.end_id is not None:
        ended = (*text[:n], addresses.end_id, *text[n:], addresses.end_id, addresses.end_id)
        yield _whole("end_of_text_inside", "end_of_text", ended)
        yield Case("end_of_text_in_pieces", "end_of_text", _pieces(ended, (n, 1, 1, 1, 99)))
    if tokenizer is not None:
        ids = tokenizer.tokenizer.encode(TEXT, add_special_tokens=False).ids
        if ids and max(ids) <= last:
            yield Case("text", "tokenizer", (Step(0, tuple(ids)),), TEXT)


def _whole(name: str, rule: str, token_ids: Sequence[int]) -> Case:
    return Case(name, rule, (Step(0, tuple(token_ids)),))


def _tokens(addresses: Addresses, count: int) -> tuple[int, ...]:
    """Choose tokens from the whole vocabulary, without the one that ends documents."""
    size = addresses.raw_vocab_size
    spread = ((i * i + 7) * 7919 % size for i in itertools.count(1))
    return tuple(itertools.islice((it for it in spread if it != addresses.end_id), count))


def _pieces(token_ids: Sequence[int], lengths: Sequence[int]) -> tuple[Step, ...]:
    steps, at = [], 0
    for length in lengths:
        if piece := tuple(token_ids[at : at + length]):
            steps.append(Step(at, piece))
        at += len(piece)
    return tuple(steps)


def _drafted(text: tuple[int, ...], n: int) -> tuple[Step, ...]:
    """A prompt; a draft of which one token is kept; another of which none is; the rest."""
    prompt, rest = text[:n], text[n:]
    draft = tuple(reversed(text))[: n + 1]
    return (
        Step(0, prompt),
        Step(n, (rest[0], *draft)),
        Step(n + 1, draft),
        Step(n + 1, rest[1:2]),
        Step(n + 2, rest[2:]),
    )


@dataclass
class _Text:
    """A text so far: its ids, and which of them start documents."""

    ids: list[int] = field(default_factory=list)
    starts: list[bool] = field(default_factory=list)

    def take(self, step: Step) -> None:
        del self.ids[step.at :], self.starts[step.at :]
        self.starts += [i in step.starts for i in range(len(step.token_ids))]
        self.ids += step.token_ids


def read_case(addresses: Addresses, case: Case) -> tuple[Reading, ...]:
    """Compute what an engine must find for every step of a case.

    Every step is read as the end of the whole text so far, by the reference form of the hash.

    Args:
        addresses: The constants, with their token map.
        case: The case.
    """
    offsets = np.array([layer.offsets for layer in addresses.layers])  # [L, C]
    text, found = _Text(), []
    for step in case.steps:
        text.take(step)
        ids = np.array(text.ids, dtype=np.int64)
        hashed, history = _hash(addresses, ids, np.array(text.starts))
        compressed = compress(addresses, ids)  # negative ids stay as they are
        found.append(Reading(step, compressed[step.at :], hashed[step.at :] + offsets, history))
    return tuple(found)


def _hash(addresses: Addresses, ids: Ids, starts: NDArray[np.bool_]) -> tuple[Ids, Ids]:
    """Hash a text with dead positions ``[T]`` by the layout's rule for them."""
    alive = ids != DEAD
    readable = np.where(alive, ids, 0)[None]
    hashed, history = hash_ids(addresses, readable, alive[None], starts[None])
    if addresses.layout.masked == "dead":
        return hashed[0], history[0]
    # They are passed over: the rest reads what it would without them.
    rest, history = hash_ids(addresses, readable[:, alive], None, starts[None, alive])
    hashed[0, alive] = rest[0]
    return hashed[0], history[0]
