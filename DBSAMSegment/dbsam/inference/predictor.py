"""From slices and boxes to mask logits: what the engine asks of a model, and the model behind it."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from dbsam.inference.calibration import Calibration
from dbsam.preprocess.sampling import Region, box_region, network_input, resample_slice, slice_region

if TYPE_CHECKING:
    import torch

    from dbsam.modeling.dbsam import DBSAM, EncodedImages

PRECISIONS = ("auto", "float32", "bfloat16", "float16")

_SLICES_KEPT = 64
"""Whole slices whose features stay in memory, 2 to 4 MiB each: those of one pass through a volume, for the next box."""

SMALLEST_BOX_SHARE = 0.3
"""A box whose longer side is a smaller share of the region's is served better by a region of its own."""


class Embedding(Protocol):
    """What a predictor keeps of a slice; only the predictor that made it reads it."""

    @property
    def region(self) -> Region:
        """The part of the slice it describes."""

    @property
    def nbytes(self) -> int:
        """Memory it takes, in bytes."""


class DeviceError(ValueError):
    """The device that was asked for is not there, or can't do what was asked; the message says why and what to do."""


@dataclass(frozen=True)
class DecodedMasks:
    """Masks of N boxes on one slice.

    Attributes:
        logits: (N, h, w) over the embedding's region; positive inside.
        predicted_iou: (N,), the decoder's own estimate of its masks' IoU, calibrated where the weights say how.
    """

    logits: NDArray[np.float32]
    predicted_iou: NDArray[np.float32]


class SlicePredictor(Protocol):
    """A model as the engine sees it."""

    @property
    def signature(self) -> str:
        """Identifies weights and settings: part of the embedding cache's key."""

    @property
    def channels(self) -> Literal["repeat", "neighbours"]:
        """What the three channels of a grey slice are: itself three times, or the slice before, itself and the next."""

    @property
    def takes_points(self) -> bool:
        """Whether the model was trained with clicks and its own former mask as prompts."""

    def region_for(
        self, box_xyxy: NDArray[np.floating], slice_hw: tuple[int, int], spacing_xy: tuple[float, float]
    ) -> Region:
        """The part of the slice that the model is to see for a box."""

    def reusable(self, region: Region, box_xyxy: NDArray[np.floating]) -> bool:
        """Whether an embedding of `region` serves a box."""

    def encode(self, images: Sequence[NDArray[np.uint8]], regions: Sequence[Region]) -> Sequence[Embedding]:
        """Embed (H, W, 3) slices."""

    def decode(
        self,
        embedding: Any,
        boxes_xyxy: NDArray[np.floating],
        points_xy: NDArray[np.floating] | None = None,
        point_labels: NDArray[np.integer] | None = None,
        mask_prompt: NDArray[np.float32] | None = None,
    ) -> DecodedMasks:
        """Masks of boxes on the embedding's slice. Points and a former mask are given only where `takes_points`.

        Args:
            embedding: The slice.
            boxes_xyxy: (N, 4), in continuous pixel coordinates of the slice.
            points_xy: (N, P, 2) clicks, in the same.
            point_labels: (N, P): 1 where the object is, 0 where it isn't.
            mask_prompt: (N, h, w) logits that an earlier call gave for the same boxes.
        """


@dataclass(frozen=True)
class ImageEmbedding:
    """A DB-SAM's embedding of one slice."""

    encoded: EncodedImages
    region: Region

    @property
    def nbytes(self) -> int:
        """Memory of its tensors, in bytes."""
        tensors = (self.encoded.image_embedding, *self.encoded.high_res_features)
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


