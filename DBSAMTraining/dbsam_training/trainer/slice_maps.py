"""What a frozen ViT makes of the whole slices of a store: encoded once, kept beside them, read by every step."""

from __future__ import annotations

import hashlib
import os
from copy import deepcopy

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from dbsam.modeling.dbsam import DBSAM
from dbsam.modeling.slice_view import SLICE_SIZE
from dbsam_training.store.format import MAP_SHAPE, StoreShard, TrainingStore
from dbsam_training.trainer.distributed import bfloat16_pays

ROW_BYTES = int(np.prod(MAP_SHAPE)) * np.dtype(np.float16).itemsize


def maps_name(model: DBSAM) -> str:
    """Name of the files for one encoder's weights; another encoder's maps lie in files of their own."""
    assert model.slice_encoder is not None, "only a configuration with a slice view has an encoder of slices"
    state = hashlib.sha256()
    for name, value in sorted(model.slice_encoder.state_dict().items()):
        state.update(name.encode() + value.detach().float().cpu().contiguous().numpy().tobytes())
    return f"slice_maps.{state.hexdigest()[:16]}.bin"


@torch.inference_mode()
def fill_slice_maps(store: TrainingStore, model: DBSAM, device: torch.device) -> str:
    """Encode the slices of a store that have no maps yet; goes on where an interrupted call stopped.

    Args:
        store: With slice views.
        model: It stays as it is, and where it is.
        device: Where a copy of its encoder computes, in bfloat16 where that pays.

    Returns:
        Name of the files, for `TrainingStore.batch`.

    Raises:
        OSError: A file cannot be written.
    """
    name = maps_name(model)
    missing = [shard for shard in store.shards if shard.views and not (shard.folder / name).is_file()]
    if not missing:
        return name
    lone = deepcopy(model).to(device).eval()
    assert lone.slice_encoder is not None, "see maps_name"
    if device.type != "cpu" or bfloat16_pays():
        lone.slice_encoder.to(torch.bfloat16)
        lone.slice_encoder.neck.float()
    with tqdm(total=sum(shard.views for shard in missing), desc="encoding slices", leave=False, disable=None) as bar:
        for shard in missing:
            part = shard.folder / f"{name}.part"
            with part.open("ab") as file:
                rows = file.tell() // ROW_BYTES
                file.truncate(rows * ROW_BYTES)
                bar.update(rows)
                for row in range(rows, shard.views):
                    file.write(_encoded(lone, shard, row, device).tobytes())
                    bar.update()
            os.replace(part, shard.folder / name)
    return name


def _encoded(model: DBSAM, shard: StoreShard, row: int, device: torch.device) -> NDArray[np.float16]:
    image = torch.from_numpy(shard.row("views", row)).to(device).permute(2, 0, 1)[None].float()
    height, width = shard.arrays["view_shapes"][row]
    valid = torch.zeros(1, 1, SLICE_SIZE, SLICE_SIZE, device=device)
    valid[..., :height, :width] = 1
    features: NDArray[np.float16] = model.encode_slice(image, valid)[0].half().cpu().numpy()
    return features
