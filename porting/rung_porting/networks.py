"""The convolutional network of the built-in tasks: a residual network whose every width can be pruned.

Its structure is a small frozen description (`Widths`), and the description can be read back from the weights. So a
pruned network is stored as plain tensors, never as a pickled object, and is rebuilt by this module alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True, slots=True)
class Widths:
    """Channels everywhere in the network.

    `streams[i]` is the width of the residual stream of stage i; `inner[i][j]` the width inside block j of stage i.
    """

    streams: tuple[int, ...]
    inner: tuple[tuple[int, ...], ...]

    @classmethod
    def regular(cls, streams: tuple[int, ...], blocks: int) -> Widths:
        """Return the widths before any pruning: inside each block as wide as its stream."""
        return cls(streams, tuple((stream,) * blocks for stream in streams))


class Block(nn.Module):
    """Two 3x3 convolutions with batch normalisation, added to their input."""

    def __init__(self, stream: int, inner: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(stream, inner, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, stream, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(stream)

    def forward(self, stream: Tensor) -> Tensor:
        """Return a tensor of the shape of the input, (batch, stream, height, width)."""
        inside = functional.relu(self.norm1(self.conv1(stream)))
        return functional.relu(stream + self.norm2(self.conv2(inside)))


class Body(nn.Module):
    """What is pruned: stages of residual blocks, each after an entry convolution; pooling; classifier."""

    def __init__(self, widths: Widths, classes: int) -> None:
        super().__init__()
        entries: list[nn.Module] = []
        stages: list[nn.Module] = []
        before = 1
        for index, (stream, inner) in enumerate(zip(widths.streams, widths.inner, strict=True)):
            conv = nn.Conv2d(before, stream, 3, stride=2 if index else 1, padding=1, bias=False)
            entries.append(nn.Sequential(conv, nn.BatchNorm2d(stream), nn.ReLU()))
            stages.append(nn.Sequential(*(Block(stream, width) for width in inner)))
            before = stream
        self.entries = nn.ModuleList(entries)
        self.stages = nn.ModuleList(stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(before, classes)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits (batch, classes) for images (batch, 1, side, side)."""
        for entry, stage in zip(self.entries, self.stages, strict=True):
            image = stage(entry(image))
        logits: Tensor = self.classifier(self.flatten(self.pool(image)))
        return logits


class Network(nn.Module):
    """What is served: enlarges the small image, shows four crops of it to the body, and answers their mean.

    Requests stay small, which suits an edge's network. The mean over crops (Krizhevsky et al., "ImageNet
    Classification with Deep Convolutional Neural Networks", 2012) makes answers better at four times the cost of one;
    training sees a single crop, which costs a quarter.
    """

    def __init__(self, widths: Widths, classes: int, side: int, margin: int) -> None:
        super().__init__()
        self.classes = classes
        self.side = side
        self.margin = margin
        self.body = Body(widths, classes)

    def enlarge(self, image: Tensor) -> Tensor:
        """Return the images with side + margin pixels along each side."""
        size = self.side + self.margin
        return functional.interpolate(image, size=(size, size), mode="bilinear", align_corners=False)

    def crop(self, large: Tensor, top: int, left: int) -> Tensor:
        """Return the crop of an enlarged image that begins there."""
        return large[:, :, top : top + self.side, left : left + self.side]

    def forward(self, image: Tensor) -> Tensor:
        """Return logits (batch, classes) for images (batch, 1, height, width) with values from 0 to 1."""
        large = self.enlarge(image)
        corners = [self.crop(large, top, left) for top in (0, self.margin) for left in (0, self.margin)]
        answers: Tensor = self.body(torch.cat(corners))
        return answers.reshape(len(corners), -1, self.classes).mean(dim=0)


def widths_of(weights: Mapping[str, Tensor]) -> Widths:
    """Read the widths back from the weights of a Network.

    Raises:
        ValueError: these are not the weights of one.
    """
    streams: list[int] = []
    inner: list[tuple[int, ...]] = []
    while (entry := weights.get(f"body.entries.{len(streams)}.0.weight")) is not None:
        stage: list[int] = []
        while (conv := weights.get(f"body.stages.{len(streams)}.{len(stage)}.conv1.weight")) is not None:
            stage.append(conv.shape[0])
        streams.append(entry.shape[0])
        inner.append(tuple(stage))
    if not streams:
        raise ValueError("these weights do not belong to a residual network of rung-port")
    return Widths(tuple(streams), tuple(inner))


def rebuild(weights: Mapping[str, Tensor], side: int, margin: int) -> Network:
    """Build the network that these weights belong to, with them in it, ready to answer (evaluation mode).

    Raises:
        ValueError: these are not the weights of one.
    """
    widths = widths_of(weights)
    network = Network(widths, weights["body.classifier.bias"].shape[0], side, margin)
    try:
        network.load_state_dict(dict(weights))
    except RuntimeError as error:  # torch's word for missing and unexpected tensors
        raise ValueError(f"weights that do not fit the network: {error}") from error
    network.eval()
    return network


def parameter_count(network: nn.Module) -> int:
    """Count the parameters that training changes."""
    return sum(parameter.numel() for parameter in network.parameters())


def count_flops(network: nn.Module, sample: Tensor) -> int:
    """Count the floating-point operations of convolutions and linear layers for this input (2 for each product)."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(sample)
    return int(counter.get_total_flops())
