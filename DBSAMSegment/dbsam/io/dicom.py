"""DICOM files and folders, read by pydicom: each frame is placed by its own position and scaled by its own values.

Tried on the kinds of input that the tests hold: pydicom 3 decodes them all rightly or refuses them. Highdicom 0.28 does
not mask bits beyond BitsStored in `Image.get_frames` (4101 for 5 beside an overlay); how it judges stacks is told in
`dicom_stack`. So it writes segmentations here, see `dicom_seg`, and does not read.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dbsam.geometry.grid import LPS_FROM_RAS
from dbsam.geometry.plane_cut import FloatArray
from dbsam.io.dicom_stack import SlicePlace, check_stack, sorted_along_normal, split_into_stacks, stack_frame
from dbsam.io.image_file import (
    Choice,
    ImageFile,
    ImageFileError,
    chosen_component,
    chosen_stack,
    refuse_component,
    refuse_what_fits_no_memory,
    rescaled,
)

if TYPE_CHECKING:
    from pydicom import Dataset

logger = logging.getLogger(__name__)

DICOM_ENDINGS = (".dcm", ".dicom", ".ima")

_MAGIC_AT, _MAGIC = 128, b"DICM"
_DEFER = 1 << 14  # bytes; larger values, which are voxels, are read when they are asked for
_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_NO_IMAGES = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")  # segmentations
_LARGEST_COSINE = 1e-3
_GREY = ("MONOCHROME1", "MONOCHROME2")
_COLOURS = ("RGB", "PALETTE COLOR", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")  # RGB after decoding

# What tells frames at one position apart, with its name in messages.
_FACTS = {
    "StackID": "stack",
    "EchoNumbers": "echo",
    "EffectiveEchoTime": "echo time",
    "EchoTime": "echo time",
    "TemporalPositionIndex": "time",
    "TemporalPositionIdentifier": "time",
    "TemporalPositionTimeOffset": "time",
    "DiffusionBValue": "b-value",
    "DiffusionGradientOrientation": "gradient",
    "NominalCardiacTriggerDelayTime": "trigger time",
    "NominalPercentageOfCardiacPhase": "phase",
    "TriggerTime": "trigger time",
    "ComplexImageComponent": "component",
    "FrameType": "type",
    "ImageType": "type",
    "InversionTime": "inversion time",
    "FlipAngle": "flip angle",
    "KVP": "kV",
    "FrameAcquisitionNumber": "acquisition",
    "AcquisitionNumber": "acquisition",
    "FrameAcquisitionDateTime": "acquired at",
    "AcquisitionTime": "acquired at",
    "ContentTime": "made at",
}


@dataclass(frozen=True, eq=False)
class Frame:
    """One image of a file.

    Attributes:
        file: The file.
        content: The file's content.
        number: Which of its frames, from 0.
        count: How many it has.
        place: Where it lies; None where the file does not say.
    """

    file: Path
    content: Dataset
    number: int
    count: int
    place: SlicePlace | None


def is_dicom(path: Path) -> bool:
    """Whether the file begins as DICOM does, also without the usual 128 bytes before, or is named so."""
    if path.name.lower().endswith(DICOM_ENDINGS) or has_magic(path):
        return True
    with path.open("rb") as file:
        start = file.read(4)
    # Without them a file begins with a tag of group 2 or 8.
    return start[:2] in (b"\2\0", b"\x08\0") and start[3:4] == b"\0"


def has_magic(path: Path) -> bool:
    """Whether the file says of itself that it is DICOM; before that it may look like a TIFF."""
    with path.open("rb") as file:
        return file.read(_MAGIC_AT + 4)[_MAGIC_AT:] == _MAGIC


def holds_image(path: Path) -> bool:
    """Whether a file is a DICOM image, not a segmentation or something else."""
    return path.is_file() and is_dicom(path) and _no_image(_content(path)) is None


def read_dicom(path: Path, choice: Choice) -> ImageFile:
    """Read a DICOM file, or one series of a folder, as a volume.

    Images without any position need `choice.slice_spacing_mm`. Values are those after the modality
    LUT or rescale, whole where all are; doses are scaled; MONOCHROME1 is not inverted.

    Raises:
        ImageFileError: It is damaged, no regular stack, or holds several series or stacks and none is chosen.
        MemoryError: It does not fit into memory.
    """
    try:
        frames = chosen_frames(path, choice)
        voxels = np.stack([_pixels(frame) for frame in _one_by_one(frames)])
    except (ImageFileError, MemoryError):
        raise
    except Exception as error:  # values are parsed when they are asked for, and damaged ones raise nearly anything
        raise ImageFileError(f"{path}: damaged: {type(error).__name__}: {error}. Copy or download it again.") from error
    if voxels.ndim == 4:
        voxels = chosen_component(path, voxels, choice.component, is_colour=True)
    else:
        refuse_component(path, choice.component)
    first = frames[0]
    if first.place is None:
        spacing = _pixel_spacing(first.content, first)
        frame = LPS_FROM_RAS @ np.diag([*(spacing or (1.0, 1.0)), choice.slice_spacing_mm or 1.0, 1.0])
        return ImageFile(voxels, frame, spacing is not None, position_known=False)
    places = [frame.place for frame in frames if frame.place is not None]
    lone = abs(_number(first.content, "SpacingBetweenSlices", first) or 1.0)
    return ImageFile(voxels, LPS_FROM_RAS @ stack_frame(places, lone))


def chosen_frames(path: Path, choice: Choice) -> list[Frame]:
    """The frames of the chosen stack, in the order of its K-slices.

    Raises:
        ImageFileError: See `read_dicom`.
    """
    if path.is_dir():
        files = _choose_series(path, choice.series_uid)
    else:
        content = _content(path)
        if (problem := _no_image(content)) is not None:
            raise ImageFileError(f"{path}: {problem}")
        files = [(path, content)]
    frames = [frame for file, content in files for frame in _frames(file, content)]
    unplaced = [frame for frame in frames if frame.place is None]
    if choice.slice_spacing_mm is not None and (not unplaced or len(files) == 1):
        raise ImageFileError(f"{path}: a slice spacing is given, but this is no series of images without position.")
    if not unplaced:
        return _choose_stack(path, frames, choice.stack)
    if len(unplaced) < len(frames):
        raise ImageFileError(
            f"{path}: some images have a position and others have none, such as {unplaced[0].file}. Move them apart."
        )
    if len(files) == 1:  # a cine, or a lone picture
        chosen = chosen_stack(path, len(frames), choice.stack, f"{len(frames)} frames without positions (a cine)")
        return [frames[chosen]]
    chosen_stack(path, 1, choice.stack, "one stack")
    if any(frame.count > 1 for frame in frames):
        raise ImageFileError(f"{path}: its files hold several frames each, without positions; name one of them.")
    return _in_order_of_numbers(path, frames, choice)


def _in_order_of_numbers(path: Path, frames: list[Frame], choice: Choice) -> list[Frame]:
    """The frames of files without positions, where the user says how far apart they lie."""
    spacings = {_pixel_spacing(frame.content, frame) for frame in frames}
    sizes = {(frame.content.Columns, frame.content.Rows): frame.file for frame in frames}
    if len(sizes) > 1 or len(spacings) > 1:
        listing = "\n  ".join(f"{width} x {height}: {file}" for (width, height), file in sizes.items())
        raise ImageFileError(f"{path}: images of different sizes or pixel spacings:\n  {listing}\nMove them apart.")
    numbers = [_number(frame.content, "InstanceNumber", frame) for frame in frames]
    if None in numbers or len(set(numbers)) < len(numbers):
        raise ImageFileError(
            f"{path}: its images have no position, and no InstanceNumber of their own by which they could be ordered. "
            "Name a single file."
        )
    if choice.slice_spacing_mm is None:
        raise ImageFileError(
            f"{path}: its {len(frames)} images have no position, so that nobody knows their order and distance. If "
            "they lie in the order of their numbers (InstanceNumber), at equal distances, give it: --slice-spacing MM "
            "(in Python read_volume(path, slice_spacing_mm=MM))."
        )
    return [frame for _, frame in sorted(zip(numbers, frames, strict=True), key=lambda pair: float(pair[0] or 0))]


def _choose_stack(path: Path, frames: list[Frame], stack: int | None) -> list[Frame]:
    systems = {str(frame.content.get("FrameOfReferenceUID") or ""): frame.file for frame in frames}
    if len(systems) > 1:
        named = "\n  ".join(f"{uid or 'without UID'}: {file}" for uid, file in systems.items())
        raise ImageFileError(
            f"{path}: its slices lie in {len(systems)} frames of reference, so that nobody knows how they lie "
            f"to each other:\n  {named}\nMove them apart."
        )
    by_place = {id(frame.place): frame for frame in frames}
    places = sorted_along_normal([frame.place for frame in frames if frame.place is not None])
    series = f", DICOM series {frames[0].content.get('SeriesInstanceUID', 'without UID')}" if path.is_dir() else ""
    what = f"{path}{series}"
    try:
        check_stack(places)
        stacks = [("", places)]
    except ValueError as error:
        stacks = split_into_stacks([frame.place for frame in frames if frame.place is not None])
        if len(stacks) == 1 or stack is None:
            several = ""
            if len(stacks) > 1:
                listing = [f"{len(part)} slices, {words}" for words, part in stacks]
                try:
                    chosen_stack(path, len(stacks), None, f"{len(stacks)} stacks", listing)
                except ImageFileError as asked:
                    several = "\n" + str(asked)
            raise ImageFileError(f"{what}: {error}{several}") from error
    chosen = stacks[chosen_stack(path, len(stacks), stack, f"{len(stacks)} stacks", [w for w, _ in stacks])][1]
    chosen = sorted_along_normal(chosen)
    try:
        check_stack(chosen)
    except ValueError as error:
        raise ImageFileError(f"{what}, stack {stack}: {error}") from error
    return [by_place[id(place)] for place in chosen]


def _by_series(folder: Path) -> tuple[dict[str, list[tuple[Path, Dataset]]], list[tuple[Path, str]]]:
    """The images of a folder by series, largest first, and the files that are damaged, with what is wrong."""
    found: dict[str, list[tuple[Path, Dataset]]] = {}
    damaged: list[tuple[Path, str]] = []
    strangers: list[Path] = []
    for path in sorted(entry for entry in folder.iterdir() if entry.is_file()):
        if not is_dicom(path):
            strangers.append(path)
            continue
        try:
            content = _content(path)
        except ImageFileError as error:
            damaged.append((path, str(error)))
            continue
        problem = _no_image(content)
        if problem is None:
            found.setdefault(str(content.get("SeriesInstanceUID", "")), []).append((path, content))
        elif _should_be_image(content):
            damaged.append((path, f"{path}: {problem}"))
    endings = {path.suffix.lower() for files in found.values() for path, _ in files}
    damaged += [(path, f"{path}: empty: it holds no byte. Copy or download it again.")
                for path in strangers if path.suffix.lower() in endings and not path.stat().st_size]  # fmt: skip
    return dict(sorted(found.items(), key=lambda series: -len(series[1]))), damaged


def _choose_series(folder: Path, series_uid: str | None) -> list[tuple[Path, Dataset]]:
    every, damaged = _by_series(folder)
    if damaged:
        # What belongs to another series is no concern; most damaged files don't say to which they belong.
        others = {path for path, _ in damaged if _belongs_elsewhere(path, every, series_uid)}
        if left := [text for path, text in damaged if path not in others]:
            raise ImageFileError(left[0] + (f" {len(left) - 1} more files are damaged." if len(left) > 1 else ""))
    if not every:
        raise ImageFileError(f"{folder}: no DICOM images in this folder; name the folder that holds the .dcm files.")
    exact = [uid for uid in every if uid == series_uid]
    chosen = exact or [uid for uid in every if uid.startswith(series_uid or "")]
    if len(chosen) == 1:
        return every[chosen[0]]
    listing = "\n".join(f"  {uid}  {len(files):4d} files  {_describe(files[0][1])}" for uid, files in every.items())
    problem = "several series" if chosen else f"no series {series_uid}"
    raise ImageFileError(f"{folder}: {problem}. Choose one by its UID, or the start of it (--series):\n{listing}")


def _belongs_elsewhere(path: Path, every: dict[str, Any], series_uid: str | None) -> bool:
    try:
        uid = str(_content(path).get("SeriesInstanceUID", ""))
    except ImageFileError:
        return False
    return bool(uid and series_uid and uid in every and not uid.startswith(series_uid))


def _content(path: Path) -> Dataset:
    """The file's content, its voxels left on disk until they are asked for."""
    from pydicom import dcmread

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of values that break a rule and are not needed
            content = dcmread(path, defer_size=_DEFER, force=True)
            if "TransferSyntaxUID" not in content.file_meta:
                from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

                implicit, little = content.original_encoding
                explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
                content.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit
    except MemoryError:
        raise
    except Exception as error:  # damaged files make pydicom raise nearly anything
        raise ImageFileError(f"{path}: damaged or cut short, or no DICOM file: {error}") from error
    return content


