"""What application and worker say to each other.

A change of a message's meaning or fields is a new `VERSION`; the two sides refuse each other if theirs differ. What a
prompt may be is `dbsam.inference.segmenter`'s: a new kind of prompt is one more class in `_VALUES`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dbsam.geometry.grid import ImageGeometry, OrientedBox
from dbsam.inference.segmenter import SliceReport, VolumeSegmentation
from dbsam.inference.trust import Trust
from dbsam.preprocess.intensity import IntensityRule, IntensityWindow
from dbsam.preprocess.prompts import PointPrompt, SliceBoxes
from dbsam.progress import Progress
from dbsam.worker.channel import Frame
from dbsam.worker.values import ProtocolError, ValueCodec

VERSION = 3


class Priority(IntEnum):
    """Which waiting job is next."""

    PREVIEW = 0
    RUN = 1
    IDLE = 2


# Either side, before it trusts the other.


@dataclass(frozen=True)
class Challenge:
    """The application asks a process that has connected to show that it knows the key."""

    version: int
    nonce: str


@dataclass(frozen=True)
class Answer:
    """The worker's proof, and its own question."""

    version: int
    proof: str
    nonce: str
    process_id: int


@dataclass(frozen=True)
class Welcome:
    """The application's proof, and what it wishes.

    Attributes:
        proof: See `dbsam.worker.keys`.
        cache_bytes: Limit of the memory for image embeddings.
        idle_seconds: The worker ends when it had nothing to do for so long; 0 for never.
        source: "module:name" of what gives networks; see `dbsam.worker.networks.NetworkSource`.
        source_options: Its arguments by name.
    """

    proof: str
    cache_bytes: int
    idle_seconds: float
    source: str
    source_options: Mapping[str, Any]


# What the worker can be asked to do.


@dataclass(frozen=True)
class SegmentTask:
    """Segments one structure after another of one volume.

    Attributes:
        volume: The volume's identity.
        prompts: As `VolumeSegmenter.segment` takes them.
        names: The structures' names, for the progress.
        model: Name or path.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        options: What `VolumeSegmenter.segment` takes by name beside these: axis, strategy, intensity...
        with_slices: Whether each slice is sent as soon as it is decided.
        points: Clicks by which the result is corrected at once; with one prompt only.
        spread: How far they reach, as `VolumeSegmenter.correct` takes it.
    """

    volume: str
    prompts: tuple[Any, ...]
    names: tuple[str, ...]
    model: str
    device: str
    options: Mapping[str, Any]
    with_slices: bool
    points: tuple[PointPrompt, ...] = ()
    spread: str = "both"


@dataclass(frozen=True)
class CorrectTask:
    """Corrects a result by clicks; the answer is a `Segmented` with one segmentation.

    Attributes:
        volume: The volume's identity.
        former: The result to correct.
        points: The new clicks.
        model: Name or path.
        device: As in `SegmentTask`.
        spread: As `VolumeSegmenter.correct` takes it.
        with_slices: As in `SegmentTask`.
    """

    volume: str
    former: VolumeSegmentation
    points: tuple[PointPrompt, ...]
    model: str
    device: str
    spread: str
    with_slices: bool


@dataclass(frozen=True)
class PrefetchTask:
    """Embeds the slices of a prompt for later; `options` as `VolumeSegmenter.prefetch` takes them by name."""

    volume: str
    prompt: Any
    model: str
    device: str
    options: Mapping[str, Any]


@dataclass(frozen=True)
class LoadTask:
    """Loads a model, so that the next task finds it."""

    model: str
    device: str


@dataclass(frozen=True)
class DownloadTask:
    """Fetches named weights to the cache folder."""

    name: str


@dataclass(frozen=True)
class DescribeTask:
    """Reads and checks what a weights file says of itself."""

    path: str


Task = SegmentTask | CorrectTask | PrefetchTask | LoadTask | DownloadTask | DescribeTask


@dataclass(frozen=True)
class Segmented:
    """What became of a `SegmentTask`.

    Attributes:
        segmentations: One per prompt.
        device: Where it was computed.
        load_seconds: What it took to load the model; 0 where it was there.
        wait_seconds: What it took until the volume had arrived.
    """

    segmentations: tuple[VolumeSegmentation, ...]
    device: str
    load_seconds: float
    wait_seconds: float


