"""What does DB-SAM ViT-B cost on a GPU: encoding beside segment_anything's encoder, and a training step?

    python benchmarks/gpu.py encode
    python benchmarks/gpu.py train

Random weights and images. "SAM" is segment_anything's encoder as it is, in the float32 that it comes in and under
autocast; ours computes as `load_predictor` does, "compiled" as with its `compiled=True` or the recipes' `run.compiled`.
Arithmetic is the network's, counted once: what a kernel pads or computes again is none. Each batch
size runs for about a second; one that memory does not hold is left out.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple
from unittest import mock

import torch
from encoder_vs_sam import in_bfloat16, with_stock_encoder
from timing import flops_of, matrix_rate, once, peak_memory_mb, print_table, random_model
from torch import Tensor
from training_step import Step

from dbsam.modeling import sam_attention
from dbsam.modeling.dbsam import DBSAM

ROUNDS = 3


class Key(NamedTuple):
    """A row of a table: who, in which precision, how many images at once."""

    name: str
    precision: str
    batch: int


@dataclass(frozen=True)
class Measured:
    """What a case took.

    Attributes:
        seconds: Median of its calls.
        rate: Images a second.
        memory_mb: The most memory while it ran.
    """

    seconds: float
    rate: float
    memory_mb: float


def main() -> None:
    """Print one of the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("encode", "train"))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--image-size", type=int, default=1024)
    parser.add_argument("--depth", type=int, default=12, help="blocks of the ViT: fewer only to try the script out")
    parser.add_argument("--batches", type=int, nargs="+", help="images of one call")
    parser.add_argument("--stock-batches", type=int, nargs="+", default=[4, 8, 16], help="the same for SAM")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each case")
    parser.add_argument("--no-compile", dest="compile", action="store_false", help="leave out what is compiled")
    options = parser.parse_args()
    options.batches = options.batches or ([8, 16, 32] if options.what == "encode" else [8, 16])
    (encode if options.what == "encode" else train)(options)


