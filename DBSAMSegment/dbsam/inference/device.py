"""Which device computes."""

from __future__ import annotations

import logging

import torch
from torch import nn

from dbsam.inference.predictor import PRECISIONS

logger = logging.getLogger(__name__)


def choose_device(requested: str = "auto") -> tuple[torch.device, str]:
    """Find the device to compute on.

    Args:
        requested: "auto" (a CUDA GPU, else an Apple GPU, else the CPU), or one of "cpu", "mps", "cuda" and "cuda:N",
            which must be there.

    Returns:
        The device, and a sentence for people about the choice.

    Raises:
        ValueError: `requested` is no device, or not one of this computer's.
    """
    if requested == "auto":
        reasons = []
        for name in ("cuda", "mps"):
            reason = _why_not(torch.device(name))
            if reason is None:
                return torch.device(name), f"Computing on {_title(torch.device(name))}."
            reasons.append(reason)
        note = f"Computing on the CPU: {' '.join(reasons)}"
        logger.info(note)
        return torch.device("cpu"), note
    try:
        device = torch.device(requested)
    except RuntimeError as error:
        raise ValueError(f"{requested!r} is not a device: use auto, cpu, mps, cuda or cuda:N.") from error
    if device.type not in ("cpu", "cuda", "mps"):
        raise ValueError(f"dbsam does not compute on {requested!r}: use auto, cpu, mps, cuda or cuda:N.")
    if reason := _why_not(device):
        raise ValueError(f"The device {requested!r} cannot be used: {reason} Use auto or cpu.")
    return device, f"Computing on {_title(device)}."


def move_model(model: nn.Module, device: torch.device, note: str) -> tuple[torch.device, str]:
    """Move a network to an automatically chosen device, or leave it on the CPU if it does not fit.

    Args:
        model: A network on the CPU.
        device: The device `choose_device` found.
        note: Its sentence.

    Returns:
        The device where the network is, and a sentence for people about it.
    """
    try:
        model.to(device)
    except torch.cuda.OutOfMemoryError as error:
        model.to("cpu")
        note = f"Computing on the CPU: the memory of {_title(device)} is full ({str(error).splitlines()[0]})."
        logger.warning(note)
        return torch.device("cpu"), note
    return device, note


def choose_precision(requested: str, device: torch.device) -> str:
    """Find the precision to compute in.

    Args:
        requested: "auto", "float32", "bfloat16" or "float16". "auto" is bfloat16 on NVIDIA GPUs that compute it (from
            Ampere on), else float32.
        device: Where the network is.

    Raises:
        ValueError: `requested` is none of them.
    """
    if requested not in PRECISIONS:
        raise ValueError(f"Unknown precision {requested!r}: use {', '.join(PRECISIONS)}.")
    if requested != "auto":
        return requested
    ampere = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
    return "bfloat16" if ampere else "float32"


def _why_not(device: torch.device) -> str | None:
    """Why a device cannot compute here; None if it can."""
    if device.type == "cpu":
        return None
    if device.type == "mps":
        return None if torch.backends.mps.is_available() else "there is no Apple GPU that PyTorch can use."
    if not torch.cuda.is_available():
        return (
            "this PyTorch is built without CUDA."
            if torch.version.cuda is None and torch.version.hip is None
            else "there is no CUDA GPU that PyTorch can use."
        )
    count = torch.cuda.device_count()
    if device.index is not None and device.index >= count:
        return f"there are {count} CUDA GPUs, numbered from 0."
    try:
        # A GPU too old or too new for this PyTorch is listed all the same, and fails at the first kernel.
        torch.zeros(1, device=device).add_(1).item()
    except RuntimeError as error:
        return f"the GPU fails ({str(error).splitlines()[0]})."
    return None


def _title(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return {"cpu": "the CPU", "mps": "the Apple GPU"}[device.type]
