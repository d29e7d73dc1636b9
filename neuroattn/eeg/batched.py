"""Many networks of one architecture trained together."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from sklearn.base import clone
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from neuroattn.attention import GATES
from neuroattn.eeg.basenet import BaseNet
from neuroattn.eeg.classifier import MotorImageryClassifier, _whole_batches, check_converged
from neuroattn.eeg.recipe import trial_orders
from neuroattn.eeg.stem import _block_length, _fir, _mixes_first, lag_moments

# Filtered samples of a step that are held at once: more than the caches of a processor hold take longer.
SAMPLES_TOGETHER = 2**21
SAMPLES_IN_CACHE = 2**16


def train_together(
    classifier: MotorImageryClassifier,
    X: Sequence[Any],
    y: Sequence[ArrayLike],
    *,
    seeds: Sequence[int] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[MotorImageryClassifier]:
    """Fit one classifier to many sets of trials or labels, or with many seeds, at once.

    The parameters of many networks are stacked and a step trains all of them. Each has its own trials, labels, order
    of trials, first weights, dropout and running statistics, so that it becomes what it would become alone, whatever
    is trained beside it.

    Parameters
    ----------
    classifier : MotorImageryClassifier
        Its settings are those of every fit; it is not fitted itself.
    X : sequence of float array, shape (trial, channel, time), or of mne.Epochs
        Trials of each fit, as for :meth:`MotorImageryClassifier.fit`. Name the same object again where fits share
        their trials, as in ``[X] * 200``: it is then filtered and standardised once.
    y : sequence of array, shape (trial,)
        Labels of each fit.
    seeds : sequence of int, optional
        Seed of each fit; by default that of ``classifier`` for all.
    progress : callable, optional
        Called with the number of fits done and of all fits.

    Returns
    -------
    list of MotorImageryClassifier
        In the order of ``X``. Each is what ``clone(classifier).set_params(seed=seed).fit(X, y)`` gives, up to rounding
        (on a GPU, up to the draws of dropout as well).

    Raises
    ------
    ValueError
        If ``X``, ``y`` and ``seeds`` differ in length, or a fit refuses its trials.

    Notes
    -----
    Networks are trained together where their trials have one shape, as many at a time as the caches of a processor
    hold. Networks other than :class:`BaseNet`, an attention of the caller's own and augmented batches are
    fitted one after the other.

    Examples
    --------
    The null of a score, here with three permutations:

    >>> rng = np.random.default_rng(0)
    >>> X, y = rng.normal(size=(20, 3, 250)), np.array(["left", "right"] * 10)
    >>> labels = [rng.permutation(y) for _ in range(3)]
    >>> classifier = MotorImageryClassifier("eca", sfreq=125, n_epochs=5)
    >>> fitted = train_together(classifier, [X] * 3, labels, seeds=[0, 1, 2])
    >>> [one.seed for one in fitted], fitted[0].predict(X).shape
    ([0, 1, 2], (20,))
    """
    if seeds is None:
        seeds = [classifier.seed] * len(X)
    for name, values in (("y", y), ("seeds", seeds)):
        if len(values) != len(X):
            raise ValueError(f"{name} must have one entry for each of the {len(X)} of X, got {len(values)}")
    fits = _prepare_all(classifier, X, y, seeds)
    done = 0

    def count(n: int) -> None:
        nonlocal done
        done += n
        if progress is not None:
            progress(done, len(X))

    for group in _grouped(fits):
        _fit_networks(group, count)
    return [fit.classifier for fit in fits]


class _Fit(NamedTuple):
    """A classifier that knows its trials, and what its network is trained on."""

    classifier: MotorImageryClassifier
    scaled: NDArray[np.float32]
    codes: NDArray[np.intp]


def _prepare_all(
    classifier: MotorImageryClassifier, X: Sequence[Any], y: Sequence[ArrayLike], seeds: Sequence[int]
) -> list[_Fit]:
    """Filter and standardise every set of trials once."""
    known: dict[int, _Fit] = {}
    fits = []
    for signals, labels, seed in zip(X, y, seeds, strict=True):
        first = known.get(id(signals))
        if first is None:
            one = clone(classifier).set_params(seed=seed)
            scaled = one._prepare(signals)
        else:
            one = copy.copy(first.classifier).set_params(seed=seed)
            scaled = first.scaled
        fit = _Fit(one, scaled, one._encode(np.asarray(labels), len(scaled)))
        known.setdefault(id(signals), fit)
        fits.append(fit)
    return fits


def _grouped(fits: Sequence[_Fit]) -> list[list[_Fit]]:
    """Group fits whose networks can be trained together."""
    alike: dict[Any, list[_Fit]] = {}
    for i, fit in enumerate(fits):
        one = fit.classifier
        key = (fit.scaled.shape, len(one.classes_), one.sfreq_) if _stackable(one) else i
        alike.setdefault(key, []).append(fit)
    return list(alike.values())


def _stackable(classifier: MotorImageryClassifier) -> bool:
    """Whether the network and its recipe are known through and through."""
    attention = classifier.attention
    named = attention is None or (isinstance(attention, str) and attention in GATES)
    return classifier.model is None and named and not classifier.augment


def _fit_networks(fits: Sequence[_Fit], progress: Callable[[int], None]) -> None:
    """Train the networks of classifiers that go together."""
    one = fits[0].classifier
    networks, generators = [], []
    for fit in fits:
        with torch.random.fork_rng():
            torch.manual_seed(fit.classifier.seed)
            network: Any = fit.classifier._build()
            if not _stackable(one):
                fit.classifier.history_ = fit.classifier._train(network, fit.scaled, fit.codes)
                progress(1)
            generator = torch.Generator(one.device).manual_seed(fit.classifier.seed)
            if generator.device.type == "cpu":
                # Dropout goes on where the first weights ended, as in a fit alone.
                generator.set_state(torch.random.get_rng_state())
        networks.append(network)
        generators.append(generator)
    if _stackable(one):
        sets = {id(fit.scaled): fit.scaled for fit in fits}
        places = {key: place for place, key in enumerate(sets)}
        losses = train_networks(
            networks,
            torch.from_numpy(np.stack(list(sets.values()))).to(one.device),
            [places[id(fit.scaled)] for fit in fits],
            torch.from_numpy(np.stack([fit.codes for fit in fits])).to(one.device),
            orders=[trial_orders(len(fit.scaled), fit.classifier.seed) for fit in fits],
            generators=generators,
            batch_size=one.batch_size,
            rates=[one.learning_rate * one._rate_factor(epoch) for epoch in range(one.n_epochs)],
            progress=progress,
        )
        for fit, history in zip(fits, losses.T.tolist(), strict=True):
            fit.classifier.history_ = check_converged(history)
    for fit, network in zip(fits, networks, strict=True):
        fit.classifier.network_ = network.eval()


def train_networks(
    networks: Sequence[BaseNet],
    x: Tensor,
    of: Sequence[int],
    y: Tensor,
    *,
    orders: Sequence[Iterator[NDArray[np.intp]]],
    generators: Sequence[torch.Generator],
    batch_size: int,
    rates: Sequence[float],
    progress: Callable[[int], None] | None = None,
) -> Tensor:
    """Train networks of one architecture in place, each as if alone.

    Parameters
    ----------
    networks : sequence of BaseNet
        With an attention of :data:`neuroattn.attention.GATES` or none.
    x : Tensor, shape (set, trial, channel, time)
    of : sequence of int
        Set of each network.
    y : Tensor of int, shape (network, trial)
    orders : sequence of iterator
        Order of the trials of each network in each epoch.
    generators : sequence of Generator
        Of each network's dropout.
    batch_size : int
        Made smaller or larger as :class:`MotorImageryClassifier` does.
    rates : sequence of float
        Learning rate of each epoch.
    progress : callable, optional
        Called with the number of networks just finished.

    Returns
    -------
    Tensor, shape (epoch, network)
        Training loss.
    """
    data = _Data(x, networks[0].stem.temporal.kernel_size[1])
    size = _whole_batches(x.shape[1], batch_size)
    samples = size * x.shape[3] * networks[0].stem.spatial.weight.shape[0]
    most = max(1, SAMPLES_TOGETHER // samples)
    losses = []
    for start in range(0, len(networks), most):
        some = slice(start, start + most)
        stack = _Stack([network.to(x.device).train() for network in networks[some]], generators[some])
        sets = torch.as_tensor(of[some], device=x.device)
        losses.append(_train_stack(stack, data, sets, y[some], orders[some], size, rates))
        stack.unstack()
        if progress is not None:
            progress(len(stack.networks))
    return torch.cat(losses, 1)


def _train_stack(
    stack: _Stack,
    data: _Data,
    sets: Tensor,
    y: Tensor,
    orders: Sequence[Iterator[NDArray[np.intp]]],
    size: int,
    rates: Sequence[float],
) -> Tensor:
    adam = torch.optim.Adam(list(stack.parameters.values()), fused=True)
    n_networks, n_trials = y.shape
    losses = torch.zeros(len(rates), n_networks, dtype=torch.float64)
    network = torch.arange(n_networks, device=y.device)[:, None]
    for epoch, rate in enumerate(rates):
        adam.param_groups[0]["lr"] = rate
        shuffled = torch.from_numpy(np.stack([next(order) for order in orders])).to(y.device)
        for trials in torch.split(shuffled, size, dim=1):
            batch = data.batch(sets, trials)
            targets = y[network, batch.trials]
            loss = F.cross_entropy(stack.logits(batch).flatten(0, 1), targets.flatten(), reduction="none")
            loss = loss.view(targets.shape).mean(1)
            adam.zero_grad()
            loss.sum().backward()  # type: ignore[no-untyped-call]
            adam.step()
            losses[epoch] += loss.detach().double().cpu() * (trials.shape[1] / n_trials)
    return losses


class _Batch(NamedTuple):
    """Trials of a step, in a place of their own for each network or for all in one.

    ``x`` is (network, channel, place, time) or (1, channel, place, time), ``mean`` (network or 1, tap) and
    ``covariance`` (network or 1, tap, tap) are lag moments. ``trials`` (network, place) says which trial is where,
    ``ranks`` (network, place) how many come before it in the network's own order, None if as many as in place.
    """

    x: Tensor
    mean: Tensor
    covariance: Tensor
    trials: Tensor
    ranks: Tensor | None


class _Data:
    """Sets of trials with their lag moments, from which batches are taken."""

    def __init__(self, x: Tensor, filter_length: int) -> None:
        self.x = x.transpose(1, 2).contiguous()  # (set, channel, trial, time)
        moments = [lag_moments(trial[None], filter_length) for trial in x.flatten(0, 1)]
        means = torch.stack([mean for mean, _ in moments])
        seconds = torch.stack([covariance for _, covariance in moments]) + means[:, :, None] * means[:, None]
        self.means = means.view(*x.shape[:2], filter_length)
        self.seconds = seconds.view(*x.shape[:2], filter_length, filter_length)

    def batch(self, sets: Tensor, trials: Tensor) -> _Batch:
        """Return the batch of trials (network, rank) of a set for each network."""
        if trials.shape[1] == self.x.shape[2]:
            # All trials stay where they are, and networks on one set share them.
            chosen = sets[:1] if (sets == sets[0]).all() else sets
            x, means, seconds = self.x[chosen], self.means[chosen], self.seconds[chosen]
            ranks = trials.argsort(1)
            trials = torch.arange(trials.shape[1], device=trials.device).expand_as(trials)
        else:
            x = torch.stack(
                [self.x[one].index_select(1, rows) for one, rows in zip(sets, trials, strict=True)]
            )
            means, seconds = self.means[sets[:, None], trials], self.seconds[sets[:, None], trials]
            ranks = None
        mean = means.mean(1)
        covariance = seconds.mean(1) - mean[:, :, None] * mean[:, None]
        return _Batch(x, mean, covariance, trials, ranks)


class _Fir(torch.autograd.Function):
    """`stem._fir` with gradients that are products as well: no scatter into overlapping windows."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, taps: Tensor, bias: Tensor) -> Tensor:
        (n_rows, n_trials, n_times), length = x.shape, taps.shape[1]
        padding = length // 2
        n_out = n_times + 2 * padding - length + 1
        block = _block_length(n_out, length)
        n_blocks = -(-n_out // block)
        width = block + length - 1
        padded = F.pad(x, (padding, n_blocks * block + length - 1 - n_times - padding))
        windows = padded.unfold(2, width, block).reshape(n_rows, n_trials * n_blocks, width)
        # Row i, column j holds tap i - j: a band in a matrix of zeros, written along its diagonals.
        toeplitz = taps.new_zeros(n_rows, width, block)
        _diagonals(toeplitz, length).copy_(taps[:, :, None].expand(-1, -1, block))
        filtered = torch.baddbmm(bias[:, None, None], windows, toeplitz)
        ctx.save_for_backward(windows, taps)
        ctx.shape, ctx.block = x.shape, block
        return filtered.view(n_rows, n_trials, n_blocks * block)[:, :, :n_out]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        (grad,), (windows, taps) = grads, ctx.saved_tensors
        (n_rows, _, n_times), length = ctx.shape, taps.shape[1]
        # Taps turned round lead back; an even number of them has its middle between two samples.
        start = 2 * (length // 2) - (length - 1)
        back = _fir(grad, taps.flip(1), taps.new_zeros(n_rows))[:, :, start : start + n_times]
        n_out = grad.shape[2]
        blocks = F.pad(grad, (0, -n_out % ctx.block)).reshape(n_rows, -1, ctx.block)
        products = windows.mT @ blocks
        return back, _diagonals(products, length).sum(2), grad.sum((1, 2))


def _diagonals(matrix: Tensor, n: int) -> Tensor:
    """Return a view (row, diagonal, entry) of the first lower diagonals of contiguous matrices."""
    rows, height, width = matrix.shape
    return matrix.as_strided((rows, n, width), (height * width, width, width + 1))


class _NormEluPool(torch.autograd.Function):
    """Normalise each row over its batch, apply ELU and average over windows, part by part in the cache.

    Only the input is kept for the gradient. Also returns mean and biased variance.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float, length: int, stride: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        var, mean = torch.var_mean(x, (1, 2), correction=0)
        rstd = (var + eps).rsqrt()
        scale = weight * rstd
        shift = bias - mean * scale
        windows = []
        for part, a, b in _parts(x, scale, shift):
            z = torch.addcmul(b, part, a)
            y = z.clamp(max=0).exp_().sub_(1).add_(z.clamp_(min=0))
            windows.append(F.avg_pool1d(y, length, stride))
        ctx.save_for_backward(x, weight, bias, mean, rstd)
        ctx.window = (1, length), (1, stride), (0, 0), False, True, None
        ctx.mark_non_differentiable(mean, var)
        return torch.cat(windows), mean, var

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, mean, rstd = ctx.saved_tensors
        n = x[0].numel()
        back, of_weight, of_bias = [], [], []
        for part, g, m, r, w, b in _parts(x, grads[0], mean, rstd, weight, bias):
            normal = (part - m).mul_(r)
            slope = torch.addcmul(b, normal, w).clamp_(max=0).exp_()
            spread = torch.ops.aten.avg_pool2d_backward(g[:, :, None], part[:, :, None], *ctx.window)
            d = slope.mul_(spread[:, :, 0])
            of_bias.append(d.sum((1, 2)))
            of_weight.append(torch.linalg.vecdot(d.flatten(1), normal.flatten(1)))
            along, level = of_weight[-1][:, None, None], of_bias[-1][:, None, None]
            back.append(d.sub_(level / n).sub_(normal.mul_(along / n)).mul_(w * r))
        return torch.cat(back), torch.cat(of_weight), torch.cat(of_bias), None, None, None


def _parts(x: Tensor, *others: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield as many rows at a time as stay in the cache; numbers of a row are shaped to go with it."""
    most = max(1, SAMPLES_IN_CACHE // x[0].numel())
    shaped = [other if other.ndim == 3 else other[:, None, None] for other in others]
    return zip(*(torch.split(tensor, most) for tensor in (x, *shaped)), strict=True)


class _Stack:
    """Networks of one architecture with stacked parameters and running statistics (network, ...)."""

    def __init__(self, networks: Sequence[BaseNet], generators: Sequence[torch.Generator]) -> None:
        self.networks, self.generators = networks, generators
        self.parameters, self.buffers = stack_module_state(list(networks))

    def logits(self, batch: _Batch) -> Tensor:
        """Return the logits (network, place, class) of a training batch.

        Between the layers signals are (network * feature, place, window), in which every layer is one product.
        """
        one, n_networks, n_trials = self.networks[0], len(self.networks), batch.x.shape[2]
        y = self._stem(batch)
        y = y.view(n_networks, -1, *y.shape[1:])
        y = self._dropped(y, one.drop.p, batch, not self._mixes_first(batch)).flatten(0, 1)
        y = self._normalised("expansion.1", self._mixed("expansion.0", y))
        y = self._filtered("separable.0", one.expansion[2](y))
        y = one.separable[3](self._normalised("separable.2", self._mixed("separable.1", y)))
        y = y.view(n_networks, -1, *y.shape[1:]).transpose(1, 2)  # (network, place, feature, window)
        if one.attention is not None:
            y = self._attended(y)
        y = self._dropped(one.pool(y).transpose(1, 2), one.feature_drop.p, batch, True).transpose(1, 2)
        weight, bias = (self.parameters[f"final_layer.{kind}"] for kind in ("weight", "bias"))
        return torch.baddbmm(bias[:, None], y.reshape(n_networks, n_trials, -1), weight.mT)

    def unstack(self) -> None:
        """Write parameters and statistics back into the networks."""
        stacked = {**self.parameters, **self.buffers}
        with torch.no_grad():
            for i, network in enumerate(self.networks):
                for name, tensor in chain(network.named_parameters(), network.named_buffers()):
                    tensor.copy_(stacked[name][i])

    def _mixes_first(self, batch: _Batch) -> bool:
        _, n_channels, n_trials, n_times = batch.x.shape
        return _mixes_first(
            torch.Size((n_trials, n_channels, n_times)), self.networks[0].stem.temporal.kernel_size[1]
        )

    def _stem(self, batch: _Batch) -> Tensor:
        """Return windows (network * mixture, place, window): `SpatioTemporalStem` with the statistics of `batch`."""
        stem: Any = self.networks[0].stem
        taps = self.parameters["stem.temporal.weight"].flatten(2)  # (network, filter, tap)
        weights = self.parameters["stem.spatial.weight"].flatten(2)  # (network, mixture, channel)
        exact = taps.double()
        mean = (exact @ batch.mean[..., None])[
            ..., 0
        ]  # (network, filter), as the statistics of the filtered signal
        var = ((exact @ batch.covariance) * exact).sum(2).clamp_min(0)
        n_channels, n_trials, n_times = batch.x.shape[1:]
        n_out = n_times + 2 * (taps.shape[2] // 2) - taps.shape[2] + 1
        n_filtered = n_trials * n_channels * n_out
        self._track("stem.temporal_norm", mean, var * (n_filtered / (n_filtered - 1)))
        norm = {kind: self.parameters[f"stem.temporal_norm.{kind}"] for kind in ("weight", "bias")}
        scale = norm["weight"] * (var + stem.temporal_norm.eps).rsqrt().to(taps.dtype)
        shift = norm["bias"] - scale * mean.to(taps.dtype)
        expansion = weights.shape[1] // taps.shape[1]
        x = batch.x.flatten(2)
        mixed = weights.flatten(0, 1) @ x[0] if len(x) == 1 else weights @ x
        y = _Fir.apply(
            mixed.view(-1, n_trials, n_times),
            (scale[..., None] * taps).repeat_interleave(expansion, 1).flatten(0, 1),
            (shift.repeat_interleave(expansion, 1) * weights.sum(2)).flatten(),
        )
        if type(stem.activation) is not nn.ELU:
            y = stem.activation(self._normalised("stem.norm", y))
            generic: Tensor = stem.pool(y[:, :, None])[:, :, 0]
            return generic
        weight, bias = (self.parameters[f"stem.norm.{kind}"].flatten() for kind in ("weight", "bias"))
        pool, n = stem.pool, y[0].numel()
        windows: Tensor
        windows, mean, var = _NormEluPool.apply(
            y, weight, bias, stem.norm.eps, pool.kernel_size[1], pool.stride[1]
        )
        self._track("stem.norm", mean, var * (n / (n - 1)))
        return windows

    def _mixed(self, name: str, y: Tensor) -> Tensor:
        """Mix features by a convolution of length one."""
        weight = self.parameters[f"{name}.weight"].flatten(2)  # (network, new feature, feature)
        mixed: Tensor = weight @ y.reshape(len(weight), -1, y[0].numel())
        return mixed.view(-1, *y.shape[1:])

    def _filtered(self, name: str, y: Tensor) -> Tensor:
        """Filter every feature by itself."""
        taps = self.parameters[f"{name}.weight"].flatten(0, 1).flatten(1)
        filtered: Tensor = _Fir.apply(y, taps, taps.new_zeros(len(taps)))
        return filtered

    def _normalised(self, name: str, y: Tensor) -> Tensor:
        """Normalise every feature of every network over its batch, and keep its statistics."""
        norm: Any = self.networks[0].get_submodule(name)
        rows = y.shape[0]
        out = F.batch_norm(
            y.reshape(1, rows, -1),
            self.buffers[f"{name}.running_mean"].view(rows),
            self.buffers[f"{name}.running_var"].view(rows),
            self.parameters[f"{name}.weight"].reshape(rows),
            self.parameters[f"{name}.bias"].reshape(rows),
            training=True,
            momentum=norm.momentum,
            eps=norm.eps,
        )
        self.buffers[f"{name}.num_batches_tracked"] += 1
        return out.view(y.shape)

    def _track(self, name: str, mean: Tensor, var: Tensor) -> None:
        momentum = self.networks[0].get_submodule(name).momentum
        for kind, value in (("mean", mean), ("var", var)):
            running = self.buffers[f"{name}.running_{kind}"]
            running.lerp_(value.detach().to(running.dtype).view_as(running), momentum)
        self.buffers[f"{name}.num_batches_tracked"] += 1

    def _attended(self, y: Tensor) -> Tensor:
        """Apply the attention of each network to its signals (network, place, feature, window)."""
        attention: Any = self.networks[0].attention
        state = {
            name.removeprefix("attention."): tensor
            for name, tensor in chain(self.parameters.items(), self.buffers.items())
            if name.startswith("attention.")
        }

        def attend(one: dict[str, Tensor], signals: Tensor) -> Tensor:
            out: Tensor = functional_call(attention, one, (signals,))
            return out

        attended: Tensor = vmap(attend)(state, y)
        return attended

    def _dropped(self, y: Tensor, p: float, batch: _Batch, trials_first: bool) -> Tensor:
        """Drop out of (network, feature, place, window) with the draws that each network alone would make.

        Alone, the signals are (trial, feature, 1, window), in memory as told or with features before trials; draws
        follow the memory. They are made for the trials in their order, and here trials are in their places.
        """
        if p == 0:
            return y
        noise = torch.empty_like(y, memory_format=torch.contiguous_format)
        n_features, n_trials, n_windows = y.shape[1:]
        for i, generator in enumerate(self.generators):
            if trials_first:
                drawn = noise.new_empty(n_trials, n_features, 1, n_windows)
            else:
                drawn = noise.new_empty(n_features, n_trials, 1, n_windows).transpose(0, 1)
            drawn = drawn.bernoulli_(1 - p, generator=generator)[:, :, 0].transpose(0, 1)
            noise[i] = drawn if batch.ranks is None else drawn[:, batch.ranks[i]]
        return y * noise.div_(1 - p) if p < 1 else y * 0
