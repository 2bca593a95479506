"""Asks the Hugging Face hub for files: whole ones, or those of its cache here, and ranges of bytes.

Asked for a file, huggingface_hub retries for half a minute before it looks at its cache. So the hub
is asked once whether it answers at all. Asked for a range, its file system takes whatever comes for
the bytes that it wanted, a whole file from a server that knows no ranges; and its client waits for
ever for a server that stalls. So ranges are asked for and checked here.
"""

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from engram.errors import CorruptFileError, EngramError, MissingFileError

PROBE_SECONDS = 5.0
# Of a range: how long a connection or the next bytes may take, how often it is asked for again
# where that fails, and the pause before, which grows.
RANGE_SECONDS = 30.0
RANGE_RETRIES = 3
RETRY_PAUSE_SECONDS = 0.5
_STATED = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")
_SERVER_HINT = "Try again; if it stays so, ask the hub itself (unset HF_ENDPOINT)."


def probe(name: str, file: str, revision: str | None) -> Exception | None:
    """Ask the hub about a file: once, and for a few seconds at most.

    Args:
        name: Id of the repository.
        file: The file in it.
        revision: Branch, tag or commit; the newest when None.

    Returns:
        Why the hub cannot be asked; None when it answers, be it with a no.
    """
    from huggingface_hub import errors, get_hf_file_metadata, hf_hub_url

    noes = errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.EntryNotFoundError
    url = hf_hub_url(name, file, revision=revision, endpoint=_endpoint())
    try:
        get_hf_file_metadata(url, timeout=PROBE_SECONDS)
    except Exception as error:  # the client's versions differ in transport, and so in exceptions
        return None if isinstance(error, noes) else error
    return None


def fetch(name: str, file: str, revision: str | None) -> tuple[Path, bool]:
    """Bring a file here, from the cache alone where the hub does not answer.

    Args:
        name: See `probe`.
        file: See `probe`.
        revision: See `probe`.

    Returns:
        Its path, and whether the hub answered.

    Raises:
        huggingface_hub.errors.LocalEntryNotFoundError: Neither the hub nor the cache has it to
            give; the cause is why the hub does not.
        Exception: Whatever else huggingface_hub raises for what the hub does not have or show.
    """
    problem = probe(name, file, revision)
    if problem is None:
        return download(name, file, revision, offline=False), True
    try:
        return download(name, file, revision, offline=True), False
    except Exception as error:
        raise error from problem


def download(name: str, file: str, revision: str | None, *, offline: bool) -> Path:
    """Bring a file here.

    Args:
        name: See `probe`.
        file: See `probe`.
        revision: See `probe`.
        offline: Only look into the cache.

    Raises:
        Exception: See `fetch`.
    """
    from huggingface_hub import hf_hub_download

    return Path(
        hf_hub_download(
            name, file, revision=revision, endpoint=_endpoint(), local_files_only=offline
        )
    )


def has_file(name: str, file: str, revision: str | None) -> bool:
    """Whether a repository on the hub has a file.

    Raises:
        Exception: Whatever huggingface_hub raises where the hub does not say.
    """
    from huggingface_hub import HfApi

    return bool(HfApi(endpoint=_endpoint()).file_exists(name, file, revision=revision))


def list_files(name: str, revision: str | None) -> tuple[list[str], str | None]:
    """List the files of a repository on the hub: asked once, for a few seconds at most.

    Returns:
        Their names, and the commit that has them, where the hub says it.

    Raises:
        Exception: Whatever huggingface_hub raises where the hub does not say.
    """
    from huggingface_hub import HfApi

    found = HfApi(endpoint=_endpoint()).model_info(name, revision=revision, timeout=PROBE_SECONDS)
    return [sibling.rfilename for sibling in found.siblings or ()], found.sha


