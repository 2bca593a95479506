"""`Hasher`: token ids to hash ids, with the compiled kernel if it pays, else in numpy.

Shapes: B sequences, T tokens, n tokens of a flat corpus, L layers, C columns, N the highest n-gram
order.
"""

import sys
import warnings
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from engram.addressing.addresses import Addresses
from engram.addressing.hash_inputs import (
    ALIGNED_BYTES,
    KERNEL_DTYPES,
    MASKED,
    NO_END,
    START,
    check_out,
    fits_doubles,
    pack,
    position_flags,
    token_array,
    wrong_shape,
)
from engram.addressing.reference import Ids, check_ids, hash_chunks
from engram.arguments import checked
from engram.errors import EngramWarning, InputError, LayoutError, UsageError
from engram.threads import kept_threads

Form = Literal["auto", "numba", "numpy"]

_INT64 = np.dtype(np.int64)
_NO_FLAGS = np.empty((0, 0), dtype=np.uint8)
# On fewer ids than this, two threads are slower than one.
_IDS_PER_THREAD = 2**18
# Time that the numpy form takes, and time for loading numba and the kernel.
_SECONDS_PER_CALL = 1e-4
_SECONDS_PER_ID = 3.5e-9
_SECONDS_TO_LOAD = 0.5

# Outputs of more ids, 32 or 64 MiB, do not stay in the caches.
_LARGE_IDS = 2**23
_Kind = tuple[int, int, int]

# Compiled kernels by layers, orders and heads; None if numba does not work.
_KERNELS: dict[_Kind, Any] = {}


