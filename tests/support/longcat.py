"""The n-gram ids of LongCat-Flash-Lite: polynomials of raw ids, not the mix of our layouts."""

from __future__ import annotations

import numpy as np

from engram.checkpoints.published.longcat import table_rows


def ngram_ids(ids, vocab_size, ratio, max_ngram_size, splits, eos_id):
    """Compute the row that every position reads in every table.

    An n-gram is a number with digits to the base V, the newest first, modulo the table's rows.
    Tokens before the text, or before the last end-of-text token, count as 0 (public ports of
    modeling_longcat_ngram.py).

    Args:
        ids: Token ids ``[B, T]``.
        vocab_size: See `table_rows`.
        ratio: See `table_rows`.
        max_ngram_size: See `table_rows`.
        splits: See `table_rows`.
        eos_id: Token that ends a text; it still looks back itself.

    Returns:
        Rows ``[B, T, tables]``, without offsets: every table stands alone.
    """
    batch, length = ids.shape
    texts = np.cumsum(ids == eos_id, axis=1) - (ids == eos_id)  # number of the text, per position
    back = np.zeros((max_ngram_size, batch, length), dtype=np.int64)
    for distance in range(min(max_ngram_size, length)):
        same = texts[:, distance:] == texts[:, : length - distance]
        back[distance, :, distance:] = ids[:, : length - distance] * same
    columns = []
    for table, rows in enumerate(table_rows(vocab_size, ratio, max_ngram_size, splits)):
        order = table // splits + 2
        powers = [pow(vocab_size, distance, rows) for distance in range(order)]
        columns.append(sum(back[i] * powers[i] for i in range(order)) % rows)
    return np.stack(columns, axis=-1)
