"""`residual`: the convolutional network of the built-in tasks, for small grey images."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class Block(nn.Module):
    """Two 3x3 convolutions with batch normalisation, added to their input."""

    def __init__(self, stream: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(stream, stream, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(stream)
        self.conv2 = nn.Conv2d(stream, stream, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(stream)

    def forward(self, stream: Tensor) -> Tensor:
        """Return a tensor of the shape of the input, (batch, stream, height, width)."""
        inside = functional.relu(self.norm1(self.conv1(stream)))
        return functional.relu(stream + self.norm2(self.conv2(inside)))


class Body(nn.Module):
    """Stages of residual blocks, each after an entry convolution; pooling; classifier."""

    def __init__(self, channels: int, streams: tuple[int, ...], blocks: int, classes: int) -> None:
        super().__init__()
        stages: list[nn.Module] = []
        before = channels
        for index, stream in enumerate(streams):
            entry = nn.Conv2d(before, stream, 3, stride=2 if index else 1, padding=1, bias=False)
            stages += [entry, nn.BatchNorm2d(stream), nn.ReLU(), *(Block(stream) for _ in range(blocks))]
            before = stream
        self.stages = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(before, classes)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits (batch, classes) for images (batch, channels, side, side)."""
        logits: Tensor = self.classifier(self.flatten(self.pool(self.stages(image))))
        return logits


class Residual(nn.Module):
    """Enlarges the small image, shows several crops of it to the body, and answers their mean.

    Requests stay small, which suits an edge's network. The mean over crops (Krizhevsky et al., "ImageNet
    Classification with Deep Convolutional Neural Networks", 2012) makes answers better; training sees one crop at a
    time, which costs so much less.

    Args:
        shape: (channels, height, width) of an image in a request.
        classes: number of logits.
        streams: channels of each stage; each stage after the first halves the image.
        blocks: residual blocks in each stage.
        side: pixels along a side of what the convolutions see.
        margin: how much larger the image is made, so that crops of it differ.
        crops: crops along each direction, from corner to corner; its square is what an answer costs.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        classes: int,
        *,
        streams: tuple[int, ...] = (72, 144),
        blocks: int = 4,
        side: int = 16,
        margin: int = 2,
        crops: int = 2,
    ) -> None:
        super().__init__()
        self.classes = classes
        self.side = side
        self.margin = margin
        self.offsets = [round(index * margin / max(1, crops - 1)) for index in range(crops)]
        self.body = Body(shape[0], tuple(streams), blocks, classes)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits (batch, classes) for images (batch, channels, height, width) with values from 0 to 1."""
        size = self.side + self.margin
        large = functional.interpolate(image, size=(size, size), mode="bilinear", align_corners=False)
        if self.training:
            top, left = torch.randint(self.margin + 1, (2,)).tolist()
            return self._answer(self._crop(large, top, left))
        crops = [self._crop(large, top, left) for top in self.offsets for left in self.offsets]
        return self._answer(torch.cat(crops, dim=0)).reshape(len(crops), -1, self.classes).mean(dim=0)

    def _answer(self, seen: Tensor) -> Tensor:
        answer: Tensor = self.body(seen)
        return answer

    def _crop(self, large: Tensor, top: int, left: int) -> Tensor:
        return large[:, :, top : top + self.side, left : left + self.side]
