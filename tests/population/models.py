"""One model of every kind of layer, with a batch it takes: name -> (make, batch)."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torchvision
from torch import Tensor, nn
from torch.nn.utils import parametrizations

Make = Callable[[], nn.Module]


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.Module], **options: object) -> None:
        super().__init__()
        self.cells = kind(5, 6, batch_first=True, **options)
        self.head = nn.Linear(12 if options.get("bidirectional") else 6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cells(x)[0][:, -1])


class Attention(nn.Module):
    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, dropout=dropout, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.attention(x, x, x, need_weights=False)[0].mean(1))


class Transformer(nn.Module):
    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=dropout, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x).mean(1))


class PaddedWords(nn.Module):
    """Its first index stands for no word: it is not trained."""

    def __init__(self, padding_idx: int = 0) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 6, padding_idx)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.embedding(x).mean(1))


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.embedding(x).mean(1))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(3, 6)
        self.middle = nn.Linear(5, 6)
        self.head = nn.Linear(6, 3, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.middle(x)))


class Counting(nn.Module):
    """A buffer that is added to in place, and one that is replaced."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(5, 3)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.register_buffer("mean", torch.zeros(5))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.calls += 1
            self.mean = 0.9 * self.mean + 0.1 * x.mean(0)
        return self.linear(x - self.mean)


def frozen() -> nn.Module:
    model = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3))
    model[0].requires_grad_(False)
    return model


def image(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(3))


def vectors(n: int = 6) -> Tensor:
    return torch.randn(n, 5)


def images(n: int = 4) -> Tensor:
    return torch.randn(n, 3, 8, 8)


def signals(n: int = 4) -> Tensor:
    return torch.randn(n, 4, 10)


def words(n: int = 6) -> Tensor:
    return torch.randint(0, 11, (n, 7))


def sequences(n: int = 4) -> Tensor:
    return torch.randn(n, 5, 5)


def tokens(n: int = 4) -> Tensor:
    return torch.randn(n, 5, 8)


LAYERS: dict[str, tuple[Make, Callable[[], Tensor]]] = {
    "linear": (lambda: nn.Sequential(nn.Linear(5, 7), nn.GELU(), nn.Linear(7, 3)), vectors),
    "conv1d": (lambda: image(nn.Conv1d(4, 5, 3), nn.ReLU(), nn.MaxPool1d(2)), signals),
    "conv2d": (lambda: image(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3, stride=2)), images),
    "grouped conv": (lambda: image(nn.Conv2d(3, 6, 3, groups=3), nn.ReLU()), images),
    "conv transpose": (lambda: image(nn.ConvTranspose2d(3, 4, 2, stride=2), nn.ReLU()), images),
    "batch norm": (lambda: image(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()), images),
    "batch norm 1d": (lambda: nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6, momentum=0.3), nn.Linear(6, 3)), vectors),
    "batch norm without running statistics": (lambda: image(nn.BatchNorm2d(3, track_running_stats=False), nn.ReLU()), images),
    "group norm": (lambda: image(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4)), images),
    "instance norm": (lambda: image(nn.Conv2d(3, 4, 3), nn.InstanceNorm2d(4, affine=True)), images),
    "layer norm": (lambda: nn.Sequential(nn.Linear(5, 6), nn.LayerNorm(6), nn.Linear(6, 3)), vectors),
    "local response norm": (lambda: image(nn.Conv2d(3, 4, 3), nn.LocalResponseNorm(3)), images),
    "pooling": (lambda: image(nn.Conv2d(3, 4, 3), nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(2)), images),
    "activations": (lambda: nn.Sequential(nn.Linear(5, 6), nn.PReLU(), nn.SiLU(), nn.Softplus(), nn.Linear(6, 3)), vectors),
    "weight norm": (lambda: nn.Sequential(parametrizations.weight_norm(nn.Linear(5, 6)), nn.Tanh(), nn.Linear(6, 3)), vectors),
    "orthogonal": (lambda: nn.Sequential(parametrizations.orthogonal(nn.Linear(5, 5)), nn.Tanh(), nn.Linear(5, 3)), vectors),
    "embedding": (Words, words),
    "embedding with padding": (PaddedWords, words),
    "embedding with padding from the end": (lambda: PaddedWords(-2), words),
    "lstm": (lambda: Recurrent(nn.LSTM, num_layers=2), sequences),
    "bidirectional lstm": (lambda: Recurrent(nn.LSTM, bidirectional=True), sequences),
    "gru": (lambda: Recurrent(nn.GRU), sequences),
    "attention": (Attention, tokens),
    "transformer": (Transformer, tokens),
    "tied": (Tied, vectors),
    "frozen": (frozen, vectors),
    "buffers": (Counting, vectors),
}

RANDOM: dict[str, tuple[Make, Callable[[], Tensor]]] = {
    "dropout": (lambda: nn.Sequential(nn.Linear(5, 30), nn.Dropout(0.4), nn.Linear(30, 3)), vectors),
    "dropout2d": (lambda: image(nn.Conv2d(3, 8, 3), nn.Dropout2d(0.3)), images),
    "alpha dropout": (lambda: nn.Sequential(nn.Linear(5, 30), nn.SELU(), nn.AlphaDropout(0.2), nn.Linear(30, 3)), vectors),
    "attention with dropout": (lambda: Attention(0.3), tokens),
    "transformer with dropout": (lambda: Transformer(0.2), tokens),
    "lstm with dropout": (lambda: Recurrent(nn.LSTM, num_layers=2, dropout=0.3), sequences),
}


def resnet18() -> nn.Module:
    return torchvision.models.resnet18(num_classes=3)
