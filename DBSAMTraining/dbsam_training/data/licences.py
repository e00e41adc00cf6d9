"""Which stated licences allow any use: a list in Resources/Registry/open-licences.yaml, which is data, not code."""

from __future__ import annotations

import re
from functools import lru_cache

import yaml

from dbsam_training.resources import resource_folder
from dbsam_training.schema import SettingError


def is_open(stated: str) -> bool:
    """Whether a licence, as a data set states it, is in the list of those that allow any use.

    Raises:
        SettingError: The list is no list of licences.
    """
    return _normalised(stated) in _open_licences()


@lru_cache(1)
def _open_licences() -> frozenset[str]:
    path = resource_folder("Registry") / "open-licences.yaml"
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    licences = content.get("licences") if isinstance(content, dict) else None
    if not isinstance(licences, list):
        raise SettingError(f"{path} must hold a list named 'licences'.")
    return frozenset(_normalised(str(licence)) for licence in licences)


def _normalised(stated: str) -> str:
    words = re.sub(r"\(as stated\)", "", stated.casefold())
    return "-".join(re.findall(r"[a-z0-9.]+", words))