@dataclass(frozen=True)
class WeightsDescription:
    """What a weights file says of itself."""

    name: str
    version: str
    licence: str
    system: str


@dataclass(frozen=True)
class DecidedSlice:
    """A slice whose mask is decided while the others are still computed.

    Attributes:
        prompt: Number of the prompt in its task.
        axis: 0, 1, 2 for slices along I, J, K.
        report: What is known of it.
        origin_yx: Row and column of the mask's first pixel on the slice.
        mask: uint8, 1 inside; the slice is 0 everywhere else.
    """

    prompt: int
    axis: int
    report: SliceReport
    origin_yx: tuple[int, int]
    mask: NDArray[np.uint8]


# From the application.


@dataclass(frozen=True)
class Submit:
    """Work.

    Attributes:
        job: The application's number for it.
        priority: See `Priority`.
        task: What to do.
        volume_follows: Identity of the volume that is on its way for it, so that nobody asks for it; empty for none.
    """

    job: int
    priority: int
    task: Task
    volume_follows: str = ""


@dataclass(frozen=True)
class Cancel:
    """A job's result isn't wanted any more."""

    job: int


@dataclass(frozen=True)
class VolumeBegin:
    """A volume whose voxels follow in parts, in memory order.

    Attributes:
        identity: Changes with every change of the voxels or the grid.
        shape: (K, J, I) or (K, J, I, 3).
        dtype: As `numpy.dtype.str`.
        geometry: The grid.
    """

    identity: str
    shape: tuple[int, ...]
    dtype: str
    geometry: ImageGeometry


@dataclass(frozen=True)
class VolumePart:
    """The next voxels of the volume that was begun last."""

    identity: str
    content: bytes | memoryview


@dataclass(frozen=True)
class VolumeGone:
    """The volume can't be had any more; why, in words."""

    identity: str
    reason: str


@dataclass(frozen=True)
class Forget:
    """Volumes and embeddings are not wanted any more."""


# From the worker.


@dataclass(frozen=True)
class Ready:
    """The worker waits for jobs."""


@dataclass(frozen=True)
class NeedVolume:
    """A job can't begin without this volume."""

    identity: str


@dataclass(frozen=True)
class Started:
    """A job has begun."""

    job: int


@dataclass(frozen=True)
class ProgressNews:
    """How far a job is."""

    job: int
    progress: Progress


@dataclass(frozen=True)
class SliceNews:
    """A slice of a job is decided."""

    job: int
    decided: DecidedSlice


@dataclass(frozen=True)
class Done:
    """A job has ended well."""

    job: int
    result: Any


@dataclass(frozen=True)
class Failed:
    """A job has ended with an error.

    Attributes:
        job: Its number.
        kind: Name of the error's class.
        message: The error's text.
        memory_full: Whether memory was full; the worker has freed what it could.
        trace: Where it came from, for the log.
    """

    job: int
    kind: str
    message: str
    memory_full: bool
    trace: str


@dataclass(frozen=True)
class Stopped:
    """A job has ended because it was cancelled."""

    job: int


@dataclass(frozen=True)
class Goodbye:
    """The worker ends of its own accord."""

    reason: str


_MESSAGES = (
    Challenge, Answer, Welcome, Submit, Cancel, VolumeBegin, VolumePart, VolumeGone, Forget, Ready, NeedVolume,
    Started, ProgressNews, SliceNews, Done, Failed, Stopped, Goodbye,
)  # fmt: skip
_VALUES = (
    SegmentTask, CorrectTask, PrefetchTask, LoadTask, DownloadTask, DescribeTask, Segmented, WeightsDescription,
    DecidedSlice, ImageGeometry, OrientedBox, SliceBoxes, PointPrompt, IntensityRule, IntensityWindow, Progress,
    SliceReport, Trust, VolumeSegmentation,
)  # fmt: skip
_codec = ValueCodec((*_MESSAGES, *_VALUES))


def encode(message: Any) -> tuple[bytes, list[memoryview]]:
    """A message's structure and the bytes of its arrays, as a channel sends them.

    Raises:
        TypeError: A part of it is of a kind that isn't sent.
    """
    return _codec.encode(message)


def decode(frame: Frame) -> Any:
    """The message of a frame.

    Raises:
        ProtocolError: It is none of this protocol.
    """
    message = _codec.decode(*frame)
    if not isinstance(message, _MESSAGES):
        raise ProtocolError(f"A {type(message).__name__} is no message.")
    return message