class ModelPredictor:
    """A DB-SAM, SAM or MedSAM behind the engine.

    Args:
        model: In evaluation mode, on its device; it stays as it is. With "bfloat16" a copy of its image encoder is
            turned into that type, but not its neck: autocast would keep tokens and their norms in float32, and move
            twice as much memory.
        signature: Identifies weights and settings.
        precision: "float32", or "bfloat16" and "float16" where the device gains by it.
        compiled: Whether the image encoder is compiled by `torch.compile`, on CUDA with CUDA graphs. The first slices
            then take a minute or so; it needs a C++ compiler, or Triton on a GPU.
        calibration: Corrects the decoder's own estimates of its masks' IoU.
    """

    def __init__(
        self,
        model: DBSAM,
        signature: str,
        precision: str = "float32",
        compiled: bool = False,
        calibration: Calibration | None = None,
    ) -> None:
        import torch

        self._dtype = getattr(torch, precision)
        self.model = _with_encoder_in(model, torch.bfloat16 if self._dtype == torch.bfloat16 else torch.float32)
        self.signature = f"{signature}:{precision}"
        self.calibration = calibration
        self.channels: Literal["repeat", "neighbours"] = model.config.slice_channels
        self._device = next(model.parameters()).device
        self._encode: Callable[..., EncodedImages] = self.model.encode
        self._slices: OrderedDict[bytes, torch.Tensor] = OrderedDict()
        if compiled:
            mode = "reduce-overhead" if self._device.type == "cuda" else "default"
            self._encode = _kept(torch.compile(self.model.encode, mode=mode))

    @property
    def device(self) -> str:
        """Where the model computes."""
        return str(self._device)

    def region_for(
        self, box_xyxy: NDArray[np.floating], slice_hw: tuple[int, int], spacing_xy: tuple[float, float]
    ) -> Region:
        """See `SlicePredictor`."""
        config = self.model.config
        if config.input_region == "box":
            return box_region(box_xyxy, spacing_xy, config.box_context)
        return slice_region(slice_hw, spacing_xy, square=config.input_region == "pad")

    def reusable(self, region: Region, box_xyxy: NDArray[np.floating]) -> bool:
        """See `SlicePredictor`."""
        if self.model.config.input_region != "box":
            return True
        x0, y0, x1, y1 = box_xyxy
        share = max((x1 - x0) / region.width, (y1 - y0) / region.height)
        return region.contains(box_xyxy) and share >= SMALLEST_BOX_SHARE

    def encode(self, images: Sequence[NDArray[np.uint8]], regions: Sequence[Region]) -> list[ImageEmbedding]:
        """See `SlicePredictor`.

        Raises:
            ValueError: An image isn't (H, W, 3).
        """
        import torch

        config = self.model.config
        inputs, valid, seen = [], [], []
        for image, region in zip(images, regions, strict=True):
            if image.ndim != 3 or image.shape[2] != 3:
                raise ValueError(f"A slice image must be (H, W, 3), not {image.shape}.")
            pixels, inside = network_input(image, region, config.image_size, config.source_grid)
            inputs.append(pixels.transpose(2, 0, 1))
            valid.append(inside[None])
            if config.slice_view:
                seen.append(self._seen(image, region))
        # float16 has too small a range for the neck's norms, which autocast computes in float32.
        autocast = self._autocast() if self._dtype == torch.float16 else nullcontext()
        with torch.inference_mode(), autocast:
            view = (torch.cat(seen),) if seen else ()
            encoded = self._encode(self._tensor(np.stack(inputs)), self._tensor(np.stack(valid)), *view)
        return [ImageEmbedding(_image_of(encoded, n), region) for n, region in enumerate(regions)]

    def _seen(self, image: NDArray[np.uint8], region: Region) -> torch.Tensor:
        """What the view of the whole slice shows of a region; the slice is encoded unless it was lately."""
        import torch

        from dbsam.modeling.slice_view import SLICE_SIZE, cut_out

        # A box's region is square in mm, which tells the shape of the pixels.
        whole = slice_region(image.shape[:2], (round(region.height / region.width, 9), 1.0), square=True)
        key = hashlib.blake2b(image.tobytes() + repr(whole).encode(), digest_size=16).digest()
        with torch.inference_mode():
            if key not in self._slices:
                pixels, inside = resample_slice(image, whole, SLICE_SIZE)
                shown = self._tensor(pixels.transpose(2, 0, 1)[None]), self._tensor(inside[None, None])
                self._slices[key] = self.model.encode_slice(*shown).to(self._dtype)
                while len(self._slices) > _SLICES_KEPT:
                    self._slices.popitem(last=False)
            self._slices.move_to_end(key)
            edges = whole.boxes_to_input(np.array([region.x0, region.y0, region.x1, region.y1]), SLICE_SIZE)
            return cut_out(self._slices[key], self._tensor(edges.astype(np.float32)))

    @property
    def takes_points(self) -> bool:
        """See `SlicePredictor`."""
        return self.model.config.trained_clicks

    def decode(
        self,
        embedding: ImageEmbedding,
        boxes_xyxy: NDArray[np.floating],
        points_xy: NDArray[np.floating] | None = None,
        point_labels: NDArray[np.integer] | None = None,
        mask_prompt: NDArray[np.float32] | None = None,
    ) -> DecodedMasks:
        """See `SlicePredictor`."""
        import torch

        size, region = self.model.config.image_size, embedding.region
        boxes = self._tensor(region.boxes_to_input(boxes_xyxy, size).astype(np.float32))
        corrections = {}
        if points_xy is not None:
            corrections["points_xy"] = self._tensor(region.points_to_input(points_xy, size).astype(np.float32))
            corrections["point_labels"] = self._tensor(np.asarray(point_labels, np.int64))
        if mask_prompt is not None:
            corrections["mask_prompt"] = self._tensor(mask_prompt[:, None])
        with torch.inference_mode(), self._autocast():
            logits, predicted_iou = self.model.decode(embedding.encoded, boxes, **corrections)
        estimates = predicted_iou.float().cpu().numpy()
        return DecodedMasks(
            logits.float().cpu().numpy(), estimates if self.calibration is None else self.calibration(estimates)
        )

    def _tensor(self, array: NDArray[Any]) -> Any:
        import torch

        return torch.from_numpy(np.ascontiguousarray(array)).to(self._device)

    def _autocast(self) -> Any:
        import torch

        # Before torch 2.5 autocast knows no Apple GPU, not even to be switched off.
        reduced = self._dtype != torch.float32
        return torch.autocast(self._device.type, self._dtype) if reduced else nullcontext()