def _no_image(content: Dataset) -> str | None:
    """Why a file holds no image; None if it does."""
    if content.get("SOPClassUID") in _NO_IMAGES:
        return "a DICOM segmentation, not an image."
    if not any(keyword in content for keyword in _PIXELS):
        if _should_be_image(content):
            return "damaged: cut short before its voxels. Copy or download it again."
        return f"holds no image, but {content.get('Modality') or 'something else'}."
    if "Rows" not in content or "Columns" not in content:
        return "damaged: voxels without Rows or Columns. Copy or download it again."
    return None


def _should_be_image(content: Dataset) -> bool:
    """Whether a file without voxels was to be an image: its class says so, or it ends before its class."""
    meta = content.file_meta
    uid = content.get("SOPClassUID") or meta.get("MediaStorageSOPClassUID")
    if uid in _NO_IMAGES:
        return False
    if uid is None:
        return True
    name = getattr(uid, "name", "")
    return "Image Storage" in name or name in ("RT Dose Storage", "Parametric Map Storage") or "Rows" in content


def _describe(content: Dataset) -> str:
    return " ".join(str(content.get(key)).strip() for key in ("Modality", "SeriesDescription") if content.get(key))


def _number(content: Dataset, keyword: str, frame: Frame | Path) -> float | None:
    value = content.get(keyword)
    if value is None or value == "":
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ImageFileError(f"{_named(frame)}: its {keyword} is {value!r}, which is no number.")
    return number