def size_of(name: str, file: str, revision: str | None) -> tuple[int, str | None]:
    """Ask the hub for the size of a file.

    Returns:
        Its bytes, and the commit that has them, where the hub says it.

    Raises:
        ConnectionError: The server does not state a size.
        Exception: Whatever huggingface_hub raises for what the hub does not have or show.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    url = hf_hub_url(name, file, revision=revision, endpoint=_endpoint())
    found = get_hf_file_metadata(url, timeout=PROBE_SECONDS)
    if found.size is None:
        raise ConnectionError(f"{url}: the server does not state the size of the file")
    return found.size, found.commit_hash


def read_range(
    name: str, file: str, revision: str | None, first: int, stop: int, size: int | None = None
) -> bytes:
    """Read some bytes of a file on the hub: in several answers, where one holds a part of them.

    A server that stalls, breaks off, is busy (429) or in trouble (5xx) is asked again, a few times.

    Args:
        name: See `probe`.
        file: See `probe`.
        revision: See `probe`.
        first: The first of them.
        stop: The byte after the last of them; there are fewer where the file ends before.
        size: Bytes of the file, where they are known; else what the server states counts.

    Raises:
        CorruptFileError: The server sends other bytes than were asked for, or none; or states
            another size of the file.
        ConnectionError: It sends whole files only.
        Exception: Whatever huggingface_hub raises for what the hub does not have or show.
    """
    from huggingface_hub import hf_hub_url

    url = hf_hub_url(name, file, revision=revision, endpoint=_endpoint())
    content, failures = bytearray(), 0
    if size is not None:
        stop = min(stop, size)
    while len(content) < stop - first:
        before = len(content)
        try:
            total = _read_on(url, first, stop, content, size)
        except Exception as error:  # the client's versions differ in transport, and in exceptions
            failures += 1
            if failures > RANGE_RETRIES or not _may_pass(error):
                raise
            time.sleep(RETRY_PAUSE_SECONDS * 2 ** (failures - 1))
            continue
        if total is None:  # nobody says where the file ends
            break
        size, stop = total, min(stop, total)
        if len(content) == before:
            raise CorruptFileError(
                f"{url}: bytes {first + before} to {stop - 1} were asked for, and the answer is "
                "empty.",
                _SERVER_HINT,
            )
    return bytes(content)


def _read_on(url: str, first: int, stop: int, content: bytearray, size: int | None) -> int | None:
    """Ask once for the bytes of a range that are still missing, and take what comes.

    Args:
        url: The file.
        first: See `read_range`.
        stop: See `read_range`.
        content: Bytes of the range that are there; those that come are added, also those that come
            before a failure.
        size: See `read_range`.

    Returns:
        The size of the file; None where neither the server says it nor `size` does.

    Raises:
        Exception: See `read_range`.
    """
    from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

    begin = first + len(content)
    wanted = {"range": f"bytes={begin}-{stop - 1}", "accept-encoding": "identity"}
    options = {"headers": {**build_hf_headers(), **wanted}, "timeout": RANGE_SECONDS}
    with get_session().stream("GET", url, follow_redirects=True, **options) as response:
        hf_raise_for_status(response)
        if response.status_code != 206:
            raise ConnectionError(f"{url}: the server sends whole files only, no ranges of them")
        header = response.headers.get("content-range", "")
        stated = _STATED.fullmatch(header)
        if stated is None or int(stated[1]) != begin:
            raise CorruptFileError(
                f"{url}: bytes {begin} to {stop - 1} were asked for, and the answer holds "
                f"{header or 'some that it does not name'}.",
                _SERVER_HINT,
            )
        total = size if stated[3] == "*" else int(stated[3])
        if size not in (None, total):
            raise CorruptFileError(
                f"{url}: the server states that the file has {total:,} bytes, and it has {size:,}.",
                _SERVER_HINT,
            )
        count = min(stop, int(stated[2]) + 1) - first
        for chunk in response.iter_bytes():
            content += chunk[: count - len(content)]
            if len(content) >= count:
                break
    return total


def _may_pass(error: Exception) -> bool:
    """Whether the same request may succeed a moment later."""
    from huggingface_hub.errors import HfHubHTTPError

    if isinstance(error, HfHubHTTPError):
        status: int = error.response.status_code
        return status == 429 or status >= 500
    # Of httpx or of httpx2, which are not asked for by name: timeouts, and connections that break.
    return any(kind.__name__ == "TransportError" for kind in type(error).__mro__)


@contextmanager
def naming_failures(name: str, revision: str | None) -> Iterator[None]:
    """Name the repository where the hub's client fails.

    Raises:
        MissingFileError: It does.
    """
    try:
        yield
    except EngramError:
        raise
    except Exception as error:  # the client's versions differ in transport, and so in exceptions
        raise MissingFileError(
            f"{name} could not be read from the hub ({type(error).__name__}: {error}).",
            "Try again, or give the model's folder.",
            model=name,
            revision=revision,
        ) from None


def not_had(
    error: Exception,
    subject: str,
    file: str,
    revision: str | None,
    *,
    folder: str,
    absent: str,
    similar: str = "",
    **details: Any,
) -> MissingFileError:
    """Say why `fetch` did not bring a file, and what to do.

    Args:
        error: What it raised.
        subject: The repository, as the subject of a sentence.
        file: The file.
        revision: Branch, tag or commit.
        folder: A folder that would do instead, with its article.
        absent: Next step where it does not have the file.
        similar: A sentence about other names, for one that is not known.
        **details: Details of the error, beside the revision.
    """
    from huggingface_hub import errors

    nowhere = "is not a folder here, and not on the hub (or private)"
    another = f"Give {folder}, or another hub id. {similar}".rstrip()
    # The first that an error is of; some are of several.
    cases: tuple[tuple[type[Exception], str, str], ...] = (
        (
            errors.GatedRepoError,
            "is gated",
            "Accept its terms on its hub page, then `hf auth login` (or set HF_TOKEN).",
        ),
        (errors.RepositoryNotFoundError, nowhere, another),
        (errors.HFValidationError, nowhere, another),
        (
            errors.RevisionNotFoundError,
            f"has no revision {revision!r} on the hub",
            "Leave the revision out for the newest one.",
        ),
        (
            errors.LocalEntryNotFoundError,
            "is not a folder here, and not in the hub's local cache; asking the hub failed "
            f"({reason(error)})",
            f"Go online (HF_HUB_OFFLINE unset), or give {folder}. {similar}".rstrip(),
        ),
        (errors.EntryNotFoundError, f"has no {file} on the hub", absent),
        (  # the client's versions differ in transport, and so in exceptions
            Exception,
            f"could not be read from the hub ({type(error).__name__}: {error})",
            f"Try again, or give {folder}.",
        ),
    )
    problem, hint = next(case[1:] for case in cases if isinstance(error, case[0]))
    return MissingFileError(f"{subject} {problem}.", hint, **details, revision=revision)


def reason(error: Exception) -> str:
    """Say in one line why `fetch` could not ask the hub."""
    return str(error.__cause__ or error).strip().partition("\n")[0].rstrip(".")


def _endpoint() -> str | None:
    # Read here, since huggingface_hub reads it only once, at import.
    return os.environ.get("HF_ENDPOINT")
