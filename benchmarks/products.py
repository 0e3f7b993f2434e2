"""Products by oneDNN beside torch's, at sizes of Hiera-T and nano.

    OMP_NUM_THREADS=1 python benchmarks/products.py [--rounds 9]

Milliseconds of processor time, the least of the rounds, of `F.linear` and what follows, of
`panosam2_core.nn.products.linear`, and of that with weights that were laid out before (`packed`);
below them 1x1 convolutions of nano's trunk at 128x256 and 256x512, all of them together, as
convolutions and as products.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from panosam2_core import load_model
from panosam2_core.allocator import keep_freed_memory
from panosam2_core.nn import efficientnet_lite
from panosam2_core.nn.products import convolve_pixels, linear, packed

SIZES = {
    "memory attention, scores of 256 queries": (256, 256, 28_736, "none"),
    "memory attention, MLP": (4096, 256, 2048, "relu"),
    "memory attention, MLP back": (4096, 2048, 256, "none"),
    "memory attention, keys": (28_736, 64, 256, "none"),
    "Hiera-T, stage 3, MLP": (4096, 384, 1536, "gelu"),
    "Hiera-T, stage 3, MLP back": (4096, 1536, 384, "none"),
    "nano, keys": (4644, 64, 128, "none"),
    "nano, MLP": (512, 128, 512, "relu"),
}


@torch.inference_mode()
def main() -> None:
    """Print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    keep_freed_memory()
    print("type, product: torch's; so many times as fast ours is, and ours laid out before")
    for dtype in (torch.float32, torch.bfloat16):
        for name, (rows, inner, outputs, then) in SIZES.items():
            x, weight = torch.randn(rows, inner).to(dtype), torch.randn(outputs, inner).to(dtype)
            bias = None if "scores" in name else torch.randn(outputs).to(dtype)
            laid_out = packed(weight)
            plain = least(rounds, lambda: _torchs(x, weight, bias, then))  # noqa: B023
            ours = least(rounds, lambda: linear(x, weight, bias, then))  # noqa: B023
            before = least(rounds, lambda: linear(x, laid_out, bias, then))  # noqa: B023
            print(f"{dtype}, {name}: {plain:.2f} ms, {plain / ours:.2f}x, {plain / before:.2f}x")
    for height in (128, 256):
        inputs = _pixels(height)
        plain = least(rounds, lambda: [F.conv2d(*given) for given in inputs])  # noqa: B023
        ours = least(rounds, lambda: [convolve_pixels(*given) for given in inputs])  # noqa: B023
        size = f"{len(inputs)} 1x1 of {height}x{2 * height}"
        print(f"{size}, as convolutions: {plain:.2f} ms, as products {plain / ours:.2f}x")


def _torchs(x: Tensor, weight: Tensor, bias: Tensor | None, then: str) -> Tensor:
    out = F.linear(x, weight, bias)
    return {"none": lambda y: y, "relu": F.relu, "gelu": F.gelu}[then](out)


def _pixels(height: int) -> list[tuple[Tensor, Tensor, Tensor]]:
    """What the 1x1 convolutions of nano's trunk get, with their weights, in bfloat16."""
    trunk = load_model("nano", device="cpu", input_size=(height, 2 * height)).image_encoder.trunk
    found = []

    def keep(conv: nn.Conv2d, x: Tensor) -> None:
        if conv.kernel_size == (1, 1):
            x = x.bfloat16().contiguous(memory_format=torch.channels_last)
            found.append((x, conv.weight.bfloat16(), conv.bias.bfloat16()))

    # Those with ReLU6 after them are called by this function, the others as modules.
    real = efficientnet_lite._conv_relu6
    efficientnet_lite._conv_relu6 = lambda conv, x, *rest: (keep(conv, x), real(conv, x, *rest))[1]
    for module in trunk.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_pre_hook(lambda conv, given: keep(conv, given[0]))
    trunk(torch.randn(1, 3, height, 2 * height), wrap=True)
    efficientnet_lite._conv_relu6 = real
    return found


def least(rounds: int, work: Callable[[], object]) -> float:
    """Milliseconds of the fastest of some rounds."""
    work()
    spent = []
    for _ in range(rounds):
        started = time.process_time()
        work()
        spent.append(time.process_time() - started)
    return 1e3 * min(spent)


if __name__ == "__main__":
    main()
