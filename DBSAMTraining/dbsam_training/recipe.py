"""Training recipes: every number of a run, in YAML files that one can read, checked strictly.

A recipe may start from another one by `extends: NAME`; mappings are merged, everything else is replaced.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import yaml

from dbsam.modeling.config import DBSAMConfig, named_config
from dbsam.preprocess.intensity import RULE_NAMES
from dbsam_training.resources import resource_folder
from dbsam_training.run_options import RunOptions
from dbsam_training.schema import SettingError, closest, read_settings, require_range


@dataclass(frozen=True)
class ModelOptions:
    """What is trained.

    Attributes:
        system: Name of the system (`dbsam.modeling.config.SYSTEMS`).
        settings: Settings that differ from the system's.
        base: Weights to start from: a name of the registry or a path; new weights if empty. SAM's are kept under the
            trained parts, so the checkpoint that is exported stores only those.
    """

    system: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    base: str = ""

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


@dataclass(frozen=True)
class DataOptions:
    """What the training store holds and in which order it is seen.

    Attributes:
        protocol: "slices": whole slices of 256x256x3 (the paper); "objects": patches round objects.
        intensity: Rule that maps voxels to 0..255 (`dbsam.preprocess.intensity`).
        licence: "any", or "open" to leave out data sets whose licence restricts use.
        train_per_dataset: Most training patches of a data set (protocol "objects").
        val_per_dataset: Most validation patches of a data set (protocol "objects").
        superpixel_slices: Slices of a 2D and of a 3D data set from which unannotated regions are cut, 0 for none.
        superpixels_per_slice: Most regions of such a slice.
        neighbours: Keep the slices before and after as channels of a grey slice, for a model whose `slice_channels` is
            "neighbours" (protocol "objects").
        sampling: "epochs": every sample once an epoch; "balanced": data sets in proportion to their size to the power
            `balance`, structures of a data set to the power 0.5, with replacement.
        balance: See `sampling`.
        ill_posed_weight: Factor of the shares of data sets that are marked as ill-posed for one box, with the sampling
            "balanced".
        dataset_weights: Factors of the shares of single data sets, by name, on top of it.
    """

    protocol: Literal["slices", "objects"] = "slices"
    intensity: str = "auto"
    licence: Literal["any", "open"] = "any"
    train_per_dataset: int = 900
    val_per_dataset: int = 80
    superpixel_slices: tuple[int, int] = (0, 0)
    superpixels_per_slice: int = 4
    neighbours: bool = False
    sampling: Literal["epochs", "balanced"] = "epochs"
    balance: float = 0.5
    ill_posed_weight: float = 1.0
    dataset_weights: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.intensity not in RULE_NAMES:
            raise SettingError(f"data.intensity is {self.intensity!r}{closest(self.intensity, RULE_NAMES)}.")
        counts = ("train_per_dataset", "val_per_dataset", "superpixels_per_slice")
        for name, count in {name: getattr(self, name) for name in counts}.items():
            if count < 0:
                raise SettingError(f"data.{name} must be 0 or more, not {count}.")
        if min(self.superpixel_slices) < 0:
            raise SettingError(f"data.superpixel_slices must be 0 or more, not {list(self.superpixel_slices)}.")
        require_range("data.balance", self.balance)
        factors = {f"dataset_weights: {name}": factor for name, factor in self.dataset_weights.items()}
        for name, factor in (factors | {"ill_posed_weight": self.ill_posed_weight}).items():
            if not 0 <= factor < math.inf:
                raise SettingError(f"data.{name} is {factor!r}; give a factor of 0 or more.")


@dataclass(frozen=True)
class PromptOptions:
    """How boxes and the region round them are drawn.

    Attributes:
        paper: Share of prompts as the paper draws them: each side outwards by 0-20 px on the 256 grid.
        loose: Share of prompts from the whole 3D object's rectangle (2D: up to 60 % looser on each side).
        cut: Share of prompts whose sides cut into the object, by up to 5 %. The rest are tight up to 15 %.
        context: Side of the region over the box's longer side.
        context_jitter: Factors between which the context varies.
        whole_slice: Feed the whole slice instead of the region.
    """

    paper: float = 1.0
    loose: float = 0.0
    cut: float = 0.0
    context: float = 1.75
    context_jitter: tuple[float, float] = (0.85, 1.5)
    whole_slice: bool = True

    def __post_init__(self) -> None:
        if min(self.paper, self.loose, self.cut) < 0 or self.paper + self.loose + self.cut > 1 + 1e-9:
            raise SettingError(
                f"prompts: the shares paper {self.paper:g}, loose {self.loose:g} and cut {self.cut:g} must not be "
                "negative nor exceed 1 together."
            )


@dataclass(frozen=True)
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

    geometric: float = 0.0
    intensity: float = 0.0
    invert: float = 0.0
    repeat_channel: float = 0.0
    elastic: float = 0.0
    insert: float = 0.0
    recolour: float = 0.0


@dataclass(frozen=True)
class LossOptions:
    """Cross-entropy plus Dice on the mask, and the predicted IoU's squared error.

    Attributes:
        resolution: Where the masks are compared: "low_res" (the low-resolution logits, the paper) or "input".
        iou_weight: Weight of the predicted IoU's squared error.
    """

    resolution: Literal["low_res", "input"] = "low_res"
    iou_weight: float = 1.0


@dataclass(frozen=True)
class OptimizerOptions:
    """AdamW and its rate: linear warm-up, then polynomial decay to zero.

    Attributes:
        learning_rate: The peak rate.
        weight_decay: Of matrices and kernels; vectors are not decayed.
        betas: AdamW's.
        warm_up_epochs: Length of the warm-up in epochs.
        warm_up_steps: Length of the warm-up in steps, on top of `warm_up_epochs`.
        warm_up_from: Rate at its start.
        power: Of the polynomial decay.
        clip_norm: Gradients above this norm are scaled down to it; 0 for never.
        ema: Decay of the averaged weights, which are validated and exported; 0 for none.
    """

    learning_rate: float = 1e-4
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    warm_up_epochs: float = 0.0
    warm_up_steps: int = 0
    warm_up_from: float = 0.0
    power: float = 0.9
    clip_norm: float = 1.0
    ema: float = 0.0

    def __post_init__(self) -> None:
        for name in ("learning_rate", "weight_decay", "warm_up_epochs", "warm_up_steps", "warm_up_from", "power"):
            require_range(f"optimizer.{name}", getattr(self, name))
        require_range("optimizer.clip_norm", self.clip_norm)
        require_range("optimizer.ema", self.ema, below=1.0)
        for beta in self.betas:
            require_range("optimizer.betas", beta, below=1.0)


@dataclass(frozen=True)
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


def with_run(recipe: Recipe, **changes: Any) -> Recipe:
    """The same recipe with other settings of its run."""
    return replace(recipe, run=replace(recipe.run, **changes))


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