def _with_encoder_in(model: DBSAM, dtype: torch.dtype) -> DBSAM:
    """The model if its image encoder computes in `dtype` (and its neck in float32); else one with a copy that does."""
    import torch

    encoders = {"image_encoder": model.image_encoder}
    if model.slice_encoder is not None:
        encoders["slice_encoder"] = model.slice_encoder
    neck = {id(value) for encoder in encoders.values() for value in encoder.neck.parameters()}
    types = {(id(value) in neck, value.dtype) for encoder in encoders.values() for value in encoder.parameters()}
    if types <= {(False, dtype), (True, torch.float32)}:
        return model
    # The other parts are shared: what is in the memo is not copied.
    shared = {id(part): part for name, part in model.named_children() if name not in encoders}
    copied = deepcopy(model, shared)
    for name in encoders:
        encoder = copied.get_submodule(name)
        encoder.to(dtype)
        encoder.get_submodule("neck").float()
    return copied


def _image_of(encoded: EncodedImages, number: int) -> EncodedImages:
    """One image's part of a batch, as tensors of their own: a view would keep the whole batch in memory."""
    from dbsam.modeling.dbsam import EncodedImages

    parts = [tensor[number : number + 1] for tensor in (encoded.image_embedding, *encoded.high_res_features)]
    embedding, *features = parts if encoded.image_embedding.shape[0] == 1 else [part.clone() for part in parts]
    return EncodedImages(embedding, tuple(features))


def _kept(encode: Callable[..., EncodedImages]) -> Callable[..., EncodedImages]:
    """Copies the results, which CUDA graphs overwrite at the next call."""

    def encode_and_copy(*inputs: Any) -> EncodedImages:
        from dbsam.modeling.dbsam import EncodedImages

        try:
            encoded = encode(*inputs)
        except Exception as error:
            if not type(error).__module__.startswith(("torch._inductor", "torch._dynamo")):
                raise
            raise DeviceError(f"The model cannot be compiled here ({error}): leave it uncompiled.") from error
        return EncodedImages(encoded.image_embedding.clone(), tuple(each.clone() for each in encoded.high_res_features))

    return encode_and_copy
