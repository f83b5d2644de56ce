"""The layer of stepwise monotonic multi-head attention against its formulas, written out in plain torch."""

import copy
import math
import pickle
from typing import Any

import pytest

import alignd_kernels as ak

torch = pytest.importorskip("torch")

B, J, I, D, HEADS, D_K, D_V = 3, 5, 12, 16, 4, 6, 7  # noqa: E741
MEL = torch.tensor([12, 7, 9])
TEXT = torch.tensor([5, 3, 4])


def layer(**options: Any) -> Any:
    torch.manual_seed(0)
    made = ak.StepwiseMonotonicMultiheadAttention(D, D_K, D_V, n_head=HEADS, **options)
    with torch.no_grad():
        for parameter in made.parameters():  # no zeros and ones, which would hide a missing weight or bias
            parameter.copy_(torch.randn(parameter.shape) / 3)
    return made.eval()


@pytest.fixture
def inputs() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1)
    q, k, v = (torch.randn(B, length, D, generator=generator) for length in (J, I, I))
    mask = torch.arange(I)[None, None, :].expand(B, J, I) >= MEL[:, None, None]
    query_mask = torch.arange(J)[None, :, None] >= TEXT[:, None, None]
    return {"q": q, "k": k, "v": v, "mel_len": MEL, "mask": mask, "query_mask": query_mask}


def frame_by_frame(stay: Any, start: Any, first: int) -> Any:
    """alpha [J, I] of probabilities to stay [J, I]; mass that leaves the last token is gone."""
    alpha, found = start.clone(), []
    for i in range(stay.shape[1]):
        if i >= first:
            moved = torch.cat([torch.zeros(1), (alpha * (1 - stay[:, i]))[:-1]])
            alpha = alpha * stay[:, i] + moved
        found.append(alpha)
    return torch.stack(found, 1)


@torch.no_grad()
def expected(
    made: Any, inputs: dict[str, Any], *, paper: bool = False, start: Any = None, threshold: float | None = None
) -> tuple[Any, Any, float, Any]:
    """Context, attention of the best head, mean of the best focus rates, and every head's attention, one at a time."""
    q, k, v = inputs["q"], inputs["k"], inputs["v"]
    contexts, shown, bests, every = [], [], [], []
    for b in range(B):
        heads, soft_heads, rates = [], [], []
        for h in range(HEADS):
            own, own_v = slice(h * D_K, (h + 1) * D_K), slice(h * D_V, (h + 1) * D_V)
            queries = q[b] @ made.query.weight[own].T + made.query.bias[own]
            keys = k[b] @ made.key.weight[own].T + made.key.bias[own]
            values = v[b] @ made.value.weight[own_v].T + made.value.bias[own_v]
            energies = queries @ keys.T / D_K**0.5
            if inputs["mask"] is not None:
                energies = torch.where(inputs["mask"][b], torch.finfo(torch.float32).min, energies)
            soft = energies.exp() / energies.exp().sum(1, keepdim=True)
            if inputs["query_mask"] is not None:
                soft = torch.where(inputs["query_mask"][b], 0.0, soft)
            rates.append(soft.max(0).values.sum() / MEL[b])
            attending = soft
            if made.is_tunable and (threshold is None or rates[-1] >= threshold):
                one = torch.eye(J)[0] if start is None else start[b]
                if paper:
                    S, T = int(TEXT[b]), int(MEL[b])
                    stay = torch.sigmoid(energies[:S, :T])
                    stay[-1] = 1
                    attending = torch.zeros(J, I)
                    attending[:S, :T] = frame_by_frame(stay, one[:S], 1)
                else:
                    attending = frame_by_frame(torch.sigmoid(soft), one, 0)
            heads.append(attending @ values)
            soft_heads.append(soft)
            every.append(attending)
        best = int(torch.stack(rates).argmax())
        shown.append(soft_heads[best])
        bests.append(float(rates[best]))
        joined = torch.cat(heads, 1) @ made.output.weight.T + made.output.bias
        mean, variance = joined.mean(1, keepdim=True), joined.var(1, correction=0, keepdim=True)
        normal = (joined - mean) / (variance + made.layer_norm.eps).sqrt()
        contexts.append(normal * made.layer_norm.weight + made.layer_norm.bias)
    return torch.stack(contexts), torch.stack(shown), sum(bests) / B, torch.stack(every).view(B, HEADS, J, I)


