"""How much does encoding an image move through a GPU's memory? No GPU is needed to count it.

    python benchmarks/gpu_traffic.py

The encoders run on PyTorch's fake tensors, which have shapes and types but no contents, as they would on a CUDA device:
each operation's inputs and outputs are counted in full. Caches save some of it, and a compiler that fuses operations
much. "SAM" is segment_anything's encoder as it is; "autocast" is ours with float32 weights, as training computes.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple
from unittest import mock

import torch
from encoder_vs_sam import with_stock_encoder
from timing import print_table
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dbsam.modeling.builder import build_model
from dbsam.modeling.config import named_config
from dbsam.modeling.dbsam import DBSAM

CASES = (("SAM", "float32"), ("SAM", "autocast"), ("DB-SAM", "float32"), ("DB-SAM", "autocast"), ("DB-SAM", "bfloat16"))
MOVES_NOTHING = {
    *("view", "_unsafe_view", "permute", "transpose", "t", "expand", "slice", "select", "unbind", "split", "unsqueeze"),
    *("squeeze", "as_strided", "detach", "alias", "unfold", "empty", "empty_like", "new_empty", "device"),
}
LARGEST = 6


class Traffic(NamedTuple):
    """What an image takes.

    Attributes:
        nbytes: Read and written by each kind of operation.
        operations: How many are launched for the whole batch.
    """

    nbytes: dict[str, float]
    operations: int


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=8)
    batch = parser.parse_args().batch
    rows = []
    for name, precision in CASES:
        found = traffic(name, precision, batch)
        largest = sorted(found.nbytes.items(), key=lambda item: -item[1])[:LARGEST]
        listed = ", ".join(f"{kind} {nbytes / 1e9:.2f}" for kind, nbytes in largest)
        rows.append((name, precision, f"{sum(found.nbytes.values()) / 1e9:.1f}", str(found.operations), listed))
    print_table(
        "What encoding moves through a GPU's memory",
        [f"{batch} images of 1024×1024 at once, counted without a GPU, torch {torch.__version__}. GB of one image."],
        ["encoder", "precision", "GB", "operations", "most of it"],
        rows,
    )


def traffic(name: str, precision: str, batch: int) -> Traffic:
    """Count for one encoder, by name and precision of `CASES`."""
    with FakeTensorMode(), torch.device("cuda"), torch.no_grad():
        model = build_model(named_config("sam" if name == "SAM" else "dbsam")).eval()
        run: Callable[[Tensor], Any] = model.encode
        if name == "SAM":
            run = _stock(model)
        if precision == "bfloat16":
            _to_bfloat16(model.image_encoder, model.image_encoder.neck)
        images = torch.empty(batch, 3, 1024, 1024)
        # Which kernel computes attention is asked of the device, which is not there.
        flash = mock.patch.object(F, "scaled_dot_product_attention", _flash)
        with flash, _autocast(precision == "autocast"), Count() as count:
            run(images)
    return Traffic({kind: nbytes / batch for kind, nbytes in count.nbytes.items()}, count.operations)


class Count(TorchDispatchMode):
    """Adds up what operations read and write while it is in force."""

    def __init__(self) -> None:
        super().__init__()
        self.nbytes: dict[str, float] = {}
        self.operations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        kind = func.overloadpacket.__name__
        if kind not in MOVES_NOTHING:
            moved = tree_leaves(result) + ([] if kind.startswith("new_") else tree_leaves((args, kwargs)))
            nbytes = sum(_nbytes(tensor) for tensor in moved if isinstance(tensor, Tensor))
            self.nbytes[kind] = self.nbytes.get(kind, 0.0) + nbytes
            self.operations += 1
        return result


def _nbytes(tensor: Tensor) -> int:
    """What there is to read or write: of an expanded tensor, each number once."""
    size = tensor.element_size()
    for length, stride in zip(tensor.shape, tensor.stride(), strict=True):
        size *= length if stride else 1
    return size


def _to_bfloat16(module: nn.Module, kept: nn.Module) -> None:
    """`module.to(torch.bfloat16)` but for one part; fake tensors refuse that method."""
    for part in set(module.modules()) - set(kept.modules()):
        for name, parameter in part.named_parameters(recurse=False):
            setattr(part, name, nn.Parameter(parameter.to(torch.bfloat16), requires_grad=False))
        for name, buffer in part.named_buffers(recurse=False):
            if buffer.is_floating_point():
                setattr(part, name, buffer.to(torch.bfloat16))


def _stock(model: DBSAM) -> Callable[[Tensor], Tensor]:
    stock = with_stock_encoder(model)
    return lambda images: stock.image_encoder(stock.normalise(images))


def _flash(query: Tensor, key: Tensor, value: Tensor, scale: float | None = None) -> Tensor:
    mixed: Tensor = torch.ops.aten._scaled_dot_product_flash_attention(query, key, value, scale=scale)[0]
    return mixed


@contextmanager
def _autocast(enabled: bool) -> Iterator[None]:
    """`torch.autocast("cuda")`, which refuses where there is no GPU."""
    torch.set_autocast_enabled("cuda", enabled)
    torch.set_autocast_dtype("cuda", torch.bfloat16)
    torch.autocast_increment_nesting()
    try:
        yield
    finally:
        torch.set_autocast_enabled("cuda", False)
        torch.autocast_decrement_nesting()
        torch.clear_autocast_cache()


if __name__ == "__main__":
    main()
