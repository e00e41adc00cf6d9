"""Checkpoints: what is stored, that it comes back, and that nothing wrong is ever loaded."""

import hashlib
import json
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from segment_anything import sam_model_registry

from dbsam.modeling.builder import build_model
from dbsam.modeling.config import SYSTEMS, DBSAMConfig, named_config
from dbsam.modeling.dbsam import DBSAM
from dbsam.weights.checkpoint import (
    keys_above_base,
    load_base,
    load_checkpoint,
    outline,
    pickled_system,
    read_base,
    sam_config,
    save_checkpoint,
)
from dbsam.weights.metadata import (
    METADATA_KEY,
    BaseReference,
    CheckpointError,
    CheckpointInfo,
    DatasetCredit,
    read_info,
)

TINY = replace(
    named_config("dbsam"),
    image_size=64,
    embed_dim=24,
    depth=2,
    num_heads=2,
    window_size=2,
    global_attn_indexes=(1,),
    squeeze_ratio=4,
    stage_ends=(0, 1),
    deformable_heads=2,
    fusion_ratio=4,
    conv_image_size=16,
    conv_channels=(4, 8),
    prompt_embed_dim=32,
    decoder_heads=2,
    decoder_mlp_dim=16,
    iou_head_hidden_dim=16,
)
SMALLER = replace(TINY, embed_dim=48)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DBSAM_CACHE", str(tmp_path / "cache"))


def new_model(config: DBSAMConfig, seed: int = 0) -> DBSAM:
    """A network whose every weight is random, the zero-initialised ones and running statistics too."""
    torch.manual_seed(seed)
    model = build_model(config)
    for value in model.state_dict().values():
        if value.is_floating_point():
            value.copy_(torch.randn(value.shape))
    return model


def whole_info(config: DBSAMConfig, base: BaseReference | None = None) -> CheckpointInfo:
    return CheckpointInfo(
        name="tiny",
        version="1.0",
        config=config,
        licence="Apache-2.0",
        date="2025-01-31",
        base=base,
        datasets=(DatasetCredit("Phantoms", "CC0-1.0", "https://example.org/phantoms", 12),),
        recipe={"learning_rate": 1e-4, "epochs": 12},
        metrics={"Phantoms": {"dsc": 0.9}},
    )


def assert_same_weights(model: DBSAM, other: DBSAM) -> None:
    assert model.state_dict().keys() == other.state_dict().keys()
    different = [key for key, value in model.state_dict().items() if not torch.equal(value, other.state_dict()[key])]
    assert different == []


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    path = tmp_path / "whole.safetensors"
    save_checkpoint(path, new_model(TINY), whole_info(TINY))
    return path


@pytest.fixture
def base(tmp_path: Path) -> Path:
    path = tmp_path / "base.pth"
    torch.save(new_model(sam_config(TINY), seed=1).state_dict(), path)
    return path


@pytest.fixture
def above_base(tmp_path: Path, base: Path) -> tuple[Path, DBSAM]:
    model = new_model(TINY, seed=2)
    sha256 = load_base(model, base)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(1.0)
    path = tmp_path / "above.safetensors"
    save_checkpoint(path, model, whole_info(TINY, BaseReference("tiny-sam", sha256)))
    return path, model


def test_a_whole_checkpoint_comes_back_bit_for_bit(whole: Path) -> None:
    model, info = load_checkpoint(whole)
    assert_same_weights(model, new_model(TINY))
    assert not model.training
    assert model.config == info.config == TINY


