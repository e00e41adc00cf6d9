"""The whole network, in model coordinates."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from segment_anything.modeling import PromptEncoder
from torch import Tensor, nn
from torch.nn import functional as F

from dbsam.modeling.config import DBSAMConfig, named_config
from dbsam.modeling.image_encoder import DualBranchImageEncoder, TinyViTImageEncoder
from dbsam.modeling.mask_decoder import MaskDecoder

PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)


class EncodedImages(NamedTuple):
    """What the image encoder keeps of B images.

    Attributes:
        image_embedding: (B, C, grid, grid).
        high_res_features: The convolution branch's maps, highest resolution first; empty unless the decoder reads them.
    """

    image_embedding: Tensor
    high_res_features: tuple[Tensor, ...]


class DBSAM(nn.Module):
    """Image encoder, prompt encoder and mask decoder under segment_anything's names."""

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, config: DBSAMConfig) -> None:
        super().__init__()
        self.config = config
        grid = (config.grid_size, config.grid_size)
        self.slice_encoder = TinyViTImageEncoder(named_config("medsam-lite")) if config.slice_view else None
        self.image_encoder: DualBranchImageEncoder | TinyViTImageEncoder
        if config.backbone == "tiny_vit":
            self.image_encoder = TinyViTImageEncoder(config)
        else:
            self.image_encoder = DualBranchImageEncoder(config)
        self.prompt_encoder = PromptEncoder(
            embed_dim=config.prompt_embed_dim,
            image_embedding_size=grid,
            input_image_size=(config.image_size, config.image_size),
            mask_in_chans=config.mask_in_chans,
        )
        self.mask_decoder = MaskDecoder(config)
        self.register_buffer("pixel_mean", torch.tensor(PIXEL_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(PIXEL_STD).view(3, 1, 1), persistent=False)
        self.freeze()

    def freeze(self) -> None:
        """Leave gradients only to what the configuration trains."""
        config, encoder = self.config, self.image_encoder
        self.image_encoder.requires_grad_(config.train_vit)
        encoder.neck.requires_grad_(config.train_neck)
        for adapter in encoder.adapters():
            adapter.requires_grad_(config.train_adapters)
        self.prompt_encoder.requires_grad_(config.train_prompt_encoder)
        if self.slice_encoder is not None:
            self.slice_encoder.requires_grad_(False)
        if config.trained_clicks:
            prompts = self.prompt_encoder
            exclude, include = prompts.point_embeddings[:2]  # the others are a box's corners
            for part in (exclude, include, prompts.not_a_point_embed, prompts.mask_downscaling):
                part.requires_grad_(True)

    def normalise(self, images: Tensor, valid: Tensor | None = None) -> Tensor:
        """Pixel values to network input.

        Args:
            images: (B, 3, S, S), 0..255.
            valid: (B, 1, S, S), 1 inside the slice and 0 where the region reaches beyond it; all inside if None.

        Returns:
            (B, 3, S, S), zero beyond the slice.
        """
        if self.config.pixel_norm == "sam":
            normalised = (images - self.pixel_mean) / self.pixel_std
            return normalised if valid is None else normalised * valid
        weight = torch.ones_like(images[:, :1]) if valid is None else valid
        if self.config.pixel_norm == "range":
            return _stretched(images, weight)
        count = weight.sum((1, 2, 3), keepdim=True).clamp_min(1.0) * images.shape[1]
        mean = (images * weight).sum((1, 2, 3), keepdim=True) / count
        variance = ((images - mean).square() * weight).sum((1, 2, 3), keepdim=True) / count
        # One grey value of spread at least: a flat region must not become amplified noise.
        return (images - mean) / variance.sqrt().clamp_min(1.0) * weight

    def encode_slice(self, slices: Tensor, valid: Tensor) -> Tensor:
        """The features of whole slices, of which regions are cut out; for a configuration with a `slice_view`.

        Args:
            slices: (B, 3, SLICE_SIZE, SLICE_SIZE), 0..255.
            valid: (B, 1, SLICE_SIZE, SLICE_SIZE), 1 inside the slice.

        Returns:
            (B, SLICE_CHANNELS, h, w).
        """
        assert self.slice_encoder is not None, "only a configuration with a slice view has one"
        features: Tensor = self.slice_encoder(_stretched(slices, valid))
        return features

    def encode(self, images: Tensor, valid: Tensor | None = None, seen: Tensor | None = None) -> EncodedImages:
        """Encode B images.

        Args:
            images: See `normalise`.
            valid: See `normalise`.
            seen: Their parts of `encode_slice`'s features (`slice_view.cut_out`), for a configuration with a
                `slice_view`.
        """
        embedding, features = self.image_encoder.forward_features(self.normalise(images, valid), seen)
        return EncodedImages(embedding, tuple(features) if self.config.high_res_features else ())

    def decode(
        self,
        encoded: EncodedImages,
        boxes_xyxy: Tensor,
        points_xy: Tensor | None = None,
        point_labels: Tensor | None = None,
        mask_prompt: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Decode one prompt for each of N masks.

        Args:
            encoded: Of N images, or of one image for all prompts.
            boxes_xyxy: (N, 4) in input pixels, pixel centres at integers.
            points_xy: Clicks (N, P, 2) in input pixels.
            point_labels: (N, P), 1 to include, 0 to exclude, -1 for no click.
            mask_prompt: Low-res logits of a former mask, (N, 1, h, w); scaled to the prompt encoder's mask input.

        Returns:
            Low-res logits (N, low_res_size, low_res_size) and predicted IoU (N,).
        """
        size = (self.config.mask_prompt_size, self.config.mask_prompt_size)
        if mask_prompt is None and self.config.box_mask_prompt:
            mask_prompt = self._filled_boxes(boxes_xyxy)
        elif mask_prompt is not None and mask_prompt.shape[-2:] != size:
            mask_prompt = F.interpolate(mask_prompt.float(), size, mode="bilinear", align_corners=False, antialias=True)
        points = None
        if points_xy is not None:
            assert point_labels is not None, "points have labels"
            points = (points_xy, point_labels)
        sparse, dense = self.prompt_encoder(points=points, boxes=boxes_xyxy, masks=mask_prompt)
        image_pe = self.prompt_encoder.get_dense_pe()
        return self.mask_decoder.decode(encoded.image_embedding, encoded.high_res_features, image_pe, sparse, dense)

    def forward(
        self,
        images: Tensor,
        boxes_xyxy: Tensor,
        valid: Tensor | None = None,
        correct: Callable[[Tensor], tuple[Tensor, Tensor]] | None = None,
        rounds: int = 0,
        seen: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """One box an image, with gradients: the training step's network.

        Args:
            images: (B, 3, S, S), 0..255.
            boxes_xyxy: (B, 4) in input pixels.
            valid: See `normalise`.
            correct: Returns all clicks so far, as `decode` takes them, for the low-res logits of the round before.
            rounds: How often it is asked; each round's mask prompt is the mask of the round before.
            seen: See `encode`.

        Returns:
            Low-res logits and predicted IoU of the box, followed by those of each round: ((1 + rounds) B, ...).
        """
        encoded = self.encode(images, valid, seen)
        results = [self.decode(encoded, boxes_xyxy)]
        for _ in range(rounds):
            assert correct is not None, "rounds need clicks"
            before = results[-1][0].detach()
            results.append(self.decode(encoded, boxes_xyxy, *correct(before), before.unsqueeze(1)))
        return torch.cat([logits for logits, _ in results]), torch.cat([iou for _, iou in results])

    def _filled_boxes(self, boxes_xyxy: Tensor) -> Tensor:
        """Share of each cell of the mask prompt that lies in the box, as (N, 1, 4 grid, 4 grid) between -1 and 1."""
        cells = self.config.mask_prompt_size
        step = self.config.image_size / cells
        edges = torch.arange(cells, device=boxes_xyxy.device, dtype=torch.float32) * step - 0.5
        x0, y0, x1, y1 = boxes_xyxy.float().unbind(1)

        def share(low: Tensor, high: Tensor) -> Tensor:
            upper = torch.minimum(edges + step, high[:, None])
            return (upper - torch.maximum(edges, low[:, None])).clamp_min(0.0) / step

        inside = share(y0, y1)[:, :, None] * share(x0, x1)[:, None, :]
        return inside.unsqueeze(1) * 2 - 1


def _stretched(images: Tensor, weight: Tensor) -> Tensor:
    """Pixel values so that the least and the greatest inside the slice are 0 and 1 (LiteMedSAM); 0 beyond."""
    inside = weight > 0
    low = images.masked_fill(~inside, 255.0).amin((1, 2, 3), keepdim=True)
    high = images.masked_fill(~inside, 0.0).amax((1, 2, 3), keepdim=True)
    return (images - low) / (high - low).clamp_min(1.0) * weight
