"""From an image's own values to the 0..255 that the networks see, by a named rule that is always reported."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

CT_WINDOWS: dict[str, tuple[float, float]] = {
    "ct-soft-tissue": (40.0, 400.0),
    "ct-lung": (-600.0, 1500.0),
    "ct-brain": (40.0, 80.0),
    "ct-bone": (400.0, 1800.0),
    "ct-liver": (60.0, 160.0),
    "ct-mediastinum": (50.0, 350.0),
    "ct-angiography": (300.0, 600.0),
}
"""Level and width in Hounsfield units."""

# In air a CT has about -1000 HU; hardly any other image has whole numbers that low.
_CT_HAS_VALUES_BELOW = -500
# Hounsfield units. Aerated lung, neither the air round the body and in the bowel nor fat; fat; brain with its fluid and
# fresh blood; calcified bone, above soft tissue with contrast agent; the body, by its skin.
_LUNG, _FAT, _BRAIN, _BONE_FROM, _SKULL_FROM, _BODY_FROM = (-950, -400), (-150, -30), (0, 80), 200, 300, -300
# A heart's box holds some 30 % of lung in its corners, a lung's more than half; a box round a femur or vertebra has 10
# to 20 % of bone, in which soft tissue still outlines it.
_LEAST_LUNG, _LEAST_BONE = 0.35, 0.25
# Muscle and liver have the values of brain: a head is known by its skull (a leg or an abdomen has up to 0.1 of bone).
_LEAST_BRAIN, _MOST_FAT_IN_BRAIN, _LEAST_SKULL = 0.6, 0.05, 0.12
# Percentiles of this many voxels differ from those of all by far less than one of the 256 grey levels.
_VOXELS_FOR_STATISTICS = 2_000_000


@dataclass(frozen=True)
class IntensityRule:
    """How a range of values is chosen: two fixed values, or two percentiles of the image.

    Attributes:
        name: What reports call it.
        low: Value that becomes 0; None takes the lower percentile.
        high: Value that becomes 255; None takes the upper percentile.
        lower_percentile: 0 to 100, of the finite non-zero voxels.
        upper_percentile: 0 to 100, of the finite non-zero voxels.
    """

    name: str
    low: float | None = None
    high: float | None = None
    lower_percentile: float = 0.5
    upper_percentile: float = 99.5

    def __post_init__(self) -> None:
        if self.low is not None and self.high is not None and not self.low < self.high:
            raise ValueError(f"Intensity rule {self.name!r} needs low < high, not {self.low} to {self.high}.")
        if not 0 <= self.lower_percentile < self.upper_percentile <= 100:
            raise ValueError(
                f"Intensity rule {self.name!r} needs percentiles 0 <= lower < upper <= 100, "
                f"not {self.lower_percentile} to {self.upper_percentile}."
            )

    @classmethod
    def from_window(cls, level: float, width: float, name: str = "window") -> IntensityRule:
        """Returns the rule of a display window.

        Args:
            level: Value in the middle of the window.
            width: Extent of the window, in the same unit.
            name: What reports call it.

        Raises:
            ValueError: the width isn't positive or a value isn't finite.
        """
        if not (np.isfinite(level) and np.isfinite(width) and width > 0):
            raise ValueError(f"A window needs a finite level and a width above 0, not level {level}, width {width}.")
        return cls(name, float(level) - float(width) / 2, float(level) + float(width) / 2)


RULES: dict[str, IntensityRule] = {
    **{name: IntensityRule.from_window(level, width, name) for name, (level, width) in CT_WINDOWS.items()},
    "percentile": IntensityRule("percentile"),
    "as-is": IntensityRule("as-is", 0.0, 255.0),
}
"""The rules that are chosen by name, beside "auto"."""

RULE_NAMES: tuple[str, ...] = ("auto", *RULES)


def parse_window(text: str) -> str | tuple[float, float]:
    """Reads a rule's name, or level and width as two numbers with a comma or slash between.

    Raises:
        ValueError: it is neither.
    """
    if text in RULE_NAMES:
        return text
    try:
        level, width = (float(part) for part in text.replace("/", ",").split(","))
        IntensityRule.from_window(level, width)
    except ValueError:
        raise ValueError(
            f"{text!r} is neither level and width, such as 40,400, nor one of {', '.join(RULE_NAMES)}."
        ) from None
    return level, width


@dataclass(frozen=True)
class IntensityWindow:
    """A range of values that is shown as 0..255, and why it was chosen.

    Attributes:
        name: Name of the rule that gave it.
        low: This value and all below become 0.
        high: This value and all above become 255.
        reason: One sentence for the user.
        ct_bone_share: Of a CT whose window was chosen automatically, the share of its body that is bone; None for all
            others, whose window doesn't depend on the box.
    """

    name: str
    low: float
    high: float
    reason: str
    ct_bone_share: float | None = None

    def apply(self, values: NDArray[np.generic]) -> NDArray[np.uint8]:
        """Returns the grey levels of an array of any shape; NaN and infinite values become 0."""
        if values.dtype == np.uint8 and (self.low, self.high) == (0.0, 255.0):
            return values.astype(np.uint8)
        scaled = values.astype(np.result_type(values.dtype, np.float32))
        if np.issubdtype(values.dtype, np.floating):
            scaled[~np.isfinite(values)] = self.low
        scaled -= self.low
        scaled *= 255.0 / (self.high - self.low)
        np.clip(scaled, 0.0, 255.0, out=scaled)
        return np.rint(scaled, out=scaled).astype(np.uint8)


def resolve_intensity(rule: str | IntensityRule | Sequence[float], voxels: NDArray[np.generic]) -> IntensityWindow:
    """Chooses the range of values of one image.

    Args:
        rule: A name of `RULE_NAMES`, a rule, or (level, width). "auto" takes 8-bit and colour images as they are, whole
            numbers with values of -500 or less for a CT in soft tissue window, and everything else by percentiles.
            A box's own content decides further, see `window_in_box`.
        voxels: The whole image, (K, J, I) or colour (K, J, I, 3); its finite values alone decide.

    Returns:
        The range, with the name of the rule that gave it and the reason.

    Raises:
        ValueError: unknown rule; no finite value; all values equal; "as-is" with values outside 0..255; a range in
            which the whole image is black or white.
    """
    chosen = _named_rule(rule)
    statistics = _Statistics(voxels)
    if chosen is None:
        chosen, reason = _automatic(voxels, statistics)
    else:
        reason = "chosen by the user"
    if chosen.name == "as-is" and (statistics.minimum < 0 or statistics.maximum > 255):
        raise ValueError(
            f"Intensity rule 'as-is' is for images within 0..255; this one has {statistics.minimum:g} to "
            f"{statistics.maximum:g}. Use 'auto', 'percentile', a CT window or an explicit level and width."
        )
    low, high = chosen.low, chosen.high
    if low is None or high is None:
        lower, upper = statistics.percentiles(chosen.lower_percentile, chosen.upper_percentile)
        low, high = lower if low is None else low, upper if high is None else high
        reason += f"; percentiles {chosen.lower_percentile:g} to {chosen.upper_percentile:g} of the non-zero voxels"
    if statistics.maximum <= low or statistics.minimum >= high:
        raise ValueError(
            f"Intensity rule {chosen.name!r} shows {low:g} to {high:g}, but the image's values are "
            f"{statistics.minimum:g} to {statistics.maximum:g}: it would be all black or all white. Use another rule, "
            "such as 'percentile'."
        )
    automatic_ct = rule == "auto" and chosen.name in CT_WINDOWS
    bone_share = statistics.share_of_body(_SKULL_FROM) if automatic_ct else None
    return IntensityWindow(chosen.name, float(low), float(high), reason, bone_share)


def window_in_box(window: IntensityWindow, values: NDArray[np.generic]) -> IntensityWindow:
    """Chooses a CT's window anew by what a box holds: lung, bone, brain, or else soft tissue.

    Args:
        window: That of the whole image; returned as it is unless it is a CT's that was chosen automatically.
        values: The voxels in the box, of any shape.
    """
    if window.ct_bone_share is None:
        return window
    hounsfield = values[np.isfinite(values)].astype(np.float32)
    if hounsfield.size == 0:
        return window
    lung, fat, brain = (
        float(np.mean((hounsfield >= low) & (hounsfield < high))) for low, high in (_LUNG, _FAT, _BRAIN)
    )
    bone = float(np.mean(hounsfield >= _BONE_FROM))
    if lung >= _LEAST_LUNG:
        name, reason = "ct-lung", f"{lung:.0%} of the box is lung"
    elif bone >= _LEAST_BONE:
        name, reason = "ct-bone", f"{bone:.0%} of the box is bone"
    elif brain >= _LEAST_BRAIN and fat <= _MOST_FAT_IN_BRAIN and window.ct_bone_share >= _LEAST_SKULL:
        name, reason = "ct-brain", f"{brain:.0%} of the box has the values of brain, in a head"
    else:
        return window
    level, width = CT_WINDOWS[name]
    return replace(
        window, name=name, low=level - width / 2, high=level + width / 2, reason=f"{window.reason}; {reason}"
    )


def _named_rule(rule: str | IntensityRule | Sequence[float]) -> IntensityRule | None:
    """The rule that is meant; None for "auto"."""
    if isinstance(rule, IntensityRule):
        return rule
    if isinstance(rule, str):
        if rule == "auto":
            return None
        if rule not in RULES:
            raise ValueError(
                f"Unknown intensity rule {rule!r}: use one of {', '.join(RULE_NAMES)}, or level and width."
            )
        return RULES[rule]
    try:
        level, width = rule
    except (TypeError, ValueError) as error:
        raise ValueError(f"An explicit window is (level, width), not {rule!r}.") from error
    return IntensityRule.from_window(level, width)


def _automatic(voxels: NDArray[np.generic], statistics: _Statistics) -> tuple[IntensityRule, str]:
    colour = voxels.ndim == 4
    if voxels.dtype == np.uint8:
        return RULES["as-is"], "the image has 8 bits"
    if colour and statistics.minimum >= 0 and 1 < statistics.maximum <= 255:
        return RULES["as-is"], "the image is in colour, within 0 to 255"
    if colour:
        reason = f"the image is in colour, from {statistics.minimum:g} to {statistics.maximum:g}"
        return RULES["percentile"], reason
    if statistics.minimum <= _CT_HAS_VALUES_BELOW:
        if statistics.whole_numbers():
            reason = f"whole numbers down to {statistics.minimum:g}, taken for Hounsfield units"
            return RULES["ct-soft-tissue"], reason
        return RULES["percentile"], "not whole numbers, so not taken for Hounsfield units"
    return RULES["percentile"], f"values from {statistics.minimum:g}, so not taken for Hounsfield units"


class _Statistics:
    """Range of all finite values of an image, and percentiles of an evenly spaced part of them.

    Raises:
        ValueError: the values aren't real numbers, none is finite, or all are equal.
    """

    def __init__(self, voxels: NDArray[np.generic]) -> None:
        if voxels.size == 0 or not (
            np.issubdtype(voxels.dtype, np.integer) or np.issubdtype(voxels.dtype, np.floating)
        ):
            raise ValueError(f"An image of type {voxels.dtype} and shape {voxels.shape} has no grey values.")
        self._voxels = voxels
        self.minimum, self.maximum = _finite_range(voxels)
        if self.minimum == self.maximum:
            raise ValueError(
                f"All values of the image are {self.minimum:g}: there is nothing to segment. Check that the right "
                "volume was chosen and that it was loaded completely."
            )

    def _sample(self) -> NDArray[np.generic]:
        # In memory order nothing is copied, and a permuted volume gives the same sample.
        values = self._voxels.ravel(order="K")
        stride = max(1, round(values.size / _VOXELS_FOR_STATISTICS))
        while stride > 1 and (stride % 2 == 0 or stride % 3 == 0):
            stride += 1  # never in step with the usual row lengths or with the three colours
        sample = values[::stride]
        return sample[np.isfinite(sample)] if np.issubdtype(sample.dtype, np.floating) else sample

    def whole_numbers(self) -> bool:
        """Whether all values are whole, as scanners store them."""
        sample = self._sample()
        return bool(np.issubdtype(sample.dtype, np.integer) or (np.rint(sample) == sample).all())

    def share_of_body(self, least: float) -> float:
        """Share of the voxels within the skin that have a value or more; 0 without a body."""
        sample = self._sample().astype(np.float32)
        body = np.count_nonzero(sample >= _BODY_FROM)
        return np.count_nonzero(sample >= least) / body if body else 0.0

    def percentiles(self, lower: float, upper: float) -> tuple[float, float]:
        """Percentiles of the non-zero values; the whole range where these leave no width."""
        sample = self._sample()
        sample = sample[sample != 0]
        if sample.size:
            low, high = (float(value) for value in np.percentile(sample, (lower, upper)))
            if low < high:
                return low, high
        return self.minimum, self.maximum


def _finite_range(voxels: NDArray[np.generic]) -> tuple[float, float]:
    low, high = float(voxels.min()), float(voxels.max())
    if np.isfinite(low) and np.isfinite(high):
        return low, high
    finite = voxels[np.isfinite(voxels)]
    if finite.size == 0:
        raise ValueError("The image has no finite value: every voxel is NaN or infinite.")
    return float(finite.min()), float(finite.max())