def agree(found: Any, wanted: Any) -> None:
    context, attention, rate = found
    torch.testing.assert_close(context, wanted[0], rtol=2e-5, atol=2e-5)  # sums of 28 products, in another order
    torch.testing.assert_close(attention, wanted[1], rtol=2e-6, atol=1e-7)
    assert isinstance(rate, float)
    assert rate == pytest.approx(wanted[2], rel=1e-5)


@pytest.mark.parametrize("is_tunable", [False, True])
@pytest.mark.parametrize("masked", [(), ("mask",), ("mask", "query_mask")])
def test_published_numbers(inputs: dict[str, Any], is_tunable: bool, masked: tuple[str, ...]) -> None:
    inputs |= dict.fromkeys({"mask", "query_mask"} - set(masked))
    made = layer(is_tunable=is_tunable)
    agree(made(**inputs), expected(made, inputs))


def test_masks_of_zeros_and_ones_and_positional_arguments(inputs: dict[str, Any]) -> None:
    made = layer(is_tunable=True)
    wanted = made(**inputs)
    q, k, v, mel_len, mask, query_mask = inputs.values()
    found = made(q, k, v, mel_len, mask.float(), query_mask.long())
    assert torch.equal(found[0], wanted[0])
    assert torch.equal(found[1], wanted[1])
    assert found[2] == wanted[2]


def test_what_is_masked_out_changes_nothing(inputs: dict[str, Any]) -> None:
    made = layer(is_tunable=True)
    wanted = made(**inputs)
    spoiled = {name: inputs[name].clone() for name in ("k", "v")}
    for b in range(B):
        spoiled["k"][b, MEL[b] :] = 100.0
    found = made(**(inputs | spoiled))
    torch.testing.assert_close(found[0], wanted[0])
    assert torch.equal(found[1], wanted[1])


@pytest.mark.parametrize("form", ["sma", "paper"])
def test_previous_attention(inputs: dict[str, Any], form: Any) -> None:
    made = layer(is_tunable=True, form=form)
    previous = torch.rand(B, J, 1, generator=torch.Generator().manual_seed(2))
    found = made(**inputs, aw_prev=previous)
    agree(found, expected(made, inputs, start=previous[..., 0], paper=form == "paper"))
    assert not torch.equal(found[0], made(**inputs)[0])


def test_the_papers_form_takes_the_lengths_of_both_sides(inputs: dict[str, Any]) -> None:
    made = layer(is_tunable=True, form="paper", attention="monotonic")
    context, shown, rate = made(**inputs)
    wanted = expected(made, inputs, paper=True)
    torch.testing.assert_close(context, wanted[0], rtol=2e-5, atol=2e-5)
    assert rate == pytest.approx(wanted[2], rel=1e-5)
    for b in range(B):
        assert any(torch.allclose(shown[b], wanted[3][b, h], rtol=1e-5, atol=1e-7) for h in range(HEADS))
        torch.testing.assert_close(shown[b].sum(0)[: MEL[b]], torch.ones(int(MEL[b])))
        assert (shown[b, TEXT[b] :] == 0).all()
        assert (shown[b, :, MEL[b] :] == 0).all()


def test_threshold_leaves_unfocused_heads_soft(inputs: dict[str, Any]) -> None:
    made = layer(is_tunable=True)
    soft = layer(is_tunable=False)
    rates = []
    for h in range(HEADS):
        alone = copy.deepcopy(soft)
        alone.n_head = 1
        for name, size in (("query", D_K), ("key", D_K), ("value", D_V)):
            full = getattr(soft, name)
            part = torch.nn.Linear(D, size)
            part.weight.data, part.bias.data = (x.data[h * size : (h + 1) * size] for x in (full.weight, full.bias))
            setattr(alone, name, part)
        alone.output = torch.nn.Linear(D_V, D)
        rates.append(alone(**{n: x[:1] for n, x in inputs.items()})[2])
    threshold = sorted(rates)[1] * 0.5 + sorted(rates)[2] * 0.5  # of the first item two heads are above it
    made.threshold = threshold
    agree(made(**inputs), expected(made, inputs, threshold=threshold))
    made.threshold = 2.0
    assert torch.equal(made(**inputs)[0], soft(**inputs)[0])
    made.threshold = -1.0
    assert torch.equal(made(**inputs)[0], layer(is_tunable=True)(**inputs)[0])


