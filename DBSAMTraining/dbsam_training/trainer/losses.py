"""Training losses."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

OUTSIDE_LOGIT = 20.0
"""Stands for certain background, where the region reaches beyond the slice."""


def dice_loss(probability: Tensor, target: Tensor, smooth: float = 1.0) -> Tensor:
    """Dice loss of each mask with squared denominators (Milletari et al. 2016), as MONAI's `squared_pred=True`.

    Args:
        probability: (N, H, W), 0..1.
        target: (N, H, W), 0..1.
        smooth: Pixels added above and below, which gives an empty target a gradient towards empty.

    Returns:
        (N,), 0 for a perfect mask.
    """
    overlap = (probability * target).sum((1, 2))
    total = probability.square().sum((1, 2)) + target.square().sum((1, 2))
    return 1 - (2 * overlap + smooth) / (total + smooth)


def cross_entropy_dice(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy plus Dice of each mask, the paper's loss.

    Args:
        logits: (N, H, W).
        target: (N, H, W), 0..1.

    Returns:
        (N,).
    """
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none").mean((1, 2))
    return entropy + dice_loss(logits.sigmoid(), target)


def intersection_over_union(logits: Tensor, target: Tensor) -> Tensor:
    """IoU of the thresholded masks (N,); 1 where both are empty. What the predicted-IoU head learns."""
    predicted, truth = logits > 0, target > 0.5
    union = (predicted | truth).sum((1, 2))
    overlap = (predicted & truth).sum((1, 2))
    return ((overlap + 1e-6) / (union + 1e-6)).float()


def training_loss(
    logits: Tensor, predicted_iou: Tensor, masks: Tensor, mask_valid: Tensor, iou_weight: float
) -> Tensor:
    """The loss of a batch: masks at their own resolution, plus the predicted IoU's squared error.

    Args:
        logits: Low-res logits (N, h, w); scaled to the masks' size.
        predicted_iou: (N,).
        masks: (N, H, W), 0 or 1.
        mask_valid: (N, H, W), 1 inside the slice; beyond it every prediction is right.
        iou_weight: Weight of the predicted IoU; at 0 its head is not trained at all.

    Returns:
        A scalar.
    """
    full = resize_logits(logits, masks.shape[-1])
    full = full * mask_valid - OUTSIDE_LOGIT * (1 - mask_valid)
    loss = cross_entropy_dice(full, masks).mean()
    if iou_weight == 0:
        return loss
    iou = intersection_over_union(full.detach(), masks)
    return loss + iou_weight * (predicted_iou.float() - iou).square().mean()


def resize_logits(logits: Tensor, size: int) -> Tensor:
    """Logits (N, h, w) as float32 at (N, size, size), linear."""
    if logits.shape[-1] == size:
        return logits.float()
    return F.interpolate(logits.float().unsqueeze(1), (size, size), mode="bilinear", align_corners=False)[:, 0]
