"""Writes a run's weights as the checkpoint that dbsam and the extension load, with provenance and a model card."""

from __future__ import annotations

import datetime
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from dbsam.inference.calibration import METRIC
from dbsam.io.files import write_text
from dbsam.modeling.builder import build_model
from dbsam.modeling.dbsam import DBSAM
from dbsam.weights.checkpoint import load_base, save_checkpoint, stored_digest
from dbsam.weights.metadata import CheckpointInfo, DatasetCredit
from dbsam_training.data.json_files import read_json
from dbsam_training.recipe import Recipe, recipe_from
from dbsam_training.schema import SettingError
from dbsam_training.trainer.init import base_file, base_reference, init_model
from dbsam_training.trainer.model_card import model_card
from dbsam_training.trainer.run_folder import LAST, RECIPE, StateError, read_state

logger = logging.getLogger(__name__)

NO_LICENCE = "not stated"


@dataclass(frozen=True)
class ExportOptions:
    """What to export.

    Attributes:
        state: "best" (by validation) or "last".
        half: Whether matrices and kernels are stored as 16-bit floats.
        blend: Share of the trained weights; the rest are those that the run started from. In between, a network keeps
            more of what it knew of other images (Wortsman et al. 2022, "Robust fine-tuning of zero-shot models").
        name: Name of the weights; the recipe's if None.
        version: Version of the weights.
        licence: Licence of the weights.
        metrics: `summary.json` of an evaluation, to be kept inside.
        remarks: What else a reader has to know about the training.
    """

    state: str = "best"
    half: bool = False
    blend: float = 1.0
    name: str | None = None
    version: str = "1.0"
    licence: str = ""
    metrics: Path | None = None
    remarks: str = ""


def export_run(run_folder: Path, output: Path, card: Path, options: ExportOptions) -> CheckpointInfo:
    """Export the weights of a run.

    Args:
        run_folder: The run.
        output: The `.safetensors` file.
        card: The model card.
        options: What to export.

    Returns:
        What the file says about itself.

    Raises:
        SettingError: The folder holds no run, or `output` has another ending.
        StateError: The state is missing or damaged.
        CheckpointError: The base of the run is not what it was.
    """
    if output.suffix != ".safetensors":
        raise SettingError(f"The output must end in .safetensors, not {output.name!r}.")
    state = _state_of(run_folder, options.state)
    recipe, run = recipe_from(state["recipe"]), state["provenance"]
    model = _model_of(run, state, recipe.model.base, build_model(recipe.model.config), run_folder)
    if options.blend != 1:
        _blend(model, recipe, options.blend)
    info = CheckpointInfo(
        name=options.name or recipe.name,
        version=options.version,
        config=recipe.model.config,
        licence=options.licence or NO_LICENCE,
        date=datetime.date.today().isoformat(),
        base=base_reference(run["base"]) if not recipe.model.config.train_vit else None,
        datasets=_credits(run),
        recipe={
            **recipe.to_dict(),
            "trained_steps": state["step"],
            "trained_samples": run["samples"]["train"],
            "blend": options.blend,
            "remarks": options.remarks,
        },
        metrics=_metrics(run_folder if options.blend == 1 else None, options.metrics),
    )
    if curve := _calibration(info.metrics, stored_digest(model, info, options.half)):
        info = replace(info, metrics={**info.metrics, METRIC: curve})
    info = save_checkpoint(output, model, info, half=options.half)
    write_text(card, model_card(info, output))
    return info


def _state_of(run_folder: Path, name: str) -> dict[str, Any]:
    if not (run_folder / RECIPE).is_file():
        raise SettingError(f"{run_folder} holds no training run: there is no {RECIPE} in it.")
    if not (run_folder / f"{name}.pt").is_file() and (run_folder / LAST).is_file():
        logger.warning("%s has no state %r: its last one is exported.", run_folder, name)
        name = "last"
    return read_state(run_folder / f"{name}.pt")


def _model_of(run: dict[str, Any], state: dict[str, Any], base: str, model: DBSAM, run_folder: Path) -> DBSAM:
    reference = base_reference(run["base"])
    if reference is not None:
        load_base(model, base_file(base), reference.sha256)
    try:
        unmatched = model.load_state_dict(state["exported"], strict=False)
    except RuntimeError as error:
        raise StateError(f"The state in {run_folder} is of another architecture than its recipe: {error}") from error
    if unmatched.unexpected_keys or (reference is None and unmatched.missing_keys):
        wrong = [*unmatched.unexpected_keys, *unmatched.missing_keys]
        raise StateError(f"The state in {run_folder} is of another architecture than its recipe: {wrong[:3]}.")
    return model.eval()


@torch.no_grad()
def _blend(model: DBSAM, recipe: Recipe, share: float) -> None:
    if not 0 < share <= 1:
        raise SettingError(f"blend must be above 0 and at most 1, not {share:g}.")
    if not recipe.model.base:
        raise SettingError("blend needs a run that started from weights: this one's model.base is empty.")
    start = init_model(recipe)[0].state_dict()
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            value.copy_(torch.lerp(start[name], value, share))


def _credits(run: dict[str, Any]) -> tuple[DatasetCredit, ...]:
    """The data sets of the run and of the weights that it started from."""
    credits = {credit["name"]: DatasetCredit(**credit) for credit in (run["base"] or {}).get("datasets", ())}
    return tuple((credits | {credit["name"]: DatasetCredit(**credit) for credit in run["datasets"]}).values())


def _metrics(run_folder: Path | None, evaluation: Path | None) -> dict[str, Any]:
    metrics: dict[str, Any] = {}
    if run_folder and (run_folder / "validation.json").is_file():
        metrics["validation"] = read_json(run_folder / "validation.json", SettingError)
    if evaluation is not None:
        metrics["evaluation"] = read_json(evaluation, SettingError)
    return metrics


def _calibration(metrics: Mapping[str, Any], digest: str) -> dict[str, Any] | None:
    """The curve that an evaluation of these very weights has fitted."""
    evaluation = metrics.get("evaluation", {})
    fitted = {model: found["curve"] for model, found in evaluation.get("calibration", {}).items() if found["curve"]}
    weights = evaluation.get("weights", {})
    for model, curve in fitted.items():
        if weights.get(model) == digest:
            logger.info("its own estimate of a mask is corrected by the curve of %s", model)
            return dict(curve)
    if fitted:
        logger.warning(
            "The evaluation has no calibration of these weights (%s): export, evaluate, and export again the same way.",
            ", ".join(fitted),
        )
    return None