def encode(options: argparse.Namespace) -> None:
    """The table of encoders."""
    device, side = options.device, options.image_size
    settings = {"image_size": side, "conv_image_size": side // 4, **_depth(options)}
    stock = with_stock_encoder(random_model("sam", **settings)).eval().to(device)
    ours = in_bfloat16(random_model("dbsam", **settings).eval().to(device))
    images = torch.rand(max(*options.batches, *options.stock_batches), 3, side, side, device=device) * 255

    def case(key: Key, run: Callable[[Tensor], Any], autocast: bool = False) -> Callable[[], Any]:
        return partial(_predict, run, images[: key.batch], torch.autocast(device, torch.bfloat16, enabled=autocast))

    keys = [Key("SAM", precision, n) for precision in ("float32", "bfloat16") for n in options.stock_batches]
    cases = {key: case(key, partial(_stock_encode, stock), key.precision == "bfloat16") for key in keys}
    for batch in options.batches:
        key = Key("DB-SAM", "bfloat16", batch)
        cases[key] = case(key, ours.encode)
    measured = measure(cases, options.seconds, device)
    if options.compile:
        # As `ModelPredictor`: with CUDA graphs.
        compiled = torch.compile(ours.encode, mode="default" if device == "cpu" else "reduce-overhead")
        key = Key("DB-SAM, compiled", "bfloat16", _best(measured, "DB-SAM", "bfloat16").batch)
        measured |= measure({key: case(key, compiled)}, options.seconds, device)
    rate = matrix_rate(torch.bfloat16, device)
    flops = {"SAM": _encoder_flops(stock, _stock_encode), "DB-SAM": _encoder_flops(ours, DBSAM.encode)}
    references = [measured[_best(measured, "SAM", precision)].rate for precision in ("float32", "bfloat16")]
    rows = []
    for key, took in measured.items():
        achieved = took.rate * flops[key.name.split(",")[0]]
        ratios = (f"{took.rate / reference:.2f}" for reference in references)
        rows.append((*map(str, key), f"{took.rate:.1f}", *ratios, *_shares(achieved, rate), _megabytes(took)))
    print_table(
        "Encoding with DB-SAM ViT-B on a GPU",
        [
            f"{_conditions(options, rate)} An image is {flops['SAM'] / 1e9:.0f} GFLOP for SAM and "
            f"{flops['DB-SAM'] / 1e9:.0f} for DB-SAM. Ratios are of images/s, to SAM's best batch. Memory has both "
            "encoders' weights in it."
        ],
        [
            *("encoder", "precision", "batch", "images/s", "× SAM float32", "× SAM bfloat16", "TFLOP/s"),
            *("of matrix rate", "peak memory"),
        ],
        rows,
    )


def train(options: argparse.Namespace) -> None:
    """The table of training steps."""
    device, size, settings = options.device, options.image_size, _depth(options)
    measured: dict[Key, Measured] = {}

    def add(name: str, batch: int, compiled: bool = False) -> None:
        step = Step(name, size, batch, device, "bfloat16", compiled, **settings)
        key = Key(f"{name}, compiled" if compiled else name, "bfloat16", batch)
        measured.update(measure({key: step}, options.seconds, device))

    for batch in options.batches:
        for name in ("DB-SAM", "DB-SAM, checkpointing"):
            add(name, batch)
    if options.compile:
        add("DB-SAM", _best(measured, "DB-SAM", "bfloat16").batch, compiled=True)
    sizes = {"image_size": size, "conv_image_size": size // 4}
    flops = network_flops(partial(_forward_backward, random_model("dbsam", **sizes, **settings).to("meta")))
    rate = matrix_rate(torch.bfloat16, device)
    plain = measured[_best(measured, "DB-SAM", "bfloat16")].rate
    rows = []
    for key, took in measured.items():
        pace = f"{took.seconds * 1e3:.0f} ms", f"{took.rate:.1f}", f"{took.rate / plain:.2f}"
        rows.append((key.name, str(key.batch), *pace, *_shares(took.rate * flops, rate), _megabytes(took)))
    print_table(
        "A training step of DB-SAM ViT-B on a GPU",
        [
            f"{_conditions(options, rate)} Forward, backward and AdamW under bfloat16 autocast: {flops / 1e9:.0f} "
            "GFLOP an image. The fourth column is to the best batch of DB-SAM as it is."
        ],
        ["step", "batch", "time", "images/s", "× DB-SAM", "TFLOP/s", "of matrix rate", "peak memory"],
        rows,
    )


def measure(cases: Mapping[Key, Callable[[], Any]], seconds: float, device: str) -> dict[Key, Measured]:
    """Warm every case up, then run each for its seconds, in turns; without those that memory did not hold."""
    memory = {key: peak for key, case in cases.items() if (peak := _warm_up(case, device)) is not None}
    times: dict[Key, list[float]] = {key: [] for key in memory}
    for _ in range(ROUNDS):
        for key, took in times.items():
            end = time.perf_counter() + seconds / ROUNDS
            took.append(once(cases[key], device))
            while time.perf_counter() < end:
                took.append(once(cases[key], device))
    medians = {key: statistics.median(took) for key, took in times.items()}
    return {key: Measured(took, key.batch / took, memory[key]) for key, took in medians.items()}


def _warm_up(case: Callable[[], Any], device: str) -> float | None:
    """Peak of memory of a case's first calls in MB, None if it ran out."""
    _release(device)
    try:
        for _ in range(3):  # CUDA graphs are recorded in the second call and replayed from the third on
            case()
    except torch.cuda.OutOfMemoryError:
        return None
    return peak_memory_mb(device)


def _release(device: str) -> None:
    """Give back what earlier cases left, and begin a new peak."""
    gc.collect()
    if device != "cpu":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def _depth(options: argparse.Namespace) -> dict[str, Any]:
    stages = tuple(index for index in (2, 5, 8, 11) if index < options.depth)
    return {"depth": options.depth, "stage_ends": stages, "global_attn_indexes": stages}


def _predict(run: Callable[[Tensor], Any], images: Tensor, autocast: torch.autocast) -> Any:
    with torch.inference_mode(), autocast:
        return run(images)


def _stock_encode(sam: DBSAM, images: Tensor) -> Tensor:
    embedding: Tensor = sam.image_encoder(sam.normalise(images))
    return embedding


def _encoder_flops(model: DBSAM, run: Callable[[DBSAM, Tensor], Any]) -> float:
    model = model.to("meta")
    size = model.config.image_size
    images = torch.empty(1, 3, size, size, device="meta")
    with torch.no_grad():
        return network_flops(partial(run, model, images))


def _forward_backward(model: DBSAM) -> None:
    size = model.config.image_size
    images, boxes = torch.empty(1, 3, size, size, device="meta"), torch.empty(1, 4, device="meta")
    logits, _ = model(images, boxes)
    logits.sum().backward()


def network_flops(case: Callable[[], Any]) -> float:
    """Arithmetic of a call on the device "meta", with the attention that pads nothing and computes nothing again."""
    with mock.patch.object(sam_attention, "attend_by_extra_channels", _attend):
        return flops_of(case)


def _attend(qkv: Tensor, table_h: Tensor, table_w: Tensor, scale: float) -> Tensor:
    """The products of attention with decomposed relative positions; what is only moved about is left out."""
    height, width = (table_h.shape[0] + 1) // 2, (table_w.shape[0] + 1) // 2
    query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    bias_h, bias_w = query @ table_h[:height].t(), query @ table_w[:width].t()
    scores = ((query * scale) @ key.transpose(-1, -2)).unflatten(-1, (height, width))
    weights = (scores + bias_h[..., None] + bias_w[..., None, :]).flatten(-2).softmax(-1)
    return (weights @ value).transpose(1, 2)


def _best(measured: Mapping[Key, Measured], name: str, precision: str) -> Key:
    """The batch with the most images a second."""
    return max((key for key in measured if key[:2] == (name, precision)), key=lambda key: measured[key].rate)


def _shares(achieved: float, rate: float) -> tuple[str, str]:
    return f"{achieved / 1e12:.3g}", f"{achieved / rate:.0%}"


def _megabytes(took: Measured) -> str:
    return f"{took.memory_mb:.0f} MB"


def _conditions(options: argparse.Namespace, rate: float) -> str:
    card = "the CPU" if options.device == "cpu" else torch.cuda.get_device_name(options.device)
    return (
        f"{card}, torch {torch.__version__}; images of {options.image_size}×{options.image_size}; medians over "
        f"{options.seconds:g} s in {ROUNDS} turns. Matrix rate: {rate / 1e12:.3g} TFLOP/s in bfloat16."
    )


if __name__ == "__main__":
    main()
