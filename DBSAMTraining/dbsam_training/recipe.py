"""Training recipes: every number of a run, in YAML files that one can read, checked strictly.

A recipe may start from another one by `extends: NAME`; mappings are merged, everything else is replaced.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, field
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic.dataclasses import dataclass

from dbsam.modeling.config import DBSAMConfig, named_config
from dbsam.preprocess.intensity import RULE_NAMES
from dbsam_training.resources import resource_folder
from dbsam_training.schema import (
    STRICT,
    BelowOne,
    Count,
    Flag,
    NotNegative,
    Positive,
    SettingError,
    Share,
    WholeNumber,
    closest,
    one_of,
    read_settings,
)

_RENAMED = {
    "run.accumulate": "run.gradient_accumulation_steps",
    "run.resident": "run.store_on_gpu",
    "optimizer.clip_norm": "optimizer.max_grad_norm",
}
_REMOVED = ("run.graphed",)


@dataclass(frozen=True, config=STRICT)
class ModelOptions:
    """What is trained.

    Attributes:
        system: Name of the system (`dbsam.modeling.config.SYSTEMS`).
        settings: Settings that differ from the system's.
        base: Weights to start from: a name of the registry or a path; new weights if empty. SAM's are kept under the
            trained parts, so the checkpoint that is exported stores only those.
        slice_base: Weights of the frozen ViT that sees the whole slice, for a system with a `slice_view`: a name of the
            registry or a path; those in `base` if empty.
    """

    system: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    base: str = ""
    slice_base: str = ""

    @property
    def config(self) -> DBSAMConfig:
        """The architecture.

        Raises:
            SettingError: The system or one of the settings does not exist.
        """
        try:
            config = named_config(self.system)
            known = config.to_dict()
            for key in self.settings:
                if key not in known:
                    raise SettingError(f"Unknown setting 'model.settings.{key}'{closest(key, known)}.")
            return DBSAMConfig.from_dict(known | dict(self.settings))
        except SettingError:
            raise
        except (ValueError, TypeError) as error:
            raise SettingError(f"model: {error}") from error


@dataclass(frozen=True, config=STRICT)
class DataOptions:
    """What the training store holds and in which order it is seen.

    Attributes:
        protocol: "slices": whole slices of 256x256x3 (the paper); "objects": patches round objects.
        intensity: Rule that maps voxels to 0..255 (`dbsam.intensity`).
        licence: "any", or "open" to leave out data sets whose licence restricts use.
        train_per_dataset: Most training patches of a data set (protocol "objects").
        val_per_dataset: Most validation patches of a data set (protocol "objects").
        superpixel_slices: Slices of a 2D and of a 3D data set from which unannotated regions are cut, 0 for none.
        superpixels_per_slice: Most regions of such a slice.
        neighbours: Keep the slices before and after as channels of a grey slice, for a model whose `slice_channels` is
            "neighbours" (protocol "objects").
        slice_views: Keep the whole slice beside each patch, for a model with a `slice_view` (protocol "objects").
        sampling: "epochs": every sample once an epoch; "balanced": data sets in proportion to their size to the power
            `balance`, structures of a data set to the power 0.5, with replacement.
        balance: See `sampling`.
        ill_posed_weight: Factor of the shares of data sets that are marked as ill-posed for one box, with the sampling
            "balanced".
        dataset_weights: Factors of the shares of single data sets, by name, on top of it.
    """

    protocol: Literal["slices", "objects"] = "slices"
    intensity: Annotated[str, one_of(RULE_NAMES)] = "auto"
    licence: Literal["any", "open"] = "any"
    train_per_dataset: WholeNumber = 900
    val_per_dataset: WholeNumber = 80
    superpixel_slices: tuple[WholeNumber, WholeNumber] = (0, 0)
    superpixels_per_slice: WholeNumber = 4
    neighbours: Flag = False
    slice_views: Flag = False
    sampling: Literal["epochs", "balanced"] = "epochs"
    balance: NotNegative = 0.5
    ill_posed_weight: NotNegative = 1.0
    dataset_weights: Mapping[str, NotNegative] = field(default_factory=dict)


@dataclass(frozen=True, config=STRICT)
class PromptOptions:
    """How boxes and the region round them are drawn.

    Attributes:
        paper: Share of prompts as the paper draws them: each side outwards by 0-20 px on the 256 grid.
        loose: Share of prompts from the whole 3D object's rectangle (2D: up to 60 % looser on each side).
        cut: Share of prompts whose sides cut into the object, by up to 5 %. The rest are tight up to 15 %.
        context: Side of the region over the box's longer side.
        context_jitter: Factors between which the context varies.
        whole_slice: Feed the whole slice instead of the region.
        click_rounds: Shares of the steps on which the box's masks are corrected by no, one, two, ... simulated clicks.
    """

    paper: Share = 1.0
    loose: Share = 0.0
    cut: Share = 0.0
    context: Positive = 1.75
    context_jitter: tuple[Positive, Positive] = (0.85, 1.5)
    whole_slice: Flag = True
    click_rounds: tuple[Share, ...] = (1.0,)

    def __post_init__(self) -> None:
        if abs(sum(self.click_rounds) - 1) > 1e-6:
            raise SettingError(
                f"prompts.click_rounds is {list(self.click_rounds)}: give shares that sum to 1, for no, one, two, ... "
                "clicks."
            )
        if self.paper + self.loose + self.cut > 1 + 1e-9:
            raise SettingError(
                f"prompts: the shares paper {self.paper:g}, loose {self.loose:g} and cut {self.cut:g} must not exceed "
                "1 together."
            )


@dataclass(frozen=True, config=STRICT)
class AugmentOptions:
    """Strength of the augmentation; all zero (the paper's) leaves the images as they are.

    Attributes:
        geometric: Share of images that are turned, flipped and stretched.
        intensity: Share of images whose grey levels are distorted.
        invert: Share of images whose grey levels are inverted.
        repeat_channel: Share of images whose channels are made equal.
        elastic: Share of images that are bent, by up to 3 % of the region.
        insert: Share of samples whose object is a random shape, drawn into the image (protocol "objects").
        recolour: Share of the other samples whose object gets another brightness and texture. Of half of what is
            inserted or recoloured, the image's own contrast goes down, to nothing for some.
    """

    geometric: Share = 0.0
    intensity: Share = 0.0
    invert: Share = 0.0
    repeat_channel: Share = 0.0
    elastic: Share = 0.0
    insert: Share = 0.0
    recolour: Share = 0.0


@dataclass(frozen=True, config=STRICT)
class LossOptions:
    """Cross-entropy plus Dice on the mask, and the predicted IoU's squared error.

    Attributes:
        resolution: Where the masks are compared: "low_res" (the low-resolution logits, the paper) or "input".
        iou_weight: Weight of the predicted IoU's squared error.
    """

    resolution: Literal["low_res", "input"] = "low_res"
    iou_weight: NotNegative = 1.0


@dataclass(frozen=True, config=STRICT)
class OptimizerOptions:
    """AdamW and its rate: linear warm-up, then polynomial decay to zero.

    Attributes:
        learning_rate: The peak rate.
        base_learning_rate_factor: Factor of the rate of what comes from the base, such as the mask decoder.
        weight_decay: Of matrices and kernels; vectors are not decayed.
        betas: AdamW's.
        warm_up_epochs: Length of the warm-up in epochs.
        warm_up_steps: Length of the warm-up in steps, on top of `warm_up_epochs`.
        warm_up_from: Rate at its start.
        power: Of the polynomial decay.
        max_grad_norm: Gradients above this norm are scaled down to it; 0 for never.
        ema: Decay of the averaged weights, which are validated and exported; 0 for none.
    """

    learning_rate: NotNegative = 1e-4
    base_learning_rate_factor: NotNegative = 1.0
    weight_decay: NotNegative = 0.01
    betas: tuple[BelowOne, BelowOne] = (0.9, 0.999)
    warm_up_epochs: NotNegative = 0.0
    warm_up_steps: WholeNumber = 0
    warm_up_from: NotNegative = 0.0
    power: NotNegative = 0.9
    max_grad_norm: NotNegative = 1.0
    ema: BelowOne = 0.0


@dataclass(frozen=True, config=STRICT)
class RunOptions:
    """Length, batch, hardware and bookkeeping of a run.

    Attributes:
        batch_size: Samples of one optimizer step, over all processes together.
        gradient_accumulation_steps: Parts into which each process splits its share of a batch, to save memory.
        epochs: Length in epochs; or
        steps: length in optimizer steps.
        precision: "32-true", "bf16-mixed" or "16-mixed" (with loss scaling).
        accelerator: "auto", "cpu", "cuda" or "mps".
        devices: Devices on each node; "auto" for all. torchrun's own number wins.
        nodes: Machines.
        sync_batch_norm: Whether several processes share their batch norm statistics.
        checkpointing: Whether the ViT's blocks are computed again in the backward pass instead of kept.
        workers: Processes that prepare batches; 0 for none.
        store_on_gpu: Whether all samples are kept in a GPU's memory and prompted and augmented there, which it needs to
            be kept busy by a small network. On a CPU they stay on disk.
        compiled: Whether the network is compiled for a CUDA GPU (torch.compile): a minute at the start, then shorter
            steps.
        seed: Of new weights, sampling, prompts, augmentation and dropout.
        deterministic: Whether operators without a deterministic algorithm are refused.
        validate_every: Steps between validations; 0 for once an epoch.
        validate_per_dataset: Most validation samples of a data set.
        checkpoint_every: Steps between resume points.
    """

    batch_size: Count
    gradient_accumulation_steps: Count = 1
    epochs: Positive | None = None
    steps: Count | None = None
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    devices: str = "auto"
    nodes: Count = 1
    sync_batch_norm: Flag = True
    checkpointing: Flag = False
    workers: WholeNumber = 0
    store_on_gpu: Flag = False
    compiled: Flag = False
    seed: WholeNumber = 0
    deterministic: Flag = False
    validate_every: WholeNumber = 0
    validate_per_dataset: WholeNumber = 40
    checkpoint_every: Count = 500

    def __post_init__(self) -> None:
        if (self.epochs is None) == (self.steps is None):
            raise SettingError("run: give either 'epochs' or 'steps'.")
        if self.store_on_gpu and self.workers:
            raise SettingError(
                f"run.workers must be 0 with run.store_on_gpu, not {self.workers}: nothing is to be read."
            )
        if self.devices != "auto" and not (self.devices.isdigit() and int(self.devices) > 0):
            raise SettingError(f"run.devices must be 'auto' or a number in quotes, not {self.devices!r}.")


@dataclass(frozen=True, config=STRICT)
class Recipe:
    """One training run, whole.

    Attributes:
        name: Name of the recipe.
        description: What it is for, in a sentence.
    """

    name: str
    description: str
    model: ModelOptions
    run: RunOptions
    data: DataOptions = DataOptions()
    prompts: PromptOptions = PromptOptions()
    augment: AugmentOptions = AugmentOptions()
    loss: LossOptions = LossOptions()
    optimizer: OptimizerOptions = OptimizerOptions()

    def __post_init__(self) -> None:
        if self.data.protocol == "slices" and self.augment.insert:
            raise SettingError("augment.insert must be 0 with data.protocol 'slices': shapes are made for patches.")
        if self.data.protocol == "slices" and not self.prompts.whole_slice:
            raise SettingError("prompts.whole_slice must be true with data.protocol 'slices': the store has no more.")

    def to_dict(self) -> dict[str, Any]:
        """JSON- and YAML-ready values from which `recipe_from` builds the same recipe."""
        values: dict[str, Any] = _plain(asdict(self))
        return values


def recipe_names() -> list[str]:
    """Names of the recipes that come with the project."""
    return sorted(path.stem for path in resource_folder("Recipes").glob("*.yaml"))


def load_recipe(name_or_path: str | Path, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Read a recipe.

    Args:
        name_or_path: A recipe of the project, such as `compact` or `compact.yaml`, or the path of a YAML file.
        overrides: Values by dotted name, such as {"run.steps": 10}, that replace the file's.

    Raises:
        SettingError: The file is no recipe, or one of its settings cannot be used.
        FileNotFoundError: There is no such recipe.
    """
    path = find_recipe(name_or_path)
    values = _read_with_parents(path, ())
    for dotted, value in (overrides or {}).items():
        _override(values, dotted, value)
    try:
        return recipe_from(values)
    except SettingError as error:
        raise SettingError(f"{path}: {error}") from error


def recipe_from(values: Mapping[str, Any]) -> Recipe:
    """Build a recipe from a mapping.

    Raises:
        SettingError: One of the settings cannot be used.
    """
    _refuse_old_names(values)
    recipe = read_settings(Recipe, values)
    assert recipe.model.config  # its settings are checked now, not when the network is built
    return recipe


def find_recipe(name_or_path: str | Path) -> Path:
    """The file of a recipe.

    Raises:
        FileNotFoundError: There is none.
    """
    path = Path(name_or_path).expanduser()
    shipped = resource_folder("Recipes") / f"{path.name.removesuffix('.yaml')}.yaml"
    for candidate in (path, shipped if len(path.parts) == 1 else path):
        if candidate.is_file():
            return candidate
    raise FileNotFoundError(f"There is no recipe {name_or_path}{closest(path.stem, recipe_names())}.")


def _refuse_old_names(values: Mapping[str, Any]) -> None:
    for group, settings in values.items():
        for name in settings if isinstance(settings, Mapping) else ():
            old = f"{group}.{name}"
            if old in _RENAMED:
                raise SettingError(f"The setting {old!r} is now called {_RENAMED[old]!r}.")
            if old in _REMOVED:
                raise SettingError(f"The setting {old!r} is gone: take it out.")


def _read_with_parents(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    if path in seen:
        raise SettingError(f"{path} extends itself, by way of {', '.join(p.name for p in seen)}.")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise SettingError(f"{path} is no recipe: it must hold a mapping of settings.")
    parent = values.pop("extends", None)
    if parent is None:
        return values
    beside = path.parent / f"{str(parent).removesuffix('.yaml')}.yaml"
    return _merged(_read_with_parents(beside if beside.is_file() else find_recipe(str(parent)), (*seen, path)), values)


def _merged(below: dict[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        under = merged.get(key)
        merged[key] = _merged(under, value) if isinstance(under, dict) and isinstance(value, Mapping) else value
    return merged


def _override(values: dict[str, Any], dotted: str, value: Any) -> None:
    *groups, name = dotted.split(".")
    for group in groups:
        below = values.setdefault(group, {})
        if not isinstance(below, dict):
            raise SettingError(f"{dotted!r} is no setting: {group!r} holds no further ones.")
        values = below
    if name in ("steps", "epochs"):
        values.pop("epochs" if name == "steps" else "steps", None)
    values[name] = value


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(v) for key, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, (list, tuple)) else value
