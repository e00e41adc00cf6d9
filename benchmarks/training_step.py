"""What does a training step at ViT-B size cost, beside a plain loop over segment_anything's modules?

    python benchmarks/training_step.py
    python benchmarks/training_step.py --device cuda --batch 8 --precision bfloat16 float16

The plain loop trains SAM's decoder on top of its frozen encoder, one image after another through the decoder, as
segment_anything's modules ask for. "SAM, ours" trains the same part in this library, "DB-SAM" what the paper trains:
adapters, fusion, neck and decoder. Random weights and images.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Any

import torch
from encoder_vs_sam import with_stock_encoder
from segment_anything.modeling import MaskDecoder, TwoWayTransformer
from timing import alone, flops_of, interleaved, matrix_rate, peak_memory_mb, print_table, random_model
from torch import Tensor, nn

from dbsam_training.trainer.losses import cross_entropy_dice

NAMES = ("plain loop", "SAM, ours", "DB-SAM", "DB-SAM, checkpointing")


def main() -> None:
    """Print the table, or with --alone do one step and print the peak memory."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--image-size", type=int, default=512)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", nargs="+", default=("float32", "bfloat16"))
    parser.add_argument("--alone", choices=NAMES)
    options = parser.parse_args()
    size, batch, device = options.image_size, options.batch, options.device
    if options.alone:
        Step(options.alone, size, batch, device, options.precision[0])()
        print(json.dumps(peak_memory_mb(device)))
        return
    same = ["--image-size", str(size), "--batch", str(batch), "--device", device]
    rows = []
    flops: dict[str, float] = {}
    rates: dict[str, float] = {}
    for precision in options.precision:
        rates[precision] = matrix_rate(getattr(torch, precision), device)
        steps = {name: Step(name, size, batch, device, precision) for name in NAMES}
        if not flops:
            flops = {name: flops_of(step) for name, step in steps.items()}
        seconds = interleaved(steps, options.rounds, device)
        for name, took in seconds.items():
            memory = alone(__file__, [*same, "--precision", precision, "--alone", name])
            figures = f"{took:.2f} s", f"{batch / took:.3g}", f"{seconds['plain loop'] / took:.2f}"
            share = f"{flops[name] / took / rates[precision]:.0%}"
            rows.append((name, precision, *figures, f"{flops[name] / 1e9:.0f}", share, f"{memory:.0f} MB"))
    listed = ", ".join(f"{rate / 1e9:.0f} GFLOP/s in {precision}" for precision, rate in rates.items())
    print_table(
        "A training step at ViT-B size",
        [
            f"{batch} image(s) of {size}×{size} on {device}, {torch.get_num_threads()} threads; forward, backward, "
            f"AdamW; medians of {options.rounds}, interleaved within a precision. Matrix rate: {listed}. Recomputed "
            "arithmetic counts. Memory is the peak of a process that does one step."
        ],
        ["loop", "precision", "step", "images/s", "× plain loop's images/s", "GFLOP", "of matrix rate", "peak memory"],
        rows,
    )


class Step:
    """One training step on fixed images: batch, loss, gradients, AdamW."""

    def __init__(
        self, name: str, size: int, batch: int, device: str, precision: str, compiled: bool = False, **settings: Any
    ) -> None:
        system = "dbsam" if name.startswith("DB-SAM") else "sam"
        model = random_model(system, image_size=size, conv_image_size=size // 4, **settings)
        self._model = model.to(device, memory_format=torch.channels_last).train()
        self._model.image_encoder.checkpointing = name == "DB-SAM, checkpointing"
        generator = torch.Generator().manual_seed(0)
        self._images = (torch.rand(batch, 3, size, size, generator=generator) * 255).to(device)
        self._boxes = torch.tensor([[0.2, 0.3, 0.7, 0.8]], device=device).expand(batch, 4) * size
        self._target = torch.zeros(batch, size // 4, size // 4, device=device)
        self._target[:, size // 12 : size // 6, size // 16 : size // 6] = 1
        self._autocast = torch.autocast(device, getattr(torch, precision), enabled=precision != "float32")
        network = torch.compile(self._model) if compiled else self._model
        self._logits: Callable[[], Tensor] = lambda: network(self._images, self._boxes)[0]
        trained: nn.Module = self._model
        if name == "plain loop":
            trained = self._use_segment_anything(device)
        parameters = [parameter for parameter in trained.parameters() if parameter.requires_grad]
        self._optimizer = torch.optim.AdamW(parameters, lr=1e-4)
        self._scaler = torch.amp.GradScaler(device, enabled=precision == "float16")

    def __call__(self) -> None:
        """Do the step."""
        with self._autocast:
            logits = self._logits()
        loss = cross_entropy_dice(logits.float(), self._target).mean()
        self._scaler.scale(loss).backward()
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._optimizer.zero_grad(set_to_none=True)

    def _use_segment_anything(self, device: str) -> nn.Module:
        """Put its own encoder and decoder in place; returns what is trained."""
        ours, config = self._model, self._model.config
        dim = config.prompt_embed_dim
        encoder = with_stock_encoder(ours).image_encoder
        transformer = TwoWayTransformer(depth=2, embedding_dim=dim, num_heads=8, mlp_dim=2048)
        decoder = MaskDecoder(transformer_dim=dim, transformer=transformer).to(device)
        prompt_encoder, normalise = ours.prompt_encoder, ours.normalise
        del ours.image_encoder, ours.mask_decoder

        def logits() -> Tensor:
            with torch.no_grad():
                embeddings = encoder(normalise(self._images))
            masks = []
            for embedding, box in zip(embeddings, self._boxes, strict=True):
                sparse, dense = prompt_encoder(points=None, boxes=box[None], masks=None)
                image_pe = prompt_encoder.get_dense_pe()
                masks.append(decoder(embedding[None], image_pe, sparse, dense, multimask_output=False)[0][:, 0])
            return torch.cat(masks)

        self._logits = logits
        return decoder


if __name__ == "__main__":
    main()
