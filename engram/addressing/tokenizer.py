"""`EngramTokenizer`: turns token ids into a memory's hash ids."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from engram.addressing.addresses import Addresses
from engram.addressing.hash_inputs import whole_numbers
from engram.addressing.hashing import Hasher
from engram.addressing.primes import HeadPrimes
from engram.addressing.reference import compress
from engram.addressing.tokenizer_files import TokenizerFile, describe_tokenizer
from engram.addressing.vocabulary import compressed_map
from engram.arguments import checked
from engram.config.engram_config import EngramConfig
from engram.errors import InputError, LayoutError, MismatchError, UsageError


class EngramTokenizer:
    """Compresses and hashes token ids for every layer of a memory.

    Shapes: B sequences, T tokens, L layers, C columns. Ids go in as lists, numpy arrays or torch
    tensors, ``[B, T]``, or ``[T]`` for one sequence.

    Args:
        config: The memory.
        hf_tokenizer: The backbone's tokenizer: a transformers tokenizer, a `tokenizers.Tokenizer`,
            a `TokenizerFile`, or an argument of `load_tokenizer`; the config's when None.
        layer_ids: Layers (0-based) in hash order; the config's when None.

    Attributes:
        config: The memory, with the layers and the pad id in use.
        addresses: Its constants.

    Raises:
        MismatchError: The config was made for a tokenizer of another length.
        LayoutError: There are no layers, or there is no fill token.
        InputError: There is no tokenizer.
        UsageError: `hf_tokenizer` is something else, or not backed by the `tokenizers` library.
        MissingFileError: The tokenizer cannot be found.
    """

    @checked()
    def __init__(
        self,
        config: EngramConfig,
        hf_tokenizer: Any = None,
        layer_ids: Sequence[int] | None = None,
    ) -> None:
        given = config.tokenizer if hf_tokenizer is None else hf_tokenizer
        if given is None:
            raise InputError(
                "There is no tokenizer: none was given, and the config has none.",
                "Pass one, or set tokenizer in the config.",
            )
        tokenizer = describe_tokenizer(given)
        _check_length(config, tokenizer)
        ids = list(config.layer_ids if layer_ids is None else layer_ids)
        pad_id = _pad_id(config, tokenizer) if config.rules.fill == "pad" else None
        token_map = compressed_map(tokenizer) if config.rules.hashes == "compressed" else None
        self.addresses = Addresses.from_config(config, token_map, pad_id, ids)
        self.config = replace(
            config, layer_ids=ids, pad_id=config.pad_id if pad_id is None else pad_id
        )

    def __repr__(self) -> str:
        return f"<EngramTokenizer: {self.addresses!r}>"

    @property
    def layer_ids(self) -> list[int]:
        """Layers (0-based) in hash order: the L axis of ids."""
        return self.addresses.layer_ids

    @property
    def vocab_distributions(self) -> dict[int, HeadPrimes]:
        """Primes per layer, ``[order][head]``, to build an `EngramModule` from."""
        return self.addresses.vocab_distributions

    @property
    def fingerprint(self) -> str:
        """Digest of everything that determines the ids."""
        return self.addresses.fingerprint

    def compress(self, ids: Any) -> NDArray[np.int64]:
        """Map token ids to the vocabulary that is hashed.

        Args:
            ids: Token ids of any shape.

        Returns:
            Compressed ids of the same shape; the ids themselves if the layout hashes raw ids.

        Raises:
            InputError: They are not ids, or not of this tokenizer.
        """
        return compress(self.addresses, _token_ids(ids))

    def compress_and_hash(
        self,
        ids: Any,
        layer_id: int | None = None,
        return_tensors: Literal["pt", "np"] | None = None,
        *,
        attention_mask: Any = None,
        starts: Any = None,
    ) -> Any:
        """Hash token ids: rows of each head's own part of the table.

        Args:
            ids: Token ids ``[B, T]`` or ``[T]``.
            layer_id: The only layer to return; all layers when None.
            return_tensors: ``pt`` for a torch tensor, on the device of `ids`; else numpy.
            attention_mask: 0 at positions that are not text ``[B, T]``; they read the fill, and no
                position looks back past them. None if all are text.
            starts: 1 where a document starts inside a row ``[B, T]``; no position looks back past
                it. None if documents start only at the rows' first tokens.

        Returns:
            int64 ``[B, T, L, C]`` in the order of `layer_ids`, or ``[B, T, C]`` of one layer;
            column ``(order - 2) * heads + head``.

        Raises:
            InputError: They are not ids, or not of this tokenizer, or a mask has the wrong shape.
            MismatchError: The layer has no memory.
            UsageError: `return_tensors` is unknown.
        """
        return self._hash(ids, layer_id, return_tensors, attention_mask, starts, offsets=False)

    def row_ids(
        self,
        ids: Any,
        layer_id: int | None = None,
        return_tensors: Literal["pt", "np"] | None = None,
        *,
        attention_mask: Any = None,
        starts: Any = None,
    ) -> Any:
        """Hash token ids to rows of the layer's whole table: `compress_and_hash` with offsets."""
        return self._hash(ids, layer_id, return_tensors, attention_mask, starts, offsets=True)

    def _hash(
        self,
        ids: Any,
        layer_id: int | None,
        return_tensors: str | None,
        attention_mask: Any,
        starts: Any,
        offsets: bool,
    ) -> Any:
        if return_tensors not in (None, "np", "pt"):
            raise UsageError(
                f'return_tensors must be "pt" (torch) or None (numpy), got {return_tensors!r}.'
            )
        if layer_id is not None and layer_id not in self.layer_ids:
            raise MismatchError(
                f"layer_id must be one of {self.layer_ids}, got {layer_id}.",
                "Layers are counted from 0.",
                layer_id=layer_id,
                layer_ids=self.layer_ids,
            )
        rows = _token_ids(ids)
        hashed, _ = self._hasher.hash(
            rows[None] if rows.ndim == 1 else rows,
            keep=_mask(attention_mask, "attention_mask", rows.shape),
            starts=_mask(starts, "starts", rows.shape),
            offsets=offsets,
        )
        if layer_id is not None:
            hashed = np.ascontiguousarray(hashed[:, :, self.layer_ids.index(layer_id)])
        if return_tensors != "pt":
            return hashed
        import torch

        return torch.from_numpy(hashed).to(ids.device if isinstance(ids, torch.Tensor) else "cpu")

    @cached_property
    def _hasher(self) -> Hasher:
        return Hasher(self.addresses)


