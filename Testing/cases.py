"""Small cases for tests of files and commands: a bright block in a volume, its ROI, and tiny weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from dbsam.geometry.grid import ImageGeometry, OrientedBox

# I, J, K run along R, P, S; 2 mm between slices.
GEOMETRY = ImageGeometry(
    np.array([[1.0, 0.0, 0.0, -10.0], [0.0, -1.0, 0.0, 30.0], [0.0, 0.0, 2.0, 5.0], [0.0, 0.0, 0.0, 1.0]]), (24, 20, 8)
)
BLOCK_IJK = ((6, 5, 2), (13, 10, 5))
"""The bright voxels, both ends included: 8 x 6 x 4."""


def block_voxels() -> np.ndarray:
    """(K, J, I) int16: 200 in the block, 10 elsewhere."""
    voxels = np.full(GEOMETRY.shape_KJI, 10, np.int16)
    voxels[2:6, 5:11, 6:14] = 200
    return voxels


def roi_box(margin_voxels: int = 2) -> OrientedBox:
    """The box round the block."""
    (i0, j0, k0), (i1, j1, k1) = BLOCK_IJK
    margin = margin_voxels
    return OrientedBox.from_ijk((i0 - margin, j0 - margin, k0), (i1 + margin, j1 + margin, k1), GEOMETRY)


def write_tiny_weights(path: Path, **changes: object) -> None:
    """A checkpoint of the compact design, or one changed by fields, with random weights, loaded in a moment."""
    import torch

    from dbsam.modeling.builder import build_model
    from dbsam.modeling.config import named_config
    from dbsam.weights.checkpoint import save_checkpoint
    from dbsam.weights.metadata import CheckpointInfo

    config = replace(
        named_config("compact"),
        image_size=32,
        patch_size=8,
        embed_dim=24,
        depth=2,
        num_heads=2,
        window_size=4,
        global_attn_indexes=(1,),
        stage_ends=(1,),
        deformable_heads=2,
        conv_image_size=32,
        conv_channels=(8, 8, 8),
        prompt_embed_dim=32,
        decoder_heads=2,
        decoder_mlp_dim=16,
        iou_head_hidden_dim=16,
        **changes,  # type: ignore[arg-type]
    )
    torch.manual_seed(0)
    info = CheckpointInfo("tiny", "1.0", config, "Apache-2.0", "2026-01-31")
    save_checkpoint(path, build_model(config), info)


def write_case(folder: Path, roi_name: str = "block") -> tuple[Path, Path]:
    """Write the volume and its ROI file."""
    from dbsam.io.images import write_volume
    from dbsam.io.roi_markups import MarkupsRoi, write_roi

    volume, roi = folder / "volume.nrrd", folder / f"{roi_name}.mrk.json"
    write_volume(volume, block_voxels(), GEOMETRY)
    write_roi(roi, MarkupsRoi(roi_name, roi_box(), color_rgb=(1.0, 0.5, 0.0)))
    return volume, roi


def truth_KJI() -> np.ndarray:
    """(K, J, I) uint8: 1 in the block."""
    return (block_voxels() == 200).astype(np.uint8)
