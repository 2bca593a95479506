"""The toolkit's version, which artefacts record."""

from __future__ import annotations

__version__ = "0.1.0"
