"""How application and worker show each other that they know the key, without sending it."""

from __future__ import annotations

import hashlib
import hmac
import secrets

KEY_VARIABLE = "DBSAM_WORKER_KEY"


def new_key() -> str:
    """A key that nobody can guess, as text."""
    return secrets.token_hex(32)


def new_nonce() -> str:
    """Text that was never used before."""
    return secrets.token_hex(16)


def proof(key: str, role: str, nonce: str) -> str:
    """What shows that `role` ("application" or "worker") knows the key; `nonce` is the other side's."""
    return hmac.new(key.encode(), f"{role}:{nonce}".encode(), hashlib.sha256).hexdigest()


def is_proof(shown: object, key: str, role: str, nonce: str) -> bool:
    """Whether `shown` is the right proof, compared in constant time."""
    return isinstance(shown, str) and hmac.compare_digest(shown.encode(), proof(key, role, nonce).encode())
