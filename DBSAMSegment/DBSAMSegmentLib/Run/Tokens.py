"""Cancel tokens of the library, which is imported at first use."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dbsam.progress import CancelToken


def newCancelToken() -> CancelToken:
    """A token that nobody has cancelled yet."""
    from dbsam.progress import CancelToken

    return CancelToken()