def test_the_header_is_read_without_the_weights_and_without_torch(whole: Path) -> None:
    expected = whole_info(TINY)
    assert replace(read_info(whole), tensors_sha256="") == expected
    code = (
        "import sys; from dbsam.weights.metadata import read_info;"
        f"print(read_info({str(whole)!r}).name, 'torch' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["tiny", "False"]


def test_the_same_content_gives_the_same_bytes_in_another_process(whole: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.safetensors"
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]);"
        "from test_checkpoint import *;"
        "save_checkpoint(sys.argv[2], new_model(TINY), whole_info(TINY))"
    )
    subprocess.run([sys.executable, "-c", code, str(Path(__file__).parent), str(again)], check=True)
    assert hashlib.sha256(again.read_bytes()).hexdigest() == hashlib.sha256(whole.read_bytes()).hexdigest()


def test_half_precision_rounds_matrices_and_keeps_vectors(tmp_path: Path) -> None:
    model = new_model(TINY)
    save_checkpoint(tmp_path / "half.safetensors", model, whole_info(TINY), half=True)
    loaded = load_checkpoint(tmp_path / "half.safetensors")[0].state_dict()
    parameters = dict(model.named_parameters())
    for key, value in model.state_dict().items():
        rounded = key in parameters and value.dim() > 1
        assert torch.equal(loaded[key], value.half().float() if rounded else value), key
        assert loaded[key].dtype == value.dtype


def test_half_precision_halves_the_file(whole: Path, tmp_path: Path) -> None:
    half = tmp_path / "half.safetensors"
    save_checkpoint(half, new_model(TINY), whole_info(TINY), half=True)
    assert half.stat().st_size < 0.7 * whole.stat().st_size


def test_a_weight_too_large_for_16_bits_is_refused(tmp_path: Path) -> None:
    model = new_model(TINY)
    with torch.no_grad():
        model.image_encoder.patch_embed.proj.weight[0, 0, 0, 0] = 1e5
    with pytest.raises(ValueError, match=r"image_encoder\.patch_embed\.proj\.weight reaches 1e\+05"):
        save_checkpoint(tmp_path / "x.safetensors", model, whole_info(TINY), half=True)
    assert list(tmp_path.glob("*x.safetensors*")) == []


def test_a_diverged_network_is_refused_and_the_older_file_stays(whole: Path) -> None:
    before = whole.read_bytes()
    model = new_model(TINY)
    with torch.no_grad():
        model.image_encoder.patch_embed.proj.bias[0] = float("nan")
    with pytest.raises(ValueError, match=r"patch_embed\.proj\.bias is not finite"):
        save_checkpoint(whole, model, whole_info(TINY))
    assert whole.read_bytes() == before


def test_provenance_that_is_not_json_is_refused_and_no_file_is_left(tmp_path: Path) -> None:
    info = replace(whole_info(TINY), metrics={"dsc": float("nan")})
    with pytest.raises(ValueError, match="provenance of tiny cannot be written as JSON"):
        save_checkpoint(tmp_path / "x.safetensors", new_model(TINY), info)
    assert list(tmp_path.glob("*x.safetensors*")) == []


def test_provenance_of_another_architecture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="embed_dim is 48, not 24"):
        save_checkpoint(tmp_path / "x.safetensors", new_model(TINY), whole_info(SMALLER))


def test_only_what_was_trained_is_stored_above_a_base(above_base: tuple[Path, DBSAM]) -> None:
    path, model = above_base
    with safe_open(path, framework="pt") as file:
        stored = set(file.keys())
    frozen = {key for key in model.state_dict() if key.startswith("prompt_encoder.")}
    frozen |= {key for key in sam_keys(TINY) if key.startswith("image_encoder.") and ".neck." not in key}
    assert stored == model.state_dict().keys() - frozen
    assert any("running_var" in key for key in stored)


def sam_keys(config: DBSAMConfig) -> set[str]:
    return set(outline(sam_config(config)).state_dict())


def test_a_checkpoint_and_its_base_make_the_whole_network(above_base: tuple[Path, DBSAM], base: Path) -> None:
    path, model = above_base
    assert_same_weights(load_checkpoint(path, base)[0], model)


