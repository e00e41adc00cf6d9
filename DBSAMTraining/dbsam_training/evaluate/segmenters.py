"""What can be evaluated, by name: trained models and baselines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dbsam_training.evaluate.baselines import BASELINES
from dbsam_training.evaluate.evaluate import Segmenter


def load_segmenters(
    names: Sequence[str], device: str = "auto", strategy: str = "track", batch_size: int = 8
) -> list[Segmenter]:
    """Loads what is to be evaluated.

    Args:
        names: of baselines or registered weights, or paths of weights files. A file is called by its name without
            ending, with its folder's where two files would be called the same.
        device: for the models.
        strategy: see `ModelSegmenter`.
        batch_size: see `ModelSegmenter`.

    Raises:
        ValueError: a name is unknown or given twice, or its weights can't be used.
        DownloadError: weights couldn't be fetched.
    """
    repeated = [name for name in set(names) if names.count(name) > 1]
    if repeated:
        raise ValueError(f"{', '.join(sorted(repeated))}: given twice.")
    stems = [Path(name).stem if Path(name).suffix else name for name in names]
    segmenters: list[Segmenter] = []
    for name, stem in zip(names, stems, strict=True):
        if name in BASELINES:
            segmenters.append(BASELINES[name]())
            continue
        label = stem if stems.count(stem) == 1 else f"{Path(name).resolve().parent.name}/{stem}"
        segmenters.append(_load_model(name, label, device, strategy, batch_size))
    return segmenters


def _load_model(name: str, label: str, device: str, strategy: str, batch_size: int) -> Segmenter:
    from dbsam.api import load_predictor  # baselines alone need no torch
    from dbsam.weights.metadata import CheckpointError
    from dbsam_training.evaluate.model_segmenter import ModelSegmenter

    try:
        predictor = load_predictor(name, device)
    except CheckpointError as error:
        raise ValueError(f"{error} The baselines are {', '.join(BASELINES)}.") from error
    return ModelSegmenter(label, predictor, strategy, batch_size)