class Hasher:
    """Hashes token ids to the rows of every layer's table, in one pass.

    A Hasher can be used from several threads at once.

    Args:
        addresses: The memory's constants.
        threads: Threads that share the work of one call.
        form: ``numba`` or ``numpy``; ``auto`` starts with numpy and changes to numba once loading
            it would have paid. If numba does not work, numpy is used, and a warning gives the
            reason.

    Attributes:
        addresses: The memory's constants.
        threads: Threads that share the work of one call.

    Raises:
        LayoutError: The constants lack the token map that the layout needs.
        UsageError: `threads` is not positive, or `form` is unknown.
    """

    @checked(threads=1)
    def __init__(self, addresses: Addresses, *, threads: int = 1, form: Form = "auto") -> None:
        if addresses.map_sha256 is not None and addresses.token_map is None:
            raise LayoutError(
                "The memory hashes compressed ids, but its constants lack the token map.",
                "Add it: addresses.with_map(token_map)",
            )
        self.addresses = addresses
        self.threads = threads
        self._form = form
        self._shape = (len(addresses.layers), addresses.n_columns)
        self._kind = (len(addresses.layers), addresses.n_orders, addresses.n_heads)
        self._ids_per_token = len(addresses.layers) * addresses.n_columns
        self._tokens_to_share = (
            max(1, 2 * _IDS_PER_THREAD // self._ids_per_token) if threads > 1 else sys.maxsize
        )
        self._past = addresses.max_ngram_size - 1
        has_map = addresses.token_map is not None
        self._token_map = np.array(addresses.token_map if has_map else [], dtype=np.int32)
        self._rules = (
            fits_doubles(addresses),
            addresses.raw_vocab_size,
            addresses.fill,
            NO_END if addresses.end_id is None else addresses.end_id,
        )
        self._constants = pack(addresses, offsets=False), pack(addresses, offsets=True)
        self._kernel: Any = None
        self._numpy_seconds = 0.0

    def __repr__(self) -> str:
        return f"<Hasher: {self.addresses!r}>"

    def hash(
        self,
        ids: ArrayLike,
        *,
        keep: ArrayLike | None = None,
        starts: ArrayLike | None = None,
        history: ArrayLike | None = None,
        offsets: bool = False,
        out: NDArray[Any] | None = None,
    ) -> tuple[NDArray[Any], Ids]:
        """Hash token ids; `reference.hash_ids` defines the result.

        Args:
            ids: Token ids ``[B, T]`` of any integer dtype.
            keep: False at masked positions ``[B, T]``.
            starts: True where a document starts ``[B, T]``.
            history: The tokens before the first ``[B, N-1]``, as returned by the previous call.
            offsets: Whether to return rows of the layer's table instead of rows of the head's part.
            out: Array to fill ``[B, T, L, C]``, int64 or int32. Reusing the same array takes half
                as long as allocating new ones.

        Returns:
            Ids ``[B, T, L, C]``, int64 or `out`, with column ``(order - 2) * H + head``; and the
            history ``[B, N-1]`` for the next call.

        Raises:
            InputError: An id is not below the tokenizer's length, or an array has the wrong shape
                or dtype.
        """
        if not (
            type(ids) is np.ndarray
            and ids.ndim == 2
            and ids.dtype in KERNEL_DTYPES
            and ids.flags.c_contiguous
        ):
            ids = token_array(self.addresses, ids, 2)
        # Decoding one token at a time must be fast: the code below takes two microseconds.
        batch, length = ids.shape
        if out is None:
            out = np.empty((batch, length) + self._shape, _INT64)  # noqa: RUF005 - it is faster
        else:
            check_out(self.addresses, out, ids.shape, offsets)
        if history is None:
            window = np.empty((batch, self._past), np.int64)
            window.fill(self.addresses.fill)
        else:
            window = np.array(history, _INT64)
            if window.shape != (batch, self._past):
                raise wrong_shape("history", window, (batch, self._past))
        is_marked = keep is not None or starts is not None
        flags = position_flags(keep, starts, ids.shape) if is_marked else None
        return out, self._hash(ids, flags, window, offsets, out)

    def hash_documents(
        self,
        ids: ArrayLike,
        boundaries: ArrayLike,
        *,
        offsets: bool = False,
        out: NDArray[Any] | None = None,
    ) -> NDArray[Any]:
        """Hash consecutive documents; each starts with the fill.

        Args:
            ids: Token ids ``[n]`` of any integer dtype.
            boundaries: First token of every document and, last, n: ``[documents + 1]``, increasing.
            offsets: See `hash`.
            out: Array to fill ``[n, L, C]``, int64 or int32.

        Returns:
            Ids ``[n, L, C]``.

        Raises:
            InputError: See `hash`; or the boundaries are not valid for n tokens.
        """
        ids = token_array(self.addresses, ids, 1)
        check_ids(self.addresses, ids)  # an error names the position in the flat array
        size, bounds = len(ids), np.asarray(boundaries)
        if (
            bounds.ndim != 1
            or not len(bounds)
            or bounds.dtype.kind not in "iu"
            or bounds[0] != 0
            or bounds[-1] != size
            or (bounds[1:] < bounds[:-1]).any()
        ):
            raise InputError(
                f"The boundaries must rise from 0 to {size}, the number of tokens.",
                "Give the first token of every document and, last, the number of tokens.",
                tokens=size,
            )
        if out is None:
            out = np.empty((size, *self._shape), np.int64)
        check_out(self.addresses, out, (size,), offsets)
        starts = np.zeros((1, size), bool)
        starts[0, bounds[:-1][bounds[:-1] < size]] = True
        self.hash(ids[None], starts=starts, offsets=offsets, out=out[None])
        return out

    def _hash(
        self,
        ids: NDArray[Any],
        flags: NDArray[np.uint8] | None,
        window: Ids,
        offsets: bool,
        out: NDArray[Any],
    ) -> Ids:
        """Fill `out` and return the history for the next call."""
        size = ids.size
        if not size:
            return window
        kernel = self._kernel or self._load(size)
        if kernel is None:
            check_ids(self.addresses, ids)
            keep = None if flags is None else flags & MASKED == 0
            starts = None if flags is None else flags & START != 0
            return hash_chunks(self.addresses, ids, keep, starts, window, offsets, out)
        flags = _NO_FLAGS if flags is None else flags
        token_map, constants = self._token_map, self._constants[1 if offsets else 0]
        n_ids = size * self._ids_per_token
        is_large = n_ids > _LARGE_IDS and out.ctypes.data % ALIGNED_BYTES == 0
        if size < self._tokens_to_share:
            # One by one: a call into which tuples are unpacked takes 0.15 us longer.
            in_doubles, vocab_size, fill, end_id = self._rules
            stopped = kernel(
                ids,
                token_map,
                constants,
                flags,
                window,
                out,
                0,
                size,
                is_large,
                in_doubles,
                vocab_size,
                fill,
                end_id,
            )
        else:
            arrays = (ids, token_map, constants, flags)
            stopped = self._share(kernel, arrays, window, out, is_large)
        if stopped >= 0:
            check_ids(self.addresses, ids)
        return window

    def _share(
        self,
        kernel: Any,
        arrays: tuple[NDArray[Any], ...],
        window: Ids,
        out: NDArray[Any],
        is_large: bool,
    ) -> int:
        """Call the kernel in several threads, each on a part of the positions."""
        size, length = arrays[0].size, arrays[0].shape[1]
        parts = min(self.threads, 2 * size // self._tokens_to_share)

        def run_part(part: int) -> int:
            begin, end = size * part // parts, size * (part + 1) // parts
            own = window.copy()
            stopped = int(kernel(*arrays, own, out, begin, end, is_large, *self._rules))
            # Rows of the batch whose last position is in this part.
            rows = slice(begin // length, end // length)
            ends[rows] = own[rows]
            return stopped

        ends = np.empty_like(window)
        pool = kept_threads("engram-hash", self.threads - 1)
        others = [pool.submit(run_part, part) for part in range(1, parts)]
        stops = [run_part(0), *(other.result() for other in others)]
        window[:] = ends
        return next((stop for stop in stops if stop >= 0), -1)

    def _load(self, size: int) -> Any:
        """Return the kernel if it is loaded, or if `size` more tokens make loading it pay."""
        if self._form == "numpy":
            return None
        if self._kind not in _KERNELS:
            if self._form == "auto":
                self._numpy_seconds += (
                    _SECONDS_PER_CALL + _SECONDS_PER_ID * size * self._ids_per_token
                )
                if self._numpy_seconds < _SECONDS_TO_LOAD:
                    return None
            try:
                _KERNELS[self._kind] = _compile(self._kind)
            except Exception as error:  # numba can fail in many ways
                _KERNELS[self._kind] = None
                warnings.warn(
                    f"Hashing in numpy, which is many times slower than the compiled kernel: "
                    f"{type(error).__name__}: {error}",
                    EngramWarning,
                    stacklevel=4,
                )
        self._kernel = _KERNELS[self._kind]
        return self._kernel


def _compile(kind: _Kind) -> Any:
    import numba

    if numba.config.DISABLE_JIT:
        raise UsageError("NUMBA_DISABLE_JIT is set.", "Unset it.")
    from engram.addressing.kernel import make_hash_range

    return make_hash_range(*kind)
