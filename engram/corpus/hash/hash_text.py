"""`hash_text`: a text or token shards to hash ids, and how it fills the tables of a memory."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from engram.addressing.addresses import Addresses
from engram.addressing.tokenizer import EngramTokenizer
from engram.addressing.tokenizer_files import TokenizerFile, load_tokenizer
from engram.arguments import checked
from engram.config.engram_config import EngramConfig
from engram.config.templates import given_config, load_template
from engram.corpus.foreign.find_tokens import FoundTokens, find_tokens
from engram.corpus.hash.hash_options import HashOptions
from engram.corpus.hash.hash_plan import HashPlan
from engram.corpus.hash.hash_shards import check_format
from engram.corpus.hash.hashed_text import HashedText
from engram.corpus.ray.ray_engine import RayEngine
from engram.corpus.results.manifests import HASHES_SCHEMA
from engram.corpus.results.result_folder import ResultFolder
from engram.corpus.text.readers import TextReader
from engram.corpus.text.text_options import STDIN
from engram.errors import InputError, MissingFileError, UsageError
from engram.storage.files import Progress


@checked(workers=1)
def hash_text(
    text: str | Path,
    config: str | Path | EngramConfig | None = None,
    tokenizer: str | Path | None = None,
    *,
    output: str | Path | None = None,
    options: HashOptions | None = None,
    workers: int = 1,
    engine: RayEngine | None = None,
    progress: Progress | None = None,
) -> HashedText:
    """Hash a text as a memory reads it, count its n-grams, and write its ids where asked to.

    Rows hit are exact; so are distinct n-grams up to 16.8M an order, and collisions; then they are
    estimated to about 0.1 % and labelled. Results depend neither on the number of workers nor on
    who does the work. Ids are written into a hidden folder beside `output` until all are done.

    Args:
        text: A file, a folder of texts or of tokens (see `find_tokens`), or ``-`` for standard
            input.
        config: The memory: a config, its file, or the name of a template; one that is sized for the
            tokenizer when None.
        tokenizer: Folder, tokenizer.json or hub id; the config's, or gpt2, when None.
        output: Folder of hash ids to appear; None for statistics alone.
        options: How the text is read, what is counted, and the form of the ids.
        workers: Threads that hash, and processes that tokenise for ids.
        engine: A `RayEngine` that tokenises and counts; this machine when None.
        progress: Called with the bytes read so far and their total.

    Returns:
        Counts and statistics; `to_dict()` is what ``engram hash --json`` prints.

    Raises:
        UsageError: An option has no effect on this text.
        InputError: The text cannot be read or has no tokens, or the folder cannot appear.
        MissingFileError: The text, the config or the tokenizer is not there.
        MismatchError: The config, or the tokens, were made with another tokenizer.

    Examples:
        >>> import engram
        >>> hashed = engram.hash_text("corpus.txt", tokenizer="gpt2")
        >>> hashed.counts.documents
        2
    """
    plan = plan_hash(text, config, tokenizer, output=output, options=options)
    plan.check()
    return plan.run(workers=workers, engine=engine, progress=progress)


def plan_hash(
    text: str | Path,
    config: str | Path | EngramConfig | None = None,
    tokenizer: str | Path | None = None,
    *,
    output: str | Path | None = None,
    options: HashOptions | None = None,
) -> HashPlan:
    """Find out what `hash_text` would do; its arguments and errors are the same."""
    options = HashOptions() if options is None else options
    options.check_writing(output is not None, str(text) == STDIN)
    found = find_tokens(text, options.text_key)
    if found is not None:
        found.check_options(options)
        tokenizer = tokenizer or (_stated_tokenizer(found) if config is None else None)
    elif options.check:
        raise UsageError(
            f"{text} is not a folder of tokens: it has no digests.", "Leave out --check."
        )
    source = TextReader(text, options) if found is None else found
    folder = None
    if output is not None:
        folder = ResultFolder(Path(output), HASHES_SCHEMA, options.resume, options.overwrite)
        if not options.resume:
            check_format(options.format)
            folder.check({})
    memory, file, addresses = find_memory(
        None if config is None else given_config(config), tokenizer, options.layers
    )
    return HashPlan(
        reader=(
            source.open(file, check_digests=options.check)
            if isinstance(source, FoundTokens)
            else source
        ),
        config=memory,
        tokenizer=file,
        addresses=addresses,
        output=folder,
        options=options,
        note=None if found is None else found.note(file),
    )


def _stated_tokenizer(found: FoundTokens) -> str:
    """Return the tokenizer that a corpus states.

    Raises:
        InputError: It states none.
    """
    if found.tokenizer is None:
        raise InputError(
            f"{found.where} does not say which tokenizer its tokens were made with.",
            "Give it with -t, or a memory with -c (in Python, tokenizer or config).",
            corpus=str(found.where),
            format=found.format,
        )
    return found.tokenizer


def sized_for(tokenizer: TokenizerFile) -> EngramConfig:
    """Return the memory of the template gpt2 with tables sized for another tokenizer.

    It has layout demo, 2- and 3-grams, 8 heads, layers 1 and 6, and, per order, twice as many rows
    as the tokenizer has ids.
    """
    template = load_template("gpt2")
    return replace(
        template,
        tokenizer=tokenizer.name,
        engram_vocab_size=tokenizer.vocab_size,
        engram_table_size=[2 * tokenizer.vocab_size] * len(template.orders),
        pad_id=None,
    )


def find_memory(
    config: EngramConfig | None,
    tokenizer: str | Path | None = None,
    layer_ids: Sequence[int] | None = None,
) -> tuple[EngramConfig, TokenizerFile, Addresses]:
    """Assemble the config, tokenizer and constants for hashing a text.

    Args:
        config: The memory; one sized for the tokenizer when None.
        tokenizer: Name or path of the tokenizer; the config's, or gpt2, when None.
        layer_ids: The config's layers to hash, all when None; without a config, the memory's
            layers.

    Returns:
        The config, the tokenizer and the constants.

    Raises:
        MissingFileError: The tokenizer cannot be reached.
        InputError: Neither the config nor the call names a tokenizer, or the config does not have
            a layer.
        MismatchError: The config was made for a tokenizer of another length.
        LayoutError: There are no layers, or no token to read before a text.
    """
    name = tokenizer or (config.tokenizer if config is not None else "gpt2")
    if name is None:
        raise InputError(
            "The config does not name a tokenizer.", "Give one with -t (in Python, tokenizer)."
        )
    try:
        file = load_tokenizer(name)
    except MissingFileError as error:
        if tokenizer is not None:
            raise
        raise MissingFileError(
            error.message,
            f"{error.hint} The option for it is -t (in Python, tokenizer).",
            **error.details,
        ) from error
    if config is None:
        config = sized_for(file)
        return config, file, EngramTokenizer(config, file, layer_ids=layer_ids).addresses
    addresses = EngramTokenizer(config, file).addresses
    if layer_ids is None:
        return config, file, addresses
    # The constants of a layer depend on all the layers, and were computed together.
    layers = {layer.layer_id: layer for layer in addresses.layers}
    unknown = [layer_id for layer_id in layer_ids if layer_id not in layers]
    if unknown:
        raise InputError(
            f"Layers must be among those of the memory, {', '.join(map(str, layers))}, got "
            f"{', '.join(map(str, unknown))}.",
            "Choose from them.",
            layer_ids=unknown,
            expected=list(layers),
        )
    chosen = tuple(layers[layer_id] for layer_id in layer_ids)
    return config, file, replace(addresses, layers=chosen)