def test_every_system_is_its_base_and_what_is_stored_above_it() -> None:
    for name in sorted(SYSTEMS.keys() - {"compact"}):
        config = named_config(name)
        assert keys_above_base(config) | sam_keys(config) == outline(config).state_dict().keys(), name


def test_a_missing_base_is_named(above_base: tuple[Path, DBSAM], base: Path) -> None:
    digest = hashlib.sha256(base.read_bytes()).hexdigest()
    with pytest.raises(CheckpointError, match=f"needs the weights 'tiny-sam' with SHA-256 {digest}"):
        load_checkpoint(above_base[0])
    with pytest.raises(CheckpointError, match=r"no base weights file .*nowhere\.pth"):
        load_checkpoint(above_base[0], base.with_name("nowhere.pth"))


def test_a_base_with_another_digest_is_refused_with_both_digests(above_base: tuple[Path, DBSAM], base: Path) -> None:
    wanted = hashlib.sha256(base.read_bytes()).hexdigest()
    torch.save(new_model(sam_config(TINY), seed=9).state_dict(), base)
    seen = hashlib.sha256(base.read_bytes()).hexdigest()
    with pytest.raises(CheckpointError, match=f"SHA-256 is {seen}, and {wanted} is wanted"):
        load_checkpoint(above_base[0], base)


def test_a_base_of_other_sizes_leaves_the_network_as_it_was(base: Path) -> None:
    model = new_model(SMALLER)
    with pytest.raises(CheckpointError, match=r"another shape \(image_encoder\..* is \(.*24.*\), not \(.*48.*\)"):
        load_base(model, base)
    assert_same_weights(model, new_model(SMALLER))


def test_another_architecture_than_the_one_asked_for_is_refused(whole: Path) -> None:
    with pytest.raises(CheckpointError, match="embed_dim is 24, not 48"):
        load_checkpoint(whole, expected_config=SMALLER)


@pytest.mark.parametrize("kept", [0, 4, 200, 0.5, -1])
def test_a_truncated_checkpoint_is_refused(whole: Path, kept: float) -> None:
    content = whole.read_bytes()
    whole.write_bytes(content[: int(kept * len(content)) if isinstance(kept, float) else kept])
    with pytest.raises(CheckpointError, match="truncated or not a safetensors file"):
        load_checkpoint(whole)


def test_one_flipped_bit_in_the_weights_is_found(whole: Path) -> None:
    content = bytearray(whole.read_bytes())
    content[-100] ^= 1
    whole.write_bytes(content)
    with pytest.raises(CheckpointError, match="is damaged: the SHA-256 of its weights is"):
        load_checkpoint(whole)


def test_a_missing_file_and_a_folder_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="There is no weights file"):
        load_checkpoint(tmp_path / "nowhere.safetensors")
    with pytest.raises(CheckpointError, match="is a folder"):
        load_checkpoint(tmp_path)


def test_a_safetensors_file_of_another_program_is_refused(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="of another program: its header has no 'dbsam' entry"):
        load_checkpoint(tmp_path / "other.safetensors")


def rewritten(path: Path, tensors: dict[str, torch.Tensor] | None = None, **fields: object) -> Path:
    """Writes a checkpoint again with other weights or header fields."""
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["dbsam"]) | fields
        kept = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
    save_file(kept if tensors is None else tensors, path, metadata={"dbsam": json.dumps(header)})
    return path


