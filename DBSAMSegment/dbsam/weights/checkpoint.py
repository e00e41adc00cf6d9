"""Writes and reads checkpoints; nothing reaches a network before everything has been checked.

A checkpoint of a system whose ViT branch is SAM's holds only what was trained and names its base; any other is whole.
"""

from __future__ import annotations

import hashlib
import logging
import pickle
import zipfile
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from dbsam.io.files import atomic_path
from dbsam.modeling.builder import build_model
from dbsam.modeling.config import DBSAMConfig
from dbsam.modeling.dbsam import DBSAM
from dbsam.progress import CancelToken, ProgressCallback
from dbsam.weights.cache_dir import remembered_digest
from dbsam.weights.metadata import CheckpointError, CheckpointInfo, read_info, unreadable

logger = logging.getLogger(__name__)

_SHOWN_KEYS = 3
_TINY_VIT_KEYS = "image_encoder.patch_embed.seq."
_STATE_DICTS = ("model", "state_dict", "model_state_dict", "net", "weights")
"""Under which trainers keep the network's weights; MedSAM's under the first."""
_WRAPPERS = ("module.", "_orig_mod.", "model.", "sam.", "medsam_model.")


def sam_config(config: DBSAMConfig) -> DBSAMConfig:
    """The plain SAM inside a system: same sizes, nothing added."""
    return replace(
        config,
        channel_attention="none",
        bilateral=False,
        fusion=False,
        high_res_features=False,
        decoder_refinement=False,
        full_res_channels=0,
        slice_view=False,
    )


def outline(config: DBSAMConfig) -> DBSAM:
    """A network of shapes without values, for counting and checking."""
    with torch.device("meta"):
        return build_model(config)


def keys_above_base(config: DBSAMConfig) -> set[str]:
    """Keys of the state dict that a base does not provide: what is trained, and what is not SAM's."""
    model = outline(config)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    return trained | keys_beyond_sam(config)


def keys_beyond_sam(config: DBSAMConfig) -> set[str]:
    """Keys of the state dict that a SAM of the same sizes does not have."""
    return outline(config).state_dict().keys() - outline(sam_config(config)).state_dict().keys()


def slice_view_keys(config: DBSAMConfig) -> set[str]:
    """Keys of the state dict that belong to the view of the whole slice; none without one."""
    without = replace(config, slice_view=False)
    return outline(config).state_dict().keys() - outline(without).state_dict().keys()


def save_checkpoint(path: Path | str, model: DBSAM, info: CheckpointInfo, half: bool = False) -> CheckpointInfo:
    """Write a checkpoint, in one step: `path` holds the whole new file or what it held before.

    The same weights and info give the same bytes.

    Args:
        path: The file, usually `NAME.safetensors`; its folder is made.
        model: The network; its values are stored on the CPU.
        info: Provenance. With a base, only what was trained is stored; without, everything.
        half: Store matrices and kernels as 16-bit floats. Vectors and running statistics, which are small and
            sensitive, keep their precision.

    Returns:
        `info` with the digest of the stored weights.

    Raises:
        ValueError: `info` describes another architecture, a weight is not finite, or one is too large for 16 bits.
        OSError: The file cannot be written.
    """
    path = Path(path)
    if info.config != model.config:
        raise ValueError(
            "The provenance describes another architecture than the network's: "
            f"{_differences(info.config, model.config)}."
        )
    tensors = _stored_tensors(model, info, half)
    info = replace(info, tensors_sha256=_tensors_sha256(tensors))
    with atomic_path(path) as temporary:
        try:
            # safetensors' own files could be read by their owner alone
            temporary.write_bytes(save(tensors, metadata=info.to_metadata()))
        except SafetensorError as error:
            raise OSError(f"Cannot write {path}: {error}") from error
    return info


def stored_digest(model: DBSAM, info: CheckpointInfo, half: bool = False) -> str:
    """The digest of the weights that `save_checkpoint` would store.

    Raises:
        ValueError: A weight is not finite, or too large for 16 bits.
    """
    return _tensors_sha256(_stored_tensors(model, info, half))


def _stored_tensors(model: DBSAM, info: CheckpointInfo, half: bool) -> dict[str, Tensor]:
    parameters = {name for name, _ in model.named_parameters()}
    keys = keys_above_base(model.config) if info.base else model.state_dict().keys()
    return {
        key: _stored(key, value, half and key in parameters)
        for key, value in sorted(model.state_dict().items())
        if key in keys
    }


