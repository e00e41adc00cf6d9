"""What a data set's dataset.json says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class DatasetInfo:
    """What dataset.json says about a data set; `structures` maps each structure to the label ids whose union it is."""

    name: str
    modality: str = "unknown"
    dimension: int | None = None
    channel_names: tuple[str, ...] = ()
    structures: tuple[tuple[str, tuple[int, ...]], ...] = ()
    ignore_ids: tuple[int, ...] = ()
    nested: tuple[str, ...] = ()
    licence: str = "not stated"
    reference: str = ""
    mask_origin: str = "unknown"
    spacing: str = ""
    instances: bool = False
    ill_posed_for_one_box: bool = False
    file_ending: str | None = None

    @property
    def is_rgb(self) -> bool:
        """Whether the channels are the red, green and blue of a colour image."""
        return [channel[:1].upper() for channel in self.channel_names] == ["R", "G", "B"]

    @property
    def known_ids(self) -> frozenset[int]:
        """Label ids that dataset.json explains, without background."""
        return frozenset(i for _, ids in self.structures for i in ids) | frozenset(self.ignore_ids)

    @classmethod
    def from_json(cls, content: dict[str, Any], folder_name: str) -> DatasetInfo:
        """Reads the content of a dataset.json.

        Raises:
            ValueError: `labels` is missing or isn't a mapping between names and ids.
        """
        structures, ignore_ids = _structures_from_labels(content.get("labels"), folder_name)
        nested = {str(name): _ids(value, folder_name) for name, value in (content.get("nested") or {}).items()}
        structures.update(nested)
        dimension = content.get("dimension")
        names = content.get("channel_names") or content.get("modality_names") or {}
        names = names.values() if isinstance(names, dict) else names
        modality = content.get("modality") or next(iter(names), "unknown")
        if isinstance(modality, dict):  # nnU-Net v1 keeps its channel names under this key
            modality = next(iter(modality.values()), "unknown")
        return cls(
            name=folder_name,
            modality=str(modality),
            dimension=int(dimension) if dimension in (2, 3, "2", "3") else None,
            channel_names=tuple(str(name) for name in names),
            structures=tuple(structures.items()),
            ignore_ids=ignore_ids,
            nested=tuple(nested),
            licence=str(content.get("licence") or content.get("license") or "not stated"),
            reference=str(content.get("reference") or ""),
            mask_origin=str(content.get("mask_origin") or "unknown"),
            spacing=str(content.get("spacing") or ""),
            instances=bool(content.get("instances", False)),
            ill_posed_for_one_box=bool(content.get("ill_posed_for_one_box", False)),
            file_ending=content.get("file_ending"),
        )


def _structures_from_labels(labels: Any, name: str) -> tuple[dict[str, tuple[int, ...]], tuple[int, ...]]:
    if not isinstance(labels, dict):
        raise ValueError(f"dataset.json of {name} has no `labels` mapping of names to ids.")
    if labels and all(str(key).lstrip("-").isdigit() and isinstance(value, str) for key, value in labels.items()):
        labels = {value: int(key) for key, value in labels.items()}  # nnU-Net v1 maps ids to names
    structures: dict[str, tuple[int, ...]] = {}
    ignore_ids: tuple[int, ...] = ()
    for structure, value in labels.items():
        ids = tuple(i for i in _ids(value, name) if i != 0)
        if structure == "ignore":
            ignore_ids = ids
        elif ids:
            structures[str(structure)] = ids
    return structures, ignore_ids


def _ids(value: Any, name: str) -> tuple[int, ...]:
    try:
        return tuple(int(i) for i in (value if isinstance(value, (list, tuple)) else [value]))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"dataset.json of {name} has the label value {value!r}: an id or a list of ids is needed."
        ) from error