def test_hard_choices_outside_training(inputs: dict[str, Any]) -> None:
    made = layer(is_tunable=True, form="paper", hard=True, attention="monotonic", noise_std=0.0, dropout=0.0)
    shown = made(**inputs)[1]
    assert set(shown.unique().tolist()) == {0.0, 1.0}
    for b in range(B):
        path = shown[b, :, : MEL[b]].argmax(0)
        assert path[0] == 0
        assert set(path.diff().tolist()) <= {0, 1}
        assert (shown[b].sum(0) == (torch.arange(I) < MEL[b])).all()
    made.train()
    assert len(made(**inputs)[1].unique()) > 2


def test_noise_in_training_alone_and_from_the_generator(inputs: dict[str, Any]) -> None:
    made = layer(is_tunable=True, dropout=0.0)
    quiet = made(**inputs)[0]
    assert torch.equal(made(**inputs)[0], quiet)
    made.train()
    noisy, again, other = (made(**inputs, generator=torch.Generator().manual_seed(seed))[0] for seed in (5, 5, 6))
    assert torch.equal(noisy, again)
    assert not torch.equal(noisy, other)
    assert not torch.equal(noisy, quiet)
    made.noise_std = 0.0
    assert torch.equal(made(**inputs)[0], quiet)


@pytest.mark.parametrize("form", ["sma", "paper"])
def test_every_parameter_gets_a_gradient_of_central_differences(inputs: dict[str, Any], form: Any) -> None:
    made = layer(is_tunable=True, form=form).double()
    given = {name: x.double() if x.is_floating_point() else x for name, x in inputs.items()}
    weights = torch.randn(B, J, D, dtype=torch.float64, generator=torch.Generator().manual_seed(3))

    def loss() -> Any:
        return (made(**given)[0] * weights).sum()

    loss().backward()
    for name, parameter in made.named_parameters():
        direction = torch.randn(parameter.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
        with torch.no_grad():
            parameter += 1e-6 * direction
            more = loss()
            parameter -= 2e-6 * direction
            less = loss()
            parameter += 1e-6 * direction
        slope = float((parameter.grad * direction).sum())
        assert slope == pytest.approx(float(more - less) / 2e-6, rel=1e-5, abs=1e-6), name


@pytest.mark.parametrize("options", [{}, *({"is_tunable": True, "form": form} for form in ("sma", "paper"))])
def test_gradcheck_of_the_inputs(options: dict[str, Any]) -> None:
    """Context and attention by queries, keys, values and, where it is used, what the attention starts as."""
    torch.manual_seed(5)
    made = ak.StepwiseMonotonicMultiheadAttention(3, 2, 2, n_head=2, attention="monotonic", **options).double().eval()
    given = [torch.randn(2, length, 3, dtype=torch.float64, requires_grad=True) for length in (2, 3, 3)]
    if options:
        given.append(torch.rand(2, 2, 1, dtype=torch.float64, requires_grad=True))
    masks = torch.zeros(2, 2, 3, dtype=torch.bool), torch.zeros(2, 2, 1, dtype=torch.bool)
    masks[0][1, :, 2], masks[1][1, 1] = True, True

    def attend(q: Any, k: Any, v: Any, start: Any = None) -> Any:
        return made(q, k, v, torch.tensor([3, 2]), *masks, aw_prev=start)[:2]

    assert torch.autograd.gradcheck(attend, given)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("options", [{}, {"form": "paper"}, {"form": "paper", "hard": True}])
def test_halves(inputs: dict[str, Any], kind: Any, options: dict[str, Any]) -> None:
    made = layer(is_tunable=True, **options).to(kind)
    given = {name: x.to(kind) if x.is_floating_point() else x for name, x in inputs.items()}
    context, attention, rate = made(**given)
    assert context.dtype == attention.dtype == kind
    assert context.isfinite().all()
    assert 0 < rate <= 1.01
    if not options:
        wanted = layer(is_tunable=True)(**inputs)
        assert (context.float() - wanted[0]).abs().mean() < 0.1
        made.train()
        made(**given)[0].sum().backward()
        assert all(parameter.grad.isfinite().all() for parameter in made.parameters())


def test_copies_and_states(inputs: dict[str, Any]) -> None:
    made = layer(is_tunable=True)
    wanted = made(**inputs)[0]
    other = ak.StepwiseMonotonicMultiheadAttention(D, D_K, D_V, n_head=HEADS, is_tunable=True).eval()
    assert not torch.equal(other(**inputs)[0], wanted)
    other.load_state_dict(made.state_dict())
    for same in (other, copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        assert torch.equal(same(**inputs)[0], wanted)
    names = {name.split(".")[0] for name in made.state_dict()}
    assert names == {"query", "key", "value", "output", "layer_norm"}


def test_defaults_are_the_published_ones() -> None:
    made = ak.StepwiseMonotonicMultiheadAttention(D, D_K, D_V)
    assert (made.noise_std, made.n_head, made.dropout.p, made.is_tunable) == (1.0, 4, 0.1, False)
    assert made.query.out_features == made.key.out_features == 4 * D_K
    assert made.value.out_features == made.output.in_features == 4 * D_V
    positional = ak.StepwiseMonotonicMultiheadAttention(D, D_K, D_V, 0.5, 2, 0.2, True)
    assert (positional.noise_std, positional.n_head, positional.dropout.p, positional.is_tunable) == (0.5, 2, 0.2, True)


@pytest.mark.parametrize(
    ("message", "options"),
    [
        ("form must be one of", {"form": "he"}),
        ("end must be one of", {"end": "drop"}),
        ("attention must be one of", {"attention": "hard"}),
        ("hard choices need form", {"hard": True}),
        ("noise_std must be finite and not negative", {"noise_std": -0.1}),
        ("noise_std must be finite", {"noise_std": math.inf}),
    ],
)
def test_bad_arguments(message: str, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=message):
        ak.StepwiseMonotonicMultiheadAttention(D, D_K, D_V, **options)


@pytest.mark.parametrize(
    ("error", "message", "spoiled"),
    [
        (ValueError, r"mel_len\[1\] is 13; it must be from 0 to 12", {"mel_len": torch.tensor([12, 13, 9])}),
        (ValueError, r"mel_len\[1\] is 0: an item has at least one frame", {"mel_len": torch.tensor([12, 0, 9])}),
        (ValueError, r"mel_len must be of shape \(3,\)", {"mel_len": torch.tensor([12])}),
        (TypeError, "mel_len must be integers", {"mel_len": torch.tensor([12.0, 7.0, 9.0])}),
        (ValueError, r"mask must be of shape \(3, 5, 12\)", {"mask": torch.zeros(B, 1, I, dtype=torch.bool)}),
        (ValueError, r"query_mask must be of shape \(3, 5, 1\)", {"query_mask": torch.zeros(B, I, 1)}),
        (ValueError, r"aw_prev must be of shape \(3, 5, 1\)", {"aw_prev": torch.zeros(B, J)}),
        (ValueError, r"v must be of shape \(3, 12\)", {"v": torch.zeros(B, J, D)}),
        (ValueError, "q must have 3 dimensions", {"q": torch.zeros(J, D)}),
        (ValueError, "query_mask must mask the last tokens", {"query_mask": torch.eye(J)[0].expand(B, J)[..., None]}),
    ],
)  # fmt: skip
def test_bad_input(inputs: dict[str, Any], error: type[Exception], message: str, spoiled: dict[str, Any]) -> None:
    with pytest.raises(error, match=message):
        layer(is_tunable=True, form="paper")(**(inputs | spoiled))