def test_a_header_of_a_newer_format_asks_for_an_update(whole: Path) -> None:
    with pytest.raises(CheckpointError, match="checkpoint format 2, and this version of dbsam reads 1: update dbsam"):
        read_info(rewritten(whole, format_version=2))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"config": {"telepathy": True}}, r"Unknown model settings \['telepathy'\]"),
        ({"config": 3}, "damaged or foreign header"),
        ({"datasets": [{"licence": "?"}]}, "damaged or foreign header"),
        ({"base": {"sha256": "0"}}, "damaged or foreign header"),
    ],
)
def test_a_damaged_header_is_refused(whole: Path, fields: dict[str, object], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_info(rewritten(whole, **fields))


def test_missing_unexpected_and_reshaped_weights_are_all_named(whole: Path) -> None:
    tensors = dict(new_model(TINY).state_dict())
    del tensors["image_encoder.pos_embed"]
    tensors["head.weight"] = torch.zeros(1)
    tensors["mask_decoder.iou_token.weight"] = torch.zeros(1, 5)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(rewritten(whole, tensors))
    message = str(caught.value)
    assert "1 weights are missing (image_encoder.pos_embed)" in message
    assert "1 weights have no place (head.weight)" in message
    assert "mask_decoder.iou_token.weight is (1, 5), not (1, 32)" in message


class Harmful:
    """Unpickling it would run code."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (pytest.fail, ("code from a weights file was run",))


def test_code_in_a_pth_file_is_not_run(tmp_path: Path) -> None:
    path = tmp_path / "harmful.pth"
    torch.save({"weight": Harmful()}, path)
    with pytest.raises(CheckpointError, match="what else is in it is not executed"):
        read_base(path, TINY)


def test_a_truncated_pth_file_is_refused(base: Path) -> None:
    base.write_bytes(base.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match=rf"base.pth \({base.stat().st_size:,} bytes\)"):
        read_base(base, TINY)


@pytest.mark.parametrize(
    "content", [b"", b"<html>log in first</html>", pickle.dumps([1, 2], 2)], ids=["empty", "page", "list"]
)
def test_a_pth_file_that_is_none_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "page.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"page\.pth"):
        read_base(path, TINY)


@pytest.mark.parametrize(
    ("state", "entries"),
    [
        ({"model": {}, "epoch": 3}, "model, epoch"),
        ({"model": {"a": torch.ones(1)}, "state_dict": {"a": torch.ones(1)}}, "model, state_dict"),
        ({"epoch": 3, "optimizer": {"state": {}}}, "epoch, optimizer"),
    ],
    ids=["empty", "two", "none"],
)
def test_a_training_state_without_one_set_of_weights_is_refused(tmp_path: Path, state: object, entries: str) -> None:
    path = tmp_path / "state.pth"
    torch.save(state, path)
    with pytest.raises(CheckpointError, match=f"holds a dict with the entries {entries}, not a state dict"):
        read_base(path, TINY)


@pytest.mark.parametrize("name", ["model", "state_dict", "model_state_dict"])
@pytest.mark.parametrize("prefix", ["", "module.", "module._orig_mod.", "model."])
def test_the_weights_in_a_trainers_checkpoint_are_found(base: Path, tmp_path: Path, name: str, prefix: str) -> None:
    """As MedSAM's trainers save them: beside the optimizer, under the prefixes of what wraps the network."""
    weights = torch.load(base, weights_only=True)
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.ones(2))])
    wrapped = {f"{prefix}{key}": value for key, value in weights.items()}
    path = tmp_path / "medsam_model_latest.pth"
    torch.save({name: wrapped, "optimizer": optimizer.state_dict(), "epoch": 7, "best_loss": 0.1}, path)
    found = read_base(path, TINY)
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[key], value) for key, value in weights.items())
    assert (pickled_system(path), pickled_system(base)) == ("medsam", "sam")


def test_a_header_nested_without_end_is_refused(whole: Path) -> None:
    depth = 200_000
    metadata = {METADATA_KEY: "[" * depth + "]" * depth}
    save_file(load_file(whole), whole, metadata)
    with pytest.raises(CheckpointError, match="damaged or foreign header"):
        read_info(whole)


def test_sam_has_the_keys_and_shapes_of_segment_anything() -> None:
    with torch.device("meta"):
        theirs = sam_model_registry["vit_b"]().state_dict()
    ours = outline(named_config("sam")).state_dict()
    assert {key: value.shape for key, value in ours.items()} == {key: value.shape for key, value in theirs.items()}
