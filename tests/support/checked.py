"""What `verify` says of a checkpoint's headers, by the name of the check."""

from __future__ import annotations

from engram.checkpoints.verify.verify import verify


def verdicts(target, **options):
    """Every check."""
    return {check.name: check for check in verify(target, headers_only=True, **options)}


def failed(target, **options):
    """What is wrong, for the checks that failed."""
    checks = verdicts(target, **options)
    return {name: check.detail for name, check in checks.items() if check.ok is False}