def _named(frame: Frame | Path) -> str:
    if isinstance(frame, Path):
        return str(frame)
    return f"{frame.file}, frame {frame.number + 1}" if frame.count > 1 else str(frame.file)


def _frames(path: Path, content: Dataset) -> list[Frame]:
    """The frames of a file, with their places."""
    count = int(_number(content, "NumberOfFrames", path) or 1)
    if "TotalPixelMatrixColumns" in content:
        raise ImageFileError(f"{path}: tiles of a slide; save the region of interest as a picture.")
    samples = int(content.get("SamplesPerPixel", 1))
    size = int(content.Rows) * int(content.Columns) * samples * int(content.get("BitsAllocated", 8)) // 8
    refuse_what_fits_no_memory(path, count * size)
    groups = content.get("PerFrameFunctionalGroupsSequence")
    if groups is not None and len(groups) != count:
        raise ImageFileError(f"{path}: damaged: {count} frames, but positions of {len(groups)}.")
    offsets = _offsets(path, content, count)
    frames = []
    for number in range(count):
        values = _frame_values(content, number)
        name = f"{path}, frame {number + 1}" if count > 1 else str(path)
        place = None
        if count == 1 or groups is not None or offsets is not None:
            place = _place(name, content, values, 0.0 if offsets is None else offsets[number])
        frames.append(Frame(path, content, number, count, place))
    return frames