def load_checkpoint(
    path: Path | str,
    base: Path | str | None = None,
    expected_config: DBSAMConfig | None = None,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
) -> tuple[DBSAM, CheckpointInfo]:
    """Build the network that a checkpoint describes, with its weights, on the CPU, in evaluation mode.

    Args:
        path: The checkpoint.
        base: The base's file, which a checkpoint that holds only what was trained needs.
        expected_config: Refuse another architecture than this one.
        progress: Called while the base's digest is computed.
        cancel: Ends that computation.

    Raises:
        CheckpointError: The file, its base, or one of their weights is not what it should be.
        Cancelled: `cancel` was cancelled.
    """
    path = Path(path)
    info = read_info(path)
    if expected_config is not None and info.config != expected_config:
        raise CheckpointError(
            f"{path} holds another architecture than the one asked for: {_differences(info.config, expected_config)}. "
            "Choose a checkpoint of the same system, or use the configuration in the file."
        )
    expected = outline(info.config).state_dict()
    stored_keys = keys_above_base(info.config) if info.base else expected.keys()
    tensors = _read_safetensors(path)
    _check_tensors(tensors, {key: expected[key] for key in stored_keys}, path, f"the system {info.config.system!r}")
    digest = _tensors_sha256(tensors)
    if digest != info.tensors_sha256:
        raise CheckpointError(
            f"{path} is damaged: the SHA-256 of its weights is {digest}, and its header says {info.tensors_sha256}. "
            "Copy, export or download it again."
        )
    if info.base is not None:
        if base is None:
            raise CheckpointError(
                f"{path} holds only what was trained and needs the weights {info.base.name!r} with SHA-256 "
                f"{info.base.sha256}: name their file as the base."
            )
        below = read_base(base, info.config, info.base.sha256, progress, cancel)
        tensors = below | tensors
        _check_tensors(tensors, expected, path, f"the system {info.config.system!r} with its base {base}")
    model = build_model(info.config)
    model.load_state_dict(tensors)
    return model.eval(), info


def load_sam(path: Path | str, config: DBSAMConfig) -> DBSAM:
    """Build a plain SAM with the weights of a `.pth` file, on the CPU, in evaluation mode.

    Args:
        path: SAM's or MedSAM's file.
        config: An architecture without adapters.

    Raises:
        CheckpointError: The file is not one of weights of that architecture.
    """
    assert config == sam_config(config), "only a SAM without adapters is whole in a .pth file"
    tensors = read_base(path, config)
    model = build_model(config)
    model.load_state_dict(tensors)
    return model.eval()


def load_base(model: DBSAM, path: Path | str, expected_sha256: str | None = None) -> str:
    """Put SAM's weights into a network, under the parts that are not SAM's; how a training starts.

    Args:
        model: The network; unchanged if anything is wrong.
        path: SAM's or MedSAM's `.pth` file.
        expected_sha256: Refuse a file of another digest.

    Returns:
        SHA-256 of the file, for the checkpoint's `BaseReference`.

    Raises:
        CheckpointError: The file's weights are not a SAM's of the network's sizes.
    """
    tensors = read_base(path, model.config, expected_sha256)
    model.load_state_dict(tensors, strict=False)
    return remembered_digest(Path(path), "sha256")


def pickled_system(path: Path) -> str:
    """The system that a `.pth` file of unknown origin is taken for.

    Its keys tell SAM's from LiteMedSAM's architecture. Of SAM's, what a trainer saved (a dict with the state dict
    inside) is MedSAM's way, which sees slices stretched to the square; a bare state dict is SAM's own.

    Raises:
        CheckpointError: It is not a file of weights.
    """
    state = _load_pickle(path)
    tensors = _state_dict(state, path)
    if any(key.startswith(_TINY_VIT_KEYS) for key in tensors):
        return "medsam-lite"
    return "sam" if _is_state_dict(state) else "medsam"


