"""SAM's mask decoder for batches of images, with the option of high-resolution features."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from segment_anything.modeling import MaskDecoder as SamMaskDecoder
from segment_anything.modeling import TwoWayTransformer
from torch import Tensor, nn

from dbsam.modeling.config import DBSAMConfig


class MaskDecoder(SamMaskDecoder):
    """segment_anything's decoder, which takes as many images as prompts or one image for all prompts.

    Same keys, same arithmetic. With `high_res_features` it adds a 1x1 projection of the convolution branch's maps at
    two and four times the token grid while upscaling, as SAM 2 does with its backbone's early maps.
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
        self.high_res_projections: nn.ModuleList | None = None
        if config.high_res_features:
            finer, coarser = config.conv_channels[-3], config.conv_channels[-2]
            self.high_res_projections = nn.ModuleList(
                [nn.Conv2d(coarser, dim // 4, 1), nn.Conv2d(finer, dim // 8, 1)]
            )

    def decode(
        self, image_embedding: Tensor, maps: Sequence[Tensor], image_pe: Tensor, sparse: Tensor, dense: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Predict one mask a prompt.

        Args:
            image_embedding: (B, C, H, W); B is the number of prompts N, or 1 for N prompts on one image.
            maps: The convolution branch's maps for the same B, highest resolution first (empty without that branch).
            image_pe: Dense positional encoding, (1, C, H, W).
            sparse: Prompt tokens, (N, T, C).
            dense: Dense prompt, (N, C, H, W).

        Returns:
            Low-res logits (N, 4H, 4W) and the predicted IoU (N,).
        """
        prompts = sparse.shape[0]
        output_tokens = torch.cat([self.iou_token.weight, self.mask_tokens.weight])
        tokens = torch.cat([output_tokens.expand(prompts, -1, -1), sparse], dim=1)
        source = image_embedding + dense
        hidden, source = self.transformer(source, image_pe.expand_as(source), tokens)
        source = source.transpose(1, 2).reshape(dense.shape)
        upscaled = self._upscale(source, maps)
        # The single-mask output is the first of SAM's mask tokens (multimask_output=False).
        weights = self.output_hypernetworks_mlps[0](hidden[:, 1])
        logits = torch.einsum("nc,nchw->nhw", weights, upscaled)
        return logits, self.iou_prediction_head(hidden[:, 0])[:, 0]

    def _upscale(self, source: Tensor, maps: Sequence[Tensor]) -> Tensor:
        if self.high_res_projections is None:
            return self.output_upscaling(source)
        first, norm, act, second, last_act = self.output_upscaling
        source = act(norm(first(source) + self.high_res_projections[0](maps[-1])))
        return last_act(second(source) + self.high_res_projections[1](maps[-2]))