def _frame_values(content: Dataset, number: int) -> dict[str, Any]:
    """What the file, its shared and the frame's own groups say, the most particular last."""
    values: dict[str, Any] = {}
    for keyword in (*_FACTS, "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
        if keyword in content:
            values[keyword] = content.get(keyword)
    sources = [content.get(name) or [] for name in ("DetectorInformationSequence",)]
    sources += [content.get("SharedFunctionalGroupsSequence") or []]
    for items in sources:
        if items:
            values.update(_flattened(items[0]))
    groups = content.get("PerFrameFunctionalGroupsSequence")
    if groups is not None:
        values.update(_flattened(groups[number]))
    return values


def _flattened(group: Dataset) -> Iterator[tuple[str, Any]]:
    for element in group:
        if element.VR != "SQ":
            yield element.keyword, element.value
        elif element.value and not element.tag.is_private:
            yield from _flattened(element.value[0])


def _offsets(path: Path, content: Dataset, count: int) -> list[float] | None:
    """Where frames lie along the normal that have no position of their own: those of a dose, or of slices in NM."""
    if count == 1 or "PerFrameFunctionalGroupsSequence" in content:
        return None
    found = content.get("GridFrameOffsetVector")
    if found:
        offsets = [float(value) for value in found]
        if len(offsets) != count:
            raise ImageFileError(f"{path}: damaged: {count} frames, but {len(offsets)} in GridFrameOffsetVector.")
        return [offset - offsets[0] for offset in offsets]
    step, slices = _number(content, "SpacingBetweenSlices", path), content.get("SliceVector")
    is_tomography = "RECON TOMO" in [str(value) for value in content.get("ImageType") or []]
    if step and slices is not None and is_tomography and sorted(map(int, slices)) == list(range(1, count + 1)):
        return [step * (int(number) - 1) for number in slices]  # the sign says to which side: DICOM PS3.3 C.8.4.15
    return None


def _place(name: str, content: Dataset, values: dict[str, Any], offset_mm: float) -> SlicePlace | None:
    position, orientation = values.get("ImagePositionPatient"), values.get("ImageOrientationPatient")
    if not position or not orientation:
        return None
    spacing = values.get("PixelSpacing") or content.get("ImagerPixelSpacing")
    origin, axes = _floats(name, "position", position, 3), _floats(name, "orientation", orientation, 6)
    between_rows, between_columns = _floats(name, "pixel spacing", spacing or (), 2)
    if min(between_rows, between_columns) <= 0:
        raise ImageFileError(f"{name}: its pixel spacing is {between_rows:g} x {between_columns:g} mm.")
    row, column = axes[:3], axes[3:]
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    if abs(row @ column) > _LARGEST_COSINE or np.abs(np.array(lengths) - 1).max() > 10 * _LARGEST_COSINE:
        raise ImageFileError(f"{name}: its orientation {axes.tolist()} is no pair of directions at right angles.")
    normal = np.cross(row, column)
    normal /= np.linalg.norm(normal)
    facts: dict[str, Hashable] = {}
    for keyword, words in _FACTS.items():
        if values.get(keyword) not in (None, ""):
            facts.setdefault(words, str(values[keyword]))
    return SlicePlace(
        name, origin + offset_mm * normal, np.stack([row, column, normal], axis=1),
        (float(between_columns), float(between_rows)), (int(content.Columns), int(content.Rows)), facts,
    )  # fmt: skip


def _floats(name: str, what: str, values: Sequence[Any], count: int) -> FloatArray:
    try:
        found = np.array([float(value) for value in values])
    except (TypeError, ValueError):
        found = np.zeros(0)
    if found.shape != (count,) or not np.isfinite(found).all():
        raise ImageFileError(f"{name}: its {what} is {values!r} instead of {count} numbers.")
    return found


def _pixel_spacing(content: Dataset, frame: Frame) -> tuple[float, float] | None:
    """Pixel spacing along I and J of an image without position; None where the file does not say."""
    for keyword in ("PixelSpacing", "ImagerPixelSpacing"):
        if content.get(keyword):
            between_rows, between_columns = _floats(_named(frame), keyword, content.get(keyword), 2)
            if min(between_rows, between_columns) > 0:
                return float(between_columns), float(between_rows)
    return None


def _one_by_one(frames: Sequence[Frame]) -> Iterator[Frame]:
    """The frames; the voxels of a file with one frame are let go after it, so that they lie in memory once."""
    for frame in frames:
        yield frame
        if frame.count == 1:
            for keyword in _PIXELS:
                if keyword in frame.content:
                    del frame.content[keyword]


def _pixels(frame: Frame) -> NDArray[Any]:
    """(rows, columns) values or (rows, columns, 3) colours of a frame."""
    from pydicom.pixels import apply_color_lut, apply_modality_lut, pixel_array

    content, name = frame.content, _named(frame)
    kind = str(content.get("PhotometricInterpretation", ""))
    if kind and kind not in (*_GREY, *_COLOURS):
        raise ImageFileError(f"{name}: colours of kind {kind}; save it as RGB or grey.")
    if content.get("BitsAllocated") == 1:
        raise ImageFileError(f"{name}: one bit a pixel, a mask and no image.")
    high_bit = content.get("HighBit", content.get("BitsStored", 1) - 1)
    if "PixelData" in content and high_bit != content.get("BitsStored", high_bit + 1) - 1:
        raise ImageFileError(
            f"{name}: its highest bit is {high_bit} of {content.get('BitsStored')} stored, which is not read rightly."
        )
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            stored = pixel_array(content, index=frame.number)
            if kind == "PALETTE COLOR":
                stored = apply_color_lut(stored, content)
        if any("larger than the given" in str(warning.message) for warning in told):
            raise ImageFileError(f"{name}: damaged: its voxels are longer than its sizes say.")
        if kind not in _GREY:
            return np.asarray(stored)
        if content.get("Modality") == "RTDOSE":
            return rescaled(stored, _number(content, "DoseGridScaling", frame) or 1.0, 0.0)
        transform = _transform(frame)
        if "ModalityLUTSequence" in transform:
            return np.asarray(apply_modality_lut(stored, transform))
        slope = _number(transform, "RescaleSlope", frame)
        if slope == 0:
            raise ImageFileError(f"{name}: its RescaleSlope is 0, by which all values would be the same.")
        return rescaled(stored, 1.0 if slope is None else slope, _number(transform, "RescaleIntercept", frame) or 0.0)
    except (ImageFileError, MemoryError):
        raise
    except Exception as error:  # damaged files make decoders raise nearly anything
        text = " ".join(str(error).split())
        raise ImageFileError(f"{name}: its voxels cannot be read, damaged or cut short: {text}") from error


def _transform(frame: Frame) -> Dataset:
    """What says how the frame's stored values become its own."""
    content = frame.content
    for keyword, number in (("PerFrameFunctionalGroupsSequence", frame.number), ("SharedFunctionalGroupsSequence", 0)):
        groups = content.get(keyword)
        if groups and groups[number].get("PixelValueTransformationSequence"):
            found: Dataset = groups[number].PixelValueTransformationSequence[0]
            return found
    return content