def read_base(
    path: Path | str,
    config: DBSAMConfig,
    expected_sha256: str | None = None,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
) -> dict[str, Tensor]:
    """The weights of a SAM of the sizes in `config`, strictly: no key more, no key less.

    Args:
        path: A `.pth` file of segment_anything's keys.
        config: The architecture that stands on it.
        expected_sha256: Refuse a file of another digest.
        progress: Called while the digest is computed.
        cancel: Ends that computation.

    Raises:
        CheckpointError: The file has another digest, or is not such a file.
        Cancelled: `cancel` was cancelled.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"There is no base weights file {path}.")
    if expected_sha256 is not None:
        seen = remembered_digest(path, "sha256", progress, cancel)
        if seen != expected_sha256:
            raise CheckpointError(
                f"{path} is another base than the one needed: its SHA-256 is {seen}, and {expected_sha256} is wanted. "
                "Name the file with that digest."
            )
    tensors = _state_dict(_load_pickle(path), path)
    _check_tensors(tensors, outline(sam_config(config)).state_dict(), path, "a SAM of these sizes")
    return tensors


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise unreadable(path, error) from error


def _load_pickle(path: Path) -> object:
    """What torch.save wrote, without running code from it."""
    try:
        # Mapped, a zip archive is not held in memory beside the network it is copied to; torch 2.1 maps no Path.
        return torch.load(str(path), map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} is not a file of plain weights, and what else is in it is not executed: {_first_line(error)} "
            "Use the file as its authors published it."
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        size = f"{path.stat().st_size:,} bytes" if path.exists() else "missing"
        raise CheckpointError(
            f"{path} ({size}) is truncated or not a file of PyTorch weights: {_first_line(error)} Download it again."
        ) from error


def _state_dict(state: object, path: Path) -> dict[str, Tensor]:
    """The network's weights in what a file holds.

    Raises:
        CheckpointError: There are none, or several.
    """
    inner = _state_dict_in(state)
    if inner is None:
        keys = f" with the entries {_some(state)}" if isinstance(state, Mapping) else ""
        raise CheckpointError(
            f"{path} holds a {type(state).__name__}{keys}, not a state dict of tensors: export the network's weights "
            "alone."
        )
    return inner


def _state_dict_in(state: object) -> dict[str, Tensor] | None:
    """The state dict that a file holds alone, or in a training's checkpoint beside optimizer and counters.

    Prefixes that wrappers (data parallel, compiled, Lightning) put before every key are taken away.
    """
    if not isinstance(state, Mapping):
        return None
    if not _is_state_dict(state):
        inside = [value for name, value in state.items() if name in _STATE_DICTS and value and _is_state_dict(value)]
        if len(inside) != 1:
            return None
        return _state_dict_in(inside[0])
    tensors = {str(key): value for key, value in state.items()}
    while prefix := next((p for p in _WRAPPERS if tensors and all(key.startswith(p) for key in tensors)), None):
        tensors = {key.removeprefix(prefix): value for key, value in tensors.items()}
    return tensors


def _is_state_dict(value: object) -> bool:
    return isinstance(value, Mapping) and all(isinstance(tensor, Tensor) for tensor in value.values())


def _check_tensors(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: Path, what: str) -> None:
    """Compare keys and shapes with those of `what`.

    Raises:
        CheckpointError: They differ.
    """
    faults = []
    if missing := sorted(expected.keys() - tensors.keys()):
        faults.append(f"{len(missing)} weights are missing ({_some(missing)})")
    if unexpected := sorted(tensors.keys() - expected.keys()):
        faults.append(f"{len(unexpected)} weights have no place ({_some(unexpected)})")
    shared = sorted(expected.keys() & tensors.keys())
    reshaped = [
        f"{key} is {tuple(tensors[key].shape)}, not {tuple(expected[key].shape)}"
        for key in shared
        if tensors[key].shape != expected[key].shape
    ]
    if reshaped:
        faults.append(f"{len(reshaped)} weights have another shape ({_some(reshaped)})")
    retyped = [key for key in shared if tensors[key].is_floating_point() != expected[key].is_floating_point()]
    if retyped:
        faults.append(f"{len(retyped)} weights have another type ({_some(retyped)})")
    if faults:
        raise CheckpointError(
            f"{path} is of another architecture than {what}: {'; '.join(faults)}. Choose a file of that architecture."
        )


def _stored(key: str, value: Tensor, half: bool) -> Tensor:
    """A weight as it is stored.

    Raises:
        ValueError: It is not finite, or not finite in 16 bits.
    """
    value = value.detach().cpu().contiguous()
    if not value.is_floating_point():
        return value
    if not torch.isfinite(value).all():
        raise ValueError(f"The weight {key} is not finite: the training diverged, and its checkpoint is of no use.")
    if not half or value.dim() < 2:
        return value
    stored = value.half()
    if not torch.isfinite(stored).all():
        raise ValueError(
            f"The weight {key} reaches {float(value.abs().max()):.3g}, above what 16 bits hold (65504): save without "
            "half."
        )
    return stored


def _tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    state = hashlib.sha256()
    for key in sorted(tensors):
        tensor = tensors[key].contiguous()
        state.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        state.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return state.hexdigest()


def _differences(found: DBSAMConfig, wanted: DBSAMConfig) -> str:
    other = wanted.to_dict()
    return ", ".join(
        f"{key} is {value!r}, not {other[key]!r}" for key, value in found.to_dict().items() if value != other[key]
    )


def _some(names: Collection[str]) -> str:
    shown = ", ".join(str(name) for name in list(names)[:_SHOWN_KEYS])
    return shown if len(names) <= _SHOWN_KEYS else f"{shown}, ..."


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{text[0].rstrip('.')}." if text else f"{type(error).__name__}."
