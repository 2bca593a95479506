"""The constants of a checkpoint's memory with their token map, wherever that is."""

from engram.addressing.addresses import Addresses
from engram.addressing.same_memory import map_of
from engram.addressing.tokenizer_files import TokenizerFile
from engram.checkpoints.read.checkpoint import Checkpoint
from engram.errors import MissingFileError
from engram.tensor_names import TOKEN_MAP


def complete_addresses(memory: Checkpoint, tokenizer: TokenizerFile | None) -> Addresses:
    """Read or compute a memory's constants, with their token map if compressed ids are hashed.

    Args:
        memory: The checkpoint.
        tokenizer: The memory's tokenizer; the one beside its files when None, if one is needed.

    Raises:
        MissingFileError: There is no tokenizer where one is needed.
        MismatchError: It is another tokenizer than the memory was made with.
    """
    try:
        addresses = memory.addresses_with(tokenizer)
    except MissingFileError as error:
        if tokenizer is not None:
            raise
        raise MissingFileError(
            f"{error.message} The token map follows from the tokenizer.",
            "Name the model's tokenizer: -t TOKENIZER (in Python, tokenizer=TOKENIZER)",
            path=memory.name,
        ) from error
    if addresses.map_sha256 is None or addresses.token_map is not None:
        return addresses
    if memory.stated is not None:  # such files hold the token map itself
        return addresses.with_map(memory.constant(addresses.layer_ids[0], TOKEN_MAP, "<i4"))
    return addresses.with_map(map_of(addresses, tokenizer or memory.load_tokenizer()))