def _check_length(config: EngramConfig, tokenizer: TokenizerFile) -> None:
    """Raise an error for a tokenizer of another length; raw ids may be fewer than the model's."""
    given, own = tokenizer.vocab_size, config.engram_vocab_size
    if given == own or (config.rules.hashes == "raw" and given < own):
        return
    raise MismatchError(
        f"The config is made for a tokenizer of {own:,} ids (engram_vocab_size); {tokenizer.name} "
        f"has {given:,}. Its n-grams would read other rows.",
        f"Use the config's tokenizer, or make a config with engram_vocab_size {given}.",
        config_vocab_size=own,
        tokenizer_vocab_size=given,
        tokenizer=tokenizer.name,
    )


def _pad_id(config: EngramConfig, tokenizer: TokenizerFile) -> int:
    known = (config.pad_id, tokenizer.pad_id, tokenizer.eos_id)
    pad = next((pad for pad in known if pad is not None), None)
    if pad is None:
        raise LayoutError(
            f"{tokenizer.name} has neither a padding nor an end-of-text token to read before the "
            "start of a text.",
            "Set pad_id in the config to a token or an id.",
        )
    number: int | None = tokenizer.tokenizer.token_to_id(pad) if isinstance(pad, str) else pad
    if number is None:
        raise LayoutError(
            f"pad_id {pad!r} is not a token of {tokenizer.name}.",
            "Set pad_id to one of its tokens, an id, or null.",
            pad_id=pad,
        )
    return number


def _mask(mask: Any, name: str, shape: tuple[int, ...]) -> NDArray[np.bool_] | None:
    """Return a mask of ids of that shape as bool ``[B, T]``."""
    if mask is None:
        return None
    array = _whole_numbers(mask, name)
    if array.shape != shape:
        raise InputError(
            f"{name} must be {list(shape)}, like the token ids, got {list(array.shape)}.",
            shape=list(array.shape),
        )
    return np.atleast_2d(array != 0)


def _token_ids(ids: Any) -> NDArray[Any]:
    """Return token ids as an array; those above the tokenizer's are found where they are read."""
    array = _whole_numbers(ids, "Token ids")
    if array.size and int(array.min()) < 0:
        raise InputError(
            f"Token ids must be >= 0, got {int(array.min())}.",
            "Give positions that are not text any id, and pass attention_mask=.",
            token_id=int(array.min()),
        )
    return array


def _whole_numbers(values: Any, what: str) -> NDArray[Any]:
    """Return lists, arrays or tensors of whole numbers as an array."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(values, torch.Tensor):
        values = values.detach().cpu().numpy()
    return whole_numbers(values, what, "attention_mask")
