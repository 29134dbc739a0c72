"""What the Gaussian process believes, wants and suggests, drawn for one hyperparameter: a loss over a learning rate.

Three rounds of two trials at once. Above: what was observed, and what is believed of the loss in between. Below: how much better
than all seen so far a trial would be on average, and the two that are suggested for the next round. The second is chosen beside
the first, whose loss is not known yet, so they do not crowd on one peak.

It draws with plotly (pip install "torchtune-hp[plots]") into runs/gp_in_one_dimension.html.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from torchtune_hp.gp.climb import Column, Cube
from torchtune_hp.gp.fantasies import Fantasies, fantasize, log_noisy_expected_improvement
from torchtune_hp.gp.fit import fit
from torchtune_hp.gp.kernel import Kernel
from torchtune_hp.gp.maximize import batch, pool, starts
from torchtune_hp.gp.regression import condition, predict

try:
    from plotly.graph_objects import Figure
    from plotly.subplots import make_subplots
except ImportError as error:
    raise ImportError('This example draws with plotly, which is not installed: pip install "torchtune-hp[plots]"') from error

ROUNDS, TOGETHER, NOISE = 3, 2, 0.03
BLUE, SKY, ORANGE, GREEN, GRAY = "#0072B2", "rgba(86, 180, 233, 0.35)", "#D55E00", "#009E73", "#7F7F7F"     # Okabe and Ito's

kernel = Kernel(numbers=(0,))
cube = Cube([Column()], canonical=lambda x: x)
grid = torch.linspace(0, 1, 501, dtype=torch.float64)[:, None]
chance = torch.Generator().manual_seed(5)


def normals(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=chance)


def learning_rate(x: Tensor) -> Tensor:
    """The unit interval stands for 1e-5 to 1, on a log scale."""
    return 10 ** (5 * x[:, 0] - 5)


def loss(x: Tensor) -> Tensor:
    """A training nobody has to wait for: a valley, a shallower one beside it, and divergence at large learning rates."""
    e = learning_rate(x).log10()
    valley, shallower = torch.exp(-(((e + 2.2) / 0.5) ** 2)), torch.exp(-(((e + 3.9) / 0.5) ** 2))
    return 0.9 - 0.55 * valley - 0.25 * shallower + 0.5 * torch.sigmoid(8 * (e + 0.8))


def draw(figure: Figure, column: int, x: Tensor, y: Tensor, mean: Tensor, deviation: Tensor, worth: Tensor, picked: Tensor) -> None:
    """One round: the posterior above, the acquisition below, the suggestions in both. All in units of the loss."""
    rate, legend = learning_rate(grid), {"showlegend": column == 1}
    above, below = {"row": 1, "col": column}, {"row": 2, "col": column}
    band = torch.cat([mean + 1.96 * deviation, (mean - 1.96 * deviation).flip(0)])
    line = {"mode": "lines", "hoverinfo": "skip", **legend}
    figure.add_scatter(
        x=torch.cat([rate, rate.flip(0)]).tolist(), y=band.tolist(), name="95 % of the posterior", fill="toself", fillcolor=SKY,
        line_width=0, **above, **line,
    )  # fmt: skip
    figure.add_scatter(x=rate.tolist(), y=loss(grid).tolist(), name="true loss", line={"color": GRAY, "dash": "dot"}, **above, **line)
    figure.add_scatter(x=rate.tolist(), y=mean.tolist(), name="posterior mean", line={"color": BLUE, "width": 3}, **above, **line)
    figure.add_scatter(
        x=learning_rate(x).tolist(), y=y.tolist(), name="observed", mode="markers", marker={"color": "black", "size": 9},
        **above, **legend,
    )  # fmt: skip
    figure.add_scatter(
        x=rate.tolist(), y=worth.tolist(), name="expected improvement", fill="tozeroy", fillcolor="rgba(0, 158, 115, 0.2)",
        line={"color": GREEN, "width": 3}, **below, **line,
    )  # fmt: skip
    near = (grid - picked.T).abs().argmin(0)
    figure.add_scatter(
        x=learning_rate(picked).tolist(), y=worth[near].tolist(), name="suggested, in order", mode="markers+text",
        text=[str(k + 1) for k in range(len(picked))], textposition="top center", textfont={"color": ORANGE, "size": 17},
        marker={"color": ORANGE, "size": 13, "symbol": "diamond"}, cliponaxis=False, **below, **legend,
    )  # fmt: skip
    for place in learning_rate(picked).tolist():
        figure.add_vline(x=place, line={"color": ORANGE, "width": 1.5, "dash": "dash"}, row="all", col=column)
    figure.update_yaxes(range=[0, 1.3 * worth.max().item()], **below)


x = torch.tensor([[0.1], [0.4], [0.75], [0.95]], dtype=torch.float64)
y = loss(x) + NOISE * normals(len(x))
titles = [f"{len(x) + TOGETHER * k} trials" for k in range(ROUNDS)]
figure = make_subplots(
    2, ROUNDS, shared_xaxes=True, row_heights=[0.64, 0.36], column_titles=titles, vertical_spacing=0.06, horizontal_spacing=0.05
)
for column in range(1, ROUNDS + 1):
    scale = y.std()
    standardised = (y - y.mean()) / scale
    fitted = condition(kernel, x, standardised, fit(kernel, x, standardised, seed=column).hyper)
    imagined: Fantasies = fantasize(fitted, x, normals(64, len(x)))     # observations are noisy, so the best value seen is not known
    found = pool(lambda at, f=imagined: log_noisy_expected_improvement(f, at), cube, starts(cube, 256, x, seed=column), taken=x)
    picked = batch(imagined, cube, found, x, normals(64, TOGETHER))
    mean, variance = predict(fitted, grid)
    worth = scale * log_noisy_expected_improvement(imagined, grid).exp()
    draw(figure, column, x, y, y.mean() + scale * mean, scale * variance.sqrt(), worth, picked)
    x, y = torch.cat([x, picked]), torch.cat([y, loss(picked) + NOISE * normals(len(picked))])

figure.update_xaxes(type="log", range=[-5, 0], dtick=1, exponentformat="power", showgrid=True, gridcolor="#EEEEEE")
figure.update_xaxes(title_text="learning rate", row=2)
figure.update_yaxes(range=[0, 1.75], showgrid=True, gridcolor="#EEEEEE", row=1)
figure.update_yaxes(title_text="loss", row=1, col=1)
figure.update_yaxes(title_text="expected improvement<br>of the loss", row=2, col=1)
figure.update_annotations(font_size=19)
figure.update_layout(
    template="simple_white", width=1350, height=720, font={"family": "Arial, Helvetica, sans-serif", "size": 16},
    legend={"orientation": "h", "x": 0.5, "xanchor": "center", "y": 1.16, "font_size": 16}, margin={"t": 110, "r": 30, "l": 105},
)  # fmt: skip
path = Path("runs") / "gp_in_one_dimension.html"
path.parent.mkdir(exist_ok=True)
figure.write_html(path)

best = loss(x).argmin()
print(f"best of {len(x)} trials: learning rate {learning_rate(x)[best]:.2g}, loss {loss(x)[best]:.3f}, of {loss(grid).min():.3f} at best; "
      f"see {path}")
