"""The whole network, in model coordinates."""

from __future__ import annotations

from typing import NamedTuple

import torch
from segment_anything.modeling import PromptEncoder
from torch import Tensor, nn

from dbsam.modeling.config import DBSAMConfig
from dbsam.modeling.image_encoder import DualBranchImageEncoder
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
        count = weight.sum((1, 2, 3), keepdim=True).clamp_min(1.0) * images.shape[1]
        mean = (images * weight).sum((1, 2, 3), keepdim=True) / count
        variance = ((images - mean).square() * weight).sum((1, 2, 3), keepdim=True) / count
        # One grey value of spread at least: a flat region must not become amplified noise.
        return (images - mean) / variance.sqrt().clamp_min(1.0) * weight

    def encode(self, images: Tensor, valid: Tensor | None = None) -> EncodedImages:
        """Encode B images, see `normalise` for the arguments."""
        embedding, features = self.image_encoder.forward_features(self.normalise(images, valid))
        return EncodedImages(embedding, tuple(features) if self.config.high_res_features else ())

    def decode(self, encoded: EncodedImages, boxes_xyxy: Tensor) -> tuple[Tensor, Tensor]:
        """Decode one box prompt for each of N masks.

        Args:
            encoded: Of N images, or of one image for all boxes.
            boxes_xyxy: (N, 4) in input pixels, pixel centres at integers.

        Returns:
            Low-res logits (N, low_res_size, low_res_size) and predicted IoU (N,).
        """
        masks = self._filled_boxes(boxes_xyxy) if self.config.box_mask_prompt else None
        sparse, dense = self.prompt_encoder(points=None, boxes=boxes_xyxy, masks=masks)
        image_pe = self.prompt_encoder.get_dense_pe()
        return self.mask_decoder.decode(encoded.image_embedding, encoded.high_res_features, image_pe, sparse, dense)

    def forward(self, images: Tensor, boxes_xyxy: Tensor, valid: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """One box an image, with gradients: the training step's network."""
        return self.decode(self.encode(images, valid), boxes_xyxy)

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
