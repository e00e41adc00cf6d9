"""Which cases are for training and which for validation: as splits_final.json says, else a fifth of the patients."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from dbsam_training.schema import SettingError

VALIDATION_SHARE = 5
"""One patient in this many is for validation where no split is given."""


def stated_split(content: object, path: Path, split: str, fold: int = 0) -> list[str]:
    """The cases of "train" or "val" by the content of a splits_final.json.

    Raises:
        SettingError: There is no such fold or split, or a case is in both.
    """
    folds = [content] if isinstance(content, dict) else content
    chosen = folds[fold] if isinstance(folds, list) and -len(folds) <= fold < len(folds) else None
    if not isinstance(chosen, dict) or not isinstance(chosen.get(split), list):
        raise SettingError(f"{path} has no split {split!r} in fold {fold}.")
    names = {key: [str(name) for name in value] for key, value in chosen.items() if isinstance(value, list)}
    if both := sorted(set(names.get("train", ())) & set(names.get("val", ()))):
        shown = ", ".join(both[:5]) + (", ..." if len(both) > 5 else "")
        raise SettingError(
            f"{path}, fold {fold}: {len(both)} cases are in train and in val ({shown}). A score on what was trained on "
            "says nothing: take each out of one of the two."
        )
    return names[split]


def made_split(patient_by_case: Mapping[str, str], split: str) -> list[str]:
    """The cases of "train" or "val" where no file says it: a fifth of the patients, at least one of several, is "val".

    The choice depends on the patients' names alone, and is the same on every computer.
    """
    patients = sorted(set(patient_by_case.values()), key=lambda name: (hashlib.sha256(name.encode()).digest(), name))
    count = max(1, round(len(patients) / VALIDATION_SHARE)) if len(patients) > 1 else 0
    held = set(patients[:count])
    return [case for case, patient in patient_by_case.items() if (patient in held) == (split == "val")]


def patients_of(cases: Iterable[str]) -> dict[str, str]:
    """The patient of each case, by its name: slices of one patient, such as p7-001 and p7-002, belong together.

    The last number is that of a slice only where the rest can name a patient: where it holds a number itself, or where
    there are enough different ones. The cases case_001, case_002 ... are patients of their own.
    """
    rests = {case: re.sub(r"[-_]\d+$", "", case) for case in cases}
    different = len(set(rests.values()))
    if different >= VALIDATION_SHARE:
        return rests
    return {case: rest if different > 1 and re.search(r"\d", rest) else case for case, rest in rests.items()}
