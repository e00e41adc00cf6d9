"""SAM's mask decoder for batches of images, with the option of high-resolution features."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from segment_anything.modeling import MaskDecoder as SamMaskDecoder
from segment_anything.modeling import TwoWayTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from dbsam.modeling.config import DBSAMConfig
from dbsam.modeling.convolution_branch import residual_body


class _Refinement(nn.Module):
    """Two 3x3 convolutions on a residual branch, which is the identity before training."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = residual_body(channels, 2 * channels)
        nn.init.zeros_(self.body.get_parameter("2.weight"))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class MaskDecoder(SamMaskDecoder):
    """segment_anything's decoder, which takes as many images as prompts or one image for all prompts.

    Same keys, same arithmetic. With `high_res_features` it adds a 1x1 projection of the convolution branch's maps at
    two and four times the token grid while upscaling, as SAM 2 does with its backbone's early maps; where the branch
    has a map at eight times the grid, it upscales once more. `decoder_refinement` lets convolutions follow each step.
    """

    def __init__(self, config: DBSAMConfig) -> None:
        dim = config.prompt_embed_dim
        super().__init__(
            transformer_dim=dim,
            transformer=TwoWayTransformer(
                depth=config.decoder_depth,
                embedding_dim=dim,
                num_heads=config.decoder_heads,
                mlp_dim=config.decoder_mlp_dim,
            ),
            iou_head_hidden_dim=config.iou_head_hidden_dim,
        )
        self.upscales_thrice = config.upscales_thrice
        self.high_res_projections = nn.ModuleList()
        widths = [dim // 4, dim // 8]
        if self.upscales_thrice:
            widths.append(dim // 8)
        if config.high_res_features:
            finest = [config.full_res_channels] if config.full_res_channels else []
            channels = [*finest, *config.conv_channels[:-1]][::-1]
            self.high_res_projections.extend(nn.Conv2d(c, w, 1) for c, w in zip(channels, widths, strict=False))
        if not config.train_vit:  # on a base that was trained, what is added starts as nothing
            for weight in self.high_res_projections.parameters():
                nn.init.zeros_(weight)
        self.refinements = nn.ModuleList(
            _Refinement(width) if config.decoder_refinement else nn.Identity() for width in widths
        )

    def decode(
        self,
        image_embedding: Tensor,
        high_res_features: Sequence[Tensor],
        image_pe: Tensor,
        sparse: Tensor,
        dense: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Predict one mask a prompt.

        Args:
            image_embedding: (B, C, H, W); B is the number of prompts N, or 1 for N prompts on one image.
            high_res_features: The convolution branch's maps for the same B, highest resolution first (empty without
                that branch).
            image_pe: Dense positional encoding, (1, C, H, W).
            sparse: Prompt tokens, (N, T, C).
            dense: Dense prompt, (N, C, H, W).

        Returns:
            Low-res logits (N, 4H, 4W), or (N, 8H, 8W) at full resolution, and the predicted IoU (N,).
        """
        prompts = sparse.shape[0]
        output_tokens = torch.cat([self.iou_token.weight, self.mask_tokens.weight])
        tokens = torch.cat([output_tokens.expand(prompts, -1, -1), sparse], dim=1)
        source = image_embedding + dense
        hidden, source = self.transformer(source, image_pe.expand_as(source), tokens)
        source = source.transpose(1, 2).reshape(dense.shape)
        upscaled = self._upscale(source, high_res_features)
        # The single-mask output is the first of SAM's mask tokens (multimask_output=False).
        weights = self.output_hypernetworks_mlps[0](hidden[:, 1])
        logits = torch.einsum("nc,nchw->nhw", weights, upscaled)
        return logits, self.iou_prediction_head(hidden[:, 0])[:, 0]

    def _upscale(self, source: Tensor, features: Sequence[Tensor]) -> Tensor:
        first, norm, act, second, last_act = self.output_upscaling
        source = self.refinements[0](act(norm(self._with_map(0, first(source), features))))
        source = self.refinements[1](last_act(self._with_map(1, second(source), features)))
        if self.upscales_thrice:
            source = F.interpolate(source, scale_factor=2, mode="bilinear", align_corners=False)
            source = self.refinements[2](self._with_map(2, source, features))
        return source

    def _with_map(self, step: int, source: Tensor, features: Sequence[Tensor]) -> Tensor:
        """Add the convolution branch's map of a step, if there is one; they come with the highest resolution first."""
        return source + self.high_res_projections[step](features[-1 - step]) if self.high_res_projections else source
