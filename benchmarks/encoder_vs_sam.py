"""What does encoding an image with DB-SAM ViT-B cost beside segment_anything's SAM ViT-B, and are the answers the same?

    python benchmarks/encoder_vs_sam.py

Random weights. "SAM" is segment_anything's encoder as it is, "SAM, ours" the same weights in this library, and "plain"
DB-SAM with segment_anything's attention blocks as they are, which the faster ones must equal. In bfloat16 these two run
under autocast, ours as `load_predictor` does.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from functools import cached_property, partial
from unittest import mock

import torch
from segment_anything.modeling import ImageEncoderViT
from segment_anything.modeling.image_encoder import Block
from timing import alone, flops_of, interleaved, matrix_rate, peak_memory_mb, print_table, random_model
from torch import Tensor

from dbsam.modeling import image_encoder
from dbsam.modeling.dbsam import DBSAM, EncodedImages

NAMES = ("SAM", "SAM, ours", "DB-SAM plain", "DB-SAM")
PRECISIONS = ("float32", "bfloat16")


def main() -> None:
    """Print the table, or with --alone run one case once and print its peak memory."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--image-size", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--alone", choices=[f"{name}/{precision}" for name in NAMES for precision in PRECISIONS])
    options = parser.parse_args()
    cases = _Cases(options.image_size, options.batch, options.device)
    if options.alone:
        cases.case(*options.alone.split("/"))()
        print(json.dumps(peak_memory_mb(options.device)))
        return
    keys = [(name, precision) for precision in PRECISIONS for name in NAMES]
    rates = {precision: matrix_rate(getattr(torch, precision), options.device) for precision in PRECISIONS}
    flops = {name: flops_of(cases.case(name, "float32")) for name in NAMES}
    seconds = interleaved({"/".join(key): cases.case(*key) for key in keys}, options.rounds, options.device)
    same = ["--image-size", str(options.image_size), "--batch", str(options.batch), "--device", options.device]
    rows = []
    for name, precision in keys:
        key = f"{name}/{precision}"
        took = seconds[key]
        share = flops[name] / took / rates[precision]
        memory = alone(__file__, [*same, "--alone", key])
        times = f"{took / seconds['SAM/float32']:.2f}", f"{took / seconds[f'SAM/{precision}']:.2f}"
        figures = f"{took:.3f} s", *times, f"{flops[name] / 1e9:.0f}", f"{share:.0%}", f"{memory:.0f} MB"
        rows.append((name, precision, *figures, *cases.agreement(name, precision)))
    print_table(
        "DB-SAM ViT-B encode beside segment_anything's",
        [
            f"{options.batch} image(s) of {options.image_size}×{options.image_size} on {options.device}, median of "
            f"{options.rounds}, interleaved. Matrix rate: "
            + ", ".join(f"{rate / 1e9:.0f} GFLOP/s in {precision}" for precision, rate in rates.items())
            + ". Logits of one box are compared with the plain implementation in float32; agreement is the DSC of "
            "the two masks. Memory is the peak of a process that encodes once."
        ],
        [
            *("encoder", "precision", "time", "× SAM float32", "× SAM same precision", "GFLOP", "of matrix rate"),
            *("peak memory", "largest logit difference", "mask agreement"),
        ],
        rows,
    )


class _Cases:
    """The encoders, on the same images."""

    def __init__(self, image_size: int, batch: int, device: str) -> None:
        self._sizes = {"image_size": image_size, "conv_image_size": image_size // 4}
        self._device = device
        generator = torch.Generator().manual_seed(0)
        self._images = (torch.rand(batch, 3, image_size, image_size, generator=generator) * 255).to(device)
        self._reference: dict[str, Tensor] = {}

    # Built when first asked for, so that a process that measures one encoder's memory holds no other.
    @cached_property
    def _sam(self) -> DBSAM:
        return random_model("sam", **self._sizes).eval().to(self._device)

    @cached_property
    def _stock(self) -> DBSAM:
        return with_stock_encoder(random_model("sam", **self._sizes)).eval().to(self._device)

    @cached_property
    def _dbsam(self) -> DBSAM:
        return random_model("dbsam", **self._sizes).eval().to(self._device)

    @cached_property
    def _half_sam(self) -> DBSAM:
        return in_bfloat16(random_model("sam", **self._sizes).eval().to(self._device))

    @cached_property
    def _half_dbsam(self) -> DBSAM:
        return in_bfloat16(random_model("dbsam", **self._sizes).eval().to(self._device))

    def case(self, name: str, precision: str) -> Callable[[], Tensor]:
        """The call to be measured: images to embeddings."""
        return partial(self._encode, name, precision)

    def agreement(self, name: str, precision: str) -> tuple[str, str]:
        """Largest difference of logits, and DSC of the masks, against the plain implementation in float32."""
        plain = "SAM" if name.startswith("SAM") else "DB-SAM plain"
        if plain not in self._reference:
            self._reference[plain] = self._logits(plain, "float32")
        expected, found = self._reference[plain], self._logits(name, precision)
        one, other = expected > 0, found > 0
        agreement = 2 * (one & other).sum() / (one.sum() + other.sum()).clamp_min(1)
        return f"{(expected - found).abs().max():.1e}", f"{agreement:.4f}"

    def _encode(self, name: str, precision: str) -> Tensor:
        half = precision == "bfloat16"
        with torch.no_grad(), torch.autocast(self._device, torch.bfloat16, enabled=half):
            if name == "SAM":
                return self._stock.image_encoder(self._stock.normalise(self._images))
            if name == "DB-SAM plain":
                with mock.patch.object(image_encoder, "block_forward", Block.__call__):
                    return self._dbsam.encode(self._images).image_embedding
        with torch.no_grad():
            if name == "SAM, ours":
                return (self._half_sam if half else self._sam).encode(self._images).image_embedding
            return (self._half_dbsam if half else self._dbsam).encode(self._images).image_embedding

    def _logits(self, name: str, precision: str) -> Tensor:
        model = self._sam if name.startswith("SAM") else self._dbsam
        embedding = self._encode(name, precision)[:1]
        size = model.config.image_size
        boxes = torch.tensor([[0.2, 0.3, 0.7, 0.8]], device=self._device) * size
        with torch.no_grad():
            logits, _ = model.decode(EncodedImages(embedding.float(), ()), boxes)
        # Random weights know no background: half of the mask is made foreground.
        return logits - logits.median()


def in_bfloat16(model: DBSAM) -> DBSAM:
    """The network as `ModelPredictor` computes with it in bfloat16."""
    model.image_encoder.to(torch.bfloat16)
    model.image_encoder.neck.float()
    return model


def with_stock_encoder(sam: DBSAM) -> DBSAM:
    """The same weights in segment_anything's own encoder."""
    with torch.device("meta"):  # no second set of weights, which the peak of memory would show
        encoder = ImageEncoderViT(**image_encoder.vit_arguments(sam.config))
    encoder.load_state_dict(sam.image_encoder.state_dict(), assign=True)
    sam.image_encoder = encoder
    return sam


if __name__ == "__main__":
    main()
