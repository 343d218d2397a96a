"""The built-in backbones: torchvision's families, with a stem and a head that fit small and large images alike."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from rung_porting.errors import PortingError
from rung_porting.models.residual import Residual

FAMILIES: dict[str, tuple[str, ...]] = {
    "residual": ("residual",),
    "resnet": ("resnet10", "resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
    "densenet": ("densenet121", "densenet169", "densenet201", "densenet161"),
    "mobilenet": ("mobilenet_v3_small", "mobilenet_v2", "mobilenet_v3_large"),
    "efficientnet": (*(f"efficientnet_b{size}" for size in range(8)), "efficientnet_v2_s", "efficientnet_v2_m"),
}
"""Names of the built-in networks by family, the small ones first."""
NETWORKS = tuple(name for members in FAMILIES.values() for name in members)
SMALL_SIDE = 64
"""Images up to this many pixels a side keep their resolution in the first layers, which would halve it twice."""


class Backbone(nn.Module):
    """A torchvision network, with the image made larger first where that was asked for.

    Args:
        network: answers logits.
        resize: pixels along each side of what the network sees; None: the image as it is.
    """

    def __init__(self, network: nn.Module, resize: int | None) -> None:
        super().__init__()
        self.network = network
        self.resize = resize

    def forward(self, image: Tensor) -> Tensor:
        """Return logits (batch, classes) for images (batch, channels, height, width)."""
        if self.resize is not None:
            image = functional.interpolate(image, size=(self.resize, self.resize), mode="bilinear", align_corners=False)
        logits: Tensor = self.network(image)
        return logits


def build(name: str, shape: tuple[int, ...], classes: int, **arguments: Any) -> nn.Module:
    """Build a built-in network with random weights.

    Args:
        name: one of NETWORKS.
        shape: (channels, height, width) of an input.
        classes: number of logits.
        arguments: `resize` for backbones, the rest goes to torchvision's constructor; those of Residual for `residual`.

    Raises:
        PortingError: the shape is no image's, or an argument is unknown.
    """
    if len(shape) != 3:
        raise PortingError(f"{name} takes images: input must be [channels, height, width], not {list(shape)}")
    try:
        if name == "residual":
            return Residual(shape, classes, **arguments)
        resize = arguments.pop("resize", None)
        side = resize or max(shape[1:])
        network = _constructor(name)(num_classes=classes, **arguments)
    except (TypeError, ValueError) as error:
        raise PortingError(f"{name} does not take these arguments: {error}") from None
    _see_channels(network, shape[0])
    if side <= SMALL_SIDE:
        _keep_resolution(name, network)
    return Backbone(network, resize)


def _constructor(name: str) -> Callable[..., nn.Module]:
    from torchvision import models

    if name == "resnet10":  # one block a stage, as in Li et al.'s and others' small ResNets; torchvision has none
        return lambda **arguments: models.ResNet(models.resnet.BasicBlock, [1, 1, 1, 1], **arguments)
    constructor: Callable[..., nn.Module] = getattr(models, name)
    assert "weights" in inspect.signature(constructor).parameters
    return constructor


def _see_channels(network: nn.Module, channels: int) -> None:
    """Replace the first convolution where the images don't have the three channels that torchvision expects."""
    name, first = next((name, each) for name, each in network.named_modules() if isinstance(each, nn.Conv2d))
    if first.in_channels != channels:
        _replace(network, name, _like(first, in_channels=channels))


def _keep_resolution(name: str, network: Any) -> None:
    """Let a small image through the stem at full resolution, as is usual for CIFAR (He et al., 2016, section 4.2)."""
    if name.startswith("resnet"):
        network.conv1 = _like(network.conv1, kernel_size=3, stride=1, padding=1)
        network.maxpool = nn.Sequential()
    elif name.startswith("densenet"):
        network.features.conv0 = _like(network.features.conv0, kernel_size=3, stride=1, padding=1)
        network.features.pool0 = nn.Sequential()
    else:  # mobilenet, efficientnet: a stem convolution that halves the image
        _replace(network, "features.0.0", _like(network.features[0][0], stride=1))


def _like(conv: nn.Conv2d, **changes: Any) -> nn.Conv2d:
    settings = {
        "in_channels": conv.in_channels,
        "out_channels": conv.out_channels,
        "kernel_size": conv.kernel_size,
        "stride": conv.stride,
        "padding": conv.padding,
        "bias": conv.bias is not None,
    }
    changed = nn.Conv2d(**{**settings, **changes})
    nn.init.kaiming_normal_(changed.weight, mode="fan_out", nonlinearity="relu")
    return changed


def _replace(network: nn.Module, name: str, module: nn.Module) -> None:
    owner, _, attribute = name.rpartition(".")
    setattr(network.get_submodule(owner), attribute, module)
