"""Every token mixer: its equations, its state, padding, initialisation from a teacher, options, and the registry."""

from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from infinitevl_bench.errors import UserError
from infinitevl_bench.models import registry
from infinitevl_bench.models.cache import HybridCache, MixerState, read_state
from infinitevl_bench.models.mixers.base import TokenMixer
from infinitevl_bench.models.registry import ALIASES, MIXERS, get_mixer, mixer_names
from torch import Tensor, nn

every_mixer = pytest.mark.parametrize("name", mixer_names())
# The default, and what the options can take away or add.
OPTIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "bare": {"conv_size": 0, "norm": False, "gate": False},
    "full": {"conv_size": 4, "norm": True, "gate": True},
    "narrow": {"expand_v": 1, "conv_size": 3},
    "half": {"expand_v": 0.5},
}
every_option = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)

Make = Callable[..., TokenMixer]


@pytest.fixture
def make_mixer(make_config: Callable[..., Any]) -> Make:
    """A mixer of width 32 with 4 heads, weights large enough that every part of it shows in the output."""

    def make(name: str, seed: int = 0, **options: Any) -> TokenMixer:
        torch.manual_seed(seed)
        config = make_config(mixer=name, **options).text_config
        config.initializer_range = 0.4
        mixer = get_mixer(name)(config, 1)
        for norm in (module for module in mixer.modules() if type(module).__name__ == "HeadNorm"):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
        return mixer.eval()

    return make


def tokens(B: int, T: int, seed: int = 3, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(B, T, 32, generator=torch.Generator().manual_seed(seed)).to(dtype)


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """Root mean square of the difference over that of what was expected."""
    return float((actual.double() - expected.double()).norm() / expected.double().norm().clamp(min=1e-30))


def assert_same(actual: Tensor | None, expected: Tensor | None, bound: float = 2e-5) -> None:
    assert (actual is None) == (expected is None)
    if actual is not None and expected is not None:
        assert actual.shape == expected.shape
        assert relative_error(actual, expected) <= bound


# --- oracles: the layers written again from their papers, token by token, one head at a time --------------------------


def convolved(x: Tensor, weight: Tensor) -> Tensor:
    """``[T, C]``: torch's own grouped convolution, padded on the left; then SiLU."""
    W = weight.shape[-1]
    return F.silu(F.conv1d(F.pad(x.T[None], (W - 1, 0)), weight, groups=x.shape[1])[0].T)


def layer_oracle(mixer: TokenMixer, x: Tensor) -> Tensor:
    """A mixer of ours on one sequence ``[T, D]``, in float64, from its equations."""
    w = {name: value.detach().double() for name, value in mixer.state_dict().items()}
    x = x.double()
    q, k, v = (x @ w[f"{s}_proj.weight"].T for s in "qkv")
    if "q_conv1d.weight" in w:
        q, k, v = (convolved(y, w[f"{s}_conv1d.weight"]) for s, y in zip("qkv", (q, k, v), strict=True))
    heads = []
    for h in range(mixer.H):
        keys, values = slice(h * mixer.K, (h + 1) * mixer.K), slice(h * mixer.V, (h + 1) * mixer.V)
        heads.append(HEADS[type(mixer).__name__](mixer, w, x, q[:, keys], k[:, keys], v[:, values], h))
    o = torch.stack(heads, dim=1)
    gate = F.silu(x @ w["g_proj.weight"].T).view_as(o) if "g_proj.weight" in w else torch.ones_like(o)

    def normed(y: Tensor) -> Tensor:
        if "o_norm.weight" not in w:
            return y
        return y / (y.pow(2).mean(-1, keepdim=True) + mixer.norm_eps).sqrt() * w["o_norm.weight"]

    o = normed(o * gate) if type(mixer).__name__ == "Mamba2" else normed(o) * gate
    return o.flatten(1) @ w["o_proj.weight"].T


def scan(q: Tensor, transitions: list[Tensor], writes: list[Tensor]) -> Tensor:
    """o_t = S_tᵀ q_t with S_t = A_t S_{t-1} + W_t, both matrices."""
    S, outputs = torch.zeros_like(writes[0]), []
    for t, (A, write) in enumerate(zip(transitions, writes, strict=True)):
        S = A @ S + write
        outputs.append(S.T @ q[t])
    return torch.stack(outputs)


def gated_deltanet_head(
    mixer: TokenMixer, w: dict[str, Tensor], x: Tensor, q: Tensor, k: Tensor, v: Tensor, h: int
) -> Tensor:
    q, k = q / q.norm(dim=-1, keepdim=True) * mixer.K**-0.5, k / k.norm(dim=-1, keepdim=True)
    alpha = torch.exp(-w["A_log"][h].exp() * torch.log1p(torch.exp(x @ w["a_proj.weight"][h] + w["dt_bias"][h])))
    beta = 1 / (1 + torch.exp(-(x @ w["b_proj.weight"][h])))
    one = torch.eye(mixer.K, dtype=x.dtype)
    T = range(len(x))
    return scan(q, [alpha[t] * (one - beta[t] * k[t].outer(k[t])) for t in T], [beta[t] * k[t].outer(v[t]) for t in T])


def mamba2_head(mixer: TokenMixer, w: dict[str, Tensor], x: Tensor, q: Tensor, k: Tensor, v: Tensor, h: int) -> Tensor:
    step = torch.log1p(torch.exp(x @ w["dt_proj.weight"][h] + w["dt_bias"][h]))
    decay = torch.exp(-w["A_log"][h].exp() * step)
    T = range(len(x))
    one = torch.eye(mixer.K, dtype=x.dtype)
    return scan(q, [decay[t] * one for t in T], [step[t] * k[t].outer(v[t]) for t in T]) + w["D"][h] * v


def gla_head(mixer: TokenMixer, w: dict[str, Tensor], x: Tensor, q: Tensor, k: Tensor, v: Tensor, h: int) -> Tensor:
    logit = x @ w["gk_proj.0.weight"].T @ w["gk_proj.1.weight"].T + w["gk_proj.1.bias"]
    alpha = (1 / (1 + torch.exp(-logit))) ** (1 / 16)
    alpha = alpha[:, h * mixer.K : (h + 1) * mixer.K]
    T = range(len(x))
    return scan(q * mixer.K**-0.5, [alpha[t].diag() for t in T], [k[t].outer(v[t]) for t in T])


def linear_attention_head(
    mixer: TokenMixer, w: dict[str, Tensor], x: Tensor, q: Tensor, k: Tensor, v: Tensor, h: int
) -> Tensor:
    q, k = (torch.where(y > 0, y + 1, y.exp()) for y in (q, k))
    weight = (q @ k.T).tril()
    return (weight if "o_norm.weight" in w else weight / weight.sum(-1, keepdim=True)) @ v


HEADS: dict[str, Callable[..., Tensor]] = {
    "GatedDeltaNet": gated_deltanet_head,
    "Mamba2": mamba2_head,
    "GatedLinearAttention": gla_head,
    "LinearAttention": linear_attention_head,
}


@pytest.mark.parametrize("name", MIXERS)
@pytest.mark.parametrize("T", [1, 3, 66], ids="T{}".format)
@pytest.mark.parametrize("options", [OPTIONS[name] for name in ("default", "bare", "full", "narrow")])
def test_a_mixer_is_its_equations(name: str, T: int, options: dict[str, Any], make_mixer: Make) -> None:
    mixer = make_mixer(name, **options)
    x = tokens(2, T)
    with torch.no_grad():
        y, nothing = mixer(x)
    assert nothing is None
    assert_same(y, torch.stack([layer_oracle(mixer, sequence) for sequence in x]), 1e-4)


# --- state ------------------------------------------------------------------------------------------------------------


@every_mixer
@every_option
@torch.no_grad()
def test_one_pass_is_token_by_token(name: str, options: dict[str, Any], make_mixer: Make) -> None:
    mixer, x = make_mixer(name, **options), tokens(2, 70)
    whole, last = mixer.mix(x, None, None)
    state: MixerState | None = None
    outputs = []
    for t in range(70):
        y, state = mixer.mix(x[:, t : t + 1], None, state)
        outputs.append(y)
    assert state is not None
    assert_same(torch.cat(outputs, dim=1), whole)
    assert_same(state.conv, last.conv)
    assert_same(state.recurrent, last.recurrent)


@every_mixer
@pytest.mark.parametrize("cuts", [(1,), (2, 3), (64,), (63, 65), (5, 6, 7, 40)], ids=str)
@torch.no_grad()
def test_pieces_through_the_cache_equal_one_pass(
    name: str, cuts: tuple[int, ...], make_mixer: Make, make_config: Callable[..., Any]
) -> None:
    mixer, x = make_mixer(name), tokens(2, 70)
    whole, _ = mixer(x)
    cache = HybridCache(config=make_config(mixer=name).text_config)
    edges = (0, *cuts, 70)
    outputs = [mixer(x[:, low:high], cache=cache)[0] for low, high in pairwise(edges)]
    assert_same(torch.cat(outputs, dim=1), whole)
    _, last = mixer.mix(x, None, None)
    state = read_state(cache, mixer.layer_idx)
    assert state is not None
    assert_same(state.recurrent, last.recurrent)


@every_mixer
@torch.no_grad()
def test_the_given_state_is_not_modified(name: str, make_mixer: Make) -> None:
    mixer = make_mixer(name)
    _, state = mixer.mix(tokens(2, 9), None, None)
    before = [None if part is None else part.clone() for part in state]
    for T in (1, 20):
        mixer.mix(tokens(2, T, seed=8), None, state)
    for old, new in zip(before, state, strict=True):
        assert (old is None and new is None) or torch.equal(old, new)


@every_mixer
@every_option
@torch.no_grad()
def test_state_elements_are_those_of_the_state(
    name: str, options: dict[str, Any], make_mixer: Make, make_config: Callable[..., Any]
) -> None:
    config = make_config(mixer=name, **options).text_config
    for T in (1, 50):
        _, state = make_mixer(name, **options).mix(tokens(1, T), None, None)
        elements = 0 if state.recurrent is None else state.recurrent.numel()
        assert elements == get_mixer(name).state_elements(config)


@every_mixer
@pytest.mark.parametrize("T", [1, 40])
@torch.no_grad()
def test_bfloat16_models_keep_a_float32_state(name: str, T: int, make_mixer: Make) -> None:
    mixer = make_mixer(name).to(torch.bfloat16)
    wide = make_mixer(name)
    wide.load_state_dict({key: value.float() for key, value in mixer.state_dict().items()})
    x = tokens(2, T, dtype=torch.bfloat16)
    y, state = mixer.mix(x, None, None)
    expected, expected_state = wide.mix(x.float(), None, None)
    assert y.dtype == torch.bfloat16
    assert state.recurrent is not None
    assert state.recurrent.dtype == torch.float32
    # Each of a dozen operations in a row rounds to eight bits.
    assert_same(y, expected, 3e-2)
    assert_same(state.recurrent, expected_state.recurrent, 3e-2)
    assert y.isfinite().all()


@every_mixer
def test_gradients_do_not_depend_on_the_backend(name: str, make_mixer: Make) -> None:
    x = tokens(2, 70)
    gradients = []
    for backend in ("reference", "torch"):
        mixer = make_mixer(name, backend=backend)
        leaf = x.clone().requires_grad_()
        mixer(leaf)[0].sin().sum().backward()
        gradients.append({"x": leaf.grad} | {key: p.grad for key, p in mixer.named_parameters()})
    for key, gradient in gradients[0].items():
        assert gradient is not None, key
        assert relative_error(gradients[1][key], gradient) <= 5e-5, key


@every_mixer
@every_option
def test_every_parameter_is_trained(name: str, options: dict[str, Any], make_mixer: Make) -> None:
    mixer = make_mixer(name, **options)
    mixer(tokens(2, 20))[0].sin().sum().backward()
    assert not [key for key, p in mixer.named_parameters() if p.grad is None or not p.grad.any()]


# --- padding ----------------------------------------------------------------------------------------------------------


def padded(x: Tensor, left: int, right: int) -> tuple[Tensor, Tensor]:
    """The tokens between large garbage, and the mask that says so."""
    B, T, D = x.shape
    garbage = 50 * torch.randn(B, left + T + right, D, generator=torch.Generator().manual_seed(5))
    garbage[:, left : left + T] = x
    mask = torch.zeros(B, left + T + right, dtype=torch.long)
    mask[:, left : left + T] = 1
    return garbage, mask


@every_mixer
@every_option
@pytest.mark.parametrize("left", [1, 5, 64])
@torch.no_grad()
def test_left_padding_changes_nothing(name: str, options: dict[str, Any], left: int, make_mixer: Make) -> None:
    mixer, x = make_mixer(name, **options), tokens(2, 20)
    alone, last = mixer.mix(x, None, None)
    both, mask = padded(x, left, 0)
    y, state = mix_masked(mixer, both, mask)
    assert y.isfinite().all()
    assert_same(y[:, left:], alone)
    assert_same(state.conv, last.conv)
    assert_same(state.recurrent, last.recurrent)


@every_mixer
@every_option
@pytest.mark.parametrize("right", [1, 5, 64])
@torch.no_grad()
def test_right_padding_changes_nothing(name: str, options: dict[str, Any], right: int, make_mixer: Make) -> None:
    mixer, x = make_mixer(name, **options), tokens(2, 20)
    alone, last = mixer.mix(x, None, None)
    both, mask = padded(x, 0, right)
    y, state = mix_masked(mixer, both, mask)
    assert y.isfinite().all()
    assert_same(y[:, :20], alone)
    assert_same(state.recurrent, last.recurrent)


@every_mixer
@torch.no_grad()
def test_right_padding_leaves_the_convolutions_where_the_tokens_ended(name: str, make_mixer: Make) -> None:
    mixer, x = make_mixer(name, conv_size=4), tokens(2, 20)
    _, last = mixer.mix(x, None, None)
    _, state = mix_masked(mixer, *padded(x, 0, 5))
    assert_same(state.conv, last.conv)


@every_mixer
@pytest.mark.parametrize("conv_size", [0, 4], ids="conv{}".format)
@torch.no_grad()
def test_padding_inside_changes_nothing(name: str, conv_size: int, make_mixer: Make) -> None:
    mixer, x = make_mixer(name, conv_size=conv_size), tokens(2, 20)
    alone, last = mixer.mix(x, None, None)
    hole, mask = padded(x, 0, 6)
    hole = torch.cat([x[:, :9], hole[:, 20:], x[:, 9:]], dim=1)
    mask = torch.cat([mask[:, :9], mask[:, 20:], mask[:, 9:20]], dim=1)
    y, state = mix_masked(mixer, hole, mask)
    assert_same(torch.cat([y[:, :9], y[:, 15:]], dim=1), alone)
    assert_same(state.recurrent, last.recurrent)


@every_mixer
@torch.no_grad()
def test_sequences_of_other_lengths_in_the_batch_change_nothing(name: str, make_mixer: Make) -> None:
    mixer = make_mixer(name)
    lengths = [1, 7, 30]
    batch, mask = torch.zeros(3, 30, 32), torch.zeros(3, 30, dtype=torch.long)
    for row, length in enumerate(lengths):
        batch[row, -length:] = tokens(1, length, seed=row)
        mask[row, -length:] = 1
    y, _ = mixer(batch, attention_mask=mask)
    for row, length in enumerate(lengths):
        alone, _ = mixer(tokens(1, length, seed=row))
        assert_same(y[row, -length:], alone[0])


def mix_masked(mixer: TokenMixer, x: Tensor, mask: Tensor) -> tuple[Tensor, MixerState]:
    """Run a mixer as the decoder does, and return the state that it would hand to the cache."""
    kept: list[MixerState] = []
    mix = mixer.mix

    def record(*arguments: Any) -> tuple[Tensor, MixerState]:
        y, state = mix(*arguments)
        kept.append(state)
        return y, state

    mixer.mix = record  # type: ignore[method-assign]
    try:
        y, _ = mixer(x, attention_mask=mask)
    finally:
        del mixer.mix
    return y, kept[0]


# --- names, options, initialisation -----------------------------------------------------------------------------------


def test_gated_deltanet_has_the_published_parameter_names(make_mixer: Make) -> None:
    assert set(make_mixer("gated_deltanet").state_dict()) == {
        *(f"{stream}_proj.weight" for stream in "qkvabgo"),
        *(f"{stream}_conv1d.weight" for stream in "qkv"),
        "A_log", "dt_bias", "o_norm.weight",
    }  # fmt: skip


@every_mixer
def test_an_unknown_option_answers_with_the_nearest(name: str, make_mixer: Make) -> None:
    with pytest.raises(UserError, match="did you mean expand_v"):
        make_mixer(name, expand_w=1)


@every_mixer
def test_an_unknown_backend_answers_with_the_nearest(name: str, make_mixer: Make) -> None:
    with pytest.raises(UserError, match="did you mean torch"):
        make_mixer(name, backend="torhc")(tokens(1, 3))


@every_mixer
def test_variants_name_what_differs(name: str, make_config: Callable[..., Any]) -> None:
    mixer = get_mixer(name)

    def variant(**options: Any) -> str:
        return mixer.variant(make_config(mixer=name, **options).text_config)

    default = variant()
    assert variant(**mixer.options) == default
    # The backend changes how a number is computed, not which.
    assert variant(backend="reference") == default
    for option in ("conv_size", "norm", "gate"):
        other = (0 if mixer.options[option] else 4) if option == "conv_size" else not mixer.options[option]
        assert variant(**{option: other}) != default


@every_mixer
def test_variants_name_the_width_of_the_values(name: str, make_config: Callable[..., Any]) -> None:
    variants = {
        get_mixer(name).variant(make_config(mixer=name, expand_v=width).text_config) for width in (0.5, 1, 2, 4)
    }
    assert len(variants) == 4


def test_the_variants_of_plain_linear_attention(make_config: Callable[..., Any]) -> None:
    mixer = get_mixer("linear_attention")

    def variant(**options: Any) -> str:
        return mixer.variant(make_config(mixer="linear_attention", **options).text_config)

    assert variant() == "bare"
    assert variant(norm=True) == "norm=True"
    assert variant(conv_size=4, norm=True, gate=True) == "conv_size=4, gate=True, norm=True"
    assert get_mixer("gated_deltanet").variant(make_config().text_config) == ""


@every_mixer
def test_initialisation_follows_the_seed(name: str, make_mixer: Make) -> None:
    mixer = make_mixer(name)
    drawn = []
    for seed in (4, 4, 5):
        with torch.no_grad():
            for p in mixer.parameters():
                p.fill_(torch.nan)
        torch.manual_seed(seed)
        mixer.reset_parameters()
        drawn.append({key: value.clone() for key, value in mixer.state_dict().items()})
    for key, value in drawn[0].items():
        assert value.isfinite().all(), f"{key} is not initialised"
        assert torch.equal(value, drawn[1][key]), key
    assert any(not torch.equal(value, drawn[2][key]) for key, value in drawn[0].items())


@every_mixer
def test_a_fresh_mixer_remembers(name: str, make_config: Callable[..., Any]) -> None:
    torch.manual_seed(0)
    mixer = get_mixer(name)(make_config(mixer=name).text_config, 0)
    x = tokens(1, 30)
    other = x.clone()
    other[:, 0] += 1
    with torch.no_grad():
        (y, _), (z, _) = mixer(x), mixer(other)
    assert not torch.equal(y[:, -1], z[:, -1])


class Attention(nn.Module):
    """The projections of a grouped-query attention."""

    def __init__(self, width: int = 32, heads: int = 4, groups: int = 2, head_dim: int = 8, bias: bool = True) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.q_proj = nn.Linear(width, heads * head_dim, bias=bias)
        self.k_proj = nn.Linear(width, groups * head_dim, bias=bias)
        self.v_proj = nn.Linear(width, groups * head_dim, bias=bias)
        self.o_proj = nn.Linear(heads * head_dim, width, bias=False)


@every_mixer
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("expand_v", [1, 2, 3])
def test_initialisation_from_attention(name: str, groups: int, expand_v: int, make_mixer: Make) -> None:
    torch.manual_seed(1)
    mixer, teacher = make_mixer(name, expand_v=expand_v), Attention(groups=groups)
    before = {key: value.clone() for key, value in mixer.state_dict().items()}
    taught = {key: value.clone() for key, value in teacher.state_dict().items()}
    mixer.init_from_attention(teacher)
    assert torch.equal(mixer.q_proj.weight, teacher.q_proj.weight)
    for h in range(4):
        group = h * groups // 4
        rows, shared = slice(h * 8, h * 8 + 8), slice(group * 8, group * 8 + 8)
        assert torch.equal(mixer.k_proj.weight[rows], teacher.k_proj.weight[shared])
        # A token that a head looks at alone reaches the output as it does in the teacher.
        wide = slice(h * mixer.V, (h + 1) * mixer.V)
        ours = mixer.o_proj.weight[:, wide] @ mixer.v_proj.weight[wide]
        theirs = teacher.o_proj.weight[:, rows] @ teacher.v_proj.weight[shared]
        torch.testing.assert_close(ours, theirs)
    for key, value in mixer.state_dict().items():
        if "conv1d" in key:
            # Attention has no convolution, so every token passes as it is.
            assert torch.equal(value, torch.tensor([0.0, 0.0, 0.0, 1.0]).expand_as(value))
        elif key not in {f"{stream}_proj.weight" for stream in "qkvo"}:
            assert torch.equal(value, before[key]), f"{key} is none of attention's"
    for key, value in teacher.state_dict().items():
        assert torch.equal(value, taught[key])


MISFITS = {
    "another width": {"width": 64},
    "fewer channels": {"heads": 2, "groups": 1},
    "groups that do not divide": {"groups": 3},
    "two wider heads": {"heads": 2, "groups": 1, "head_dim": 16},
}


@every_mixer
@pytest.mark.parametrize("case", MISFITS)
def test_attention_that_does_not_fit_is_refused(name: str, case: str, make_mixer: Make) -> None:
    mixer = make_mixer(name)
    before = {key: value.clone() for key, value in mixer.state_dict().items()}
    with pytest.raises(UserError, match="does not fit"):
        mixer.init_from_attention(Attention(**MISFITS[case]))
    for key, value in mixer.state_dict().items():
        assert torch.equal(value, before[key]), f"{key} was changed all the same"


@every_mixer
def test_values_that_are_no_multiple_of_attentions_are_refused(name: str, make_mixer: Make) -> None:
    with pytest.raises(UserError):
        make_mixer(name, expand_v=1.5).init_from_attention(Attention())


# --- against transformers' own Mamba-2 --------------------------------------------------------------------------------


@pytest.mark.parametrize("heads", [1, 4])
@pytest.mark.parametrize("T", [1, 7, 64, 100], ids="T{}".format)
@torch.no_grad()
def test_mamba2_is_transformers(heads: int, T: int, make_config: Callable[..., Any]) -> None:
    modeling = pytest.importorskip("transformers.models.mamba2.modeling_mamba2")
    config = make_config(mixer="mamba2").text_config
    config.num_attention_heads, config.initializer_range = heads, 0.4
    torch.manual_seed(0)
    ours = get_mixer("mamba2")(config, 0)
    nn.init.uniform_(ours.o_norm.weight, 0.5, 1.5)
    nn.init.uniform_(ours.D, 0.5, 1.5)
    K, V = ours.K, ours.V
    theirs = modeling.Mamba2Mixer(
        modeling.Mamba2Config(
            hidden_size=32, num_heads=heads, head_dim=V, expand=heads * V // 32, state_size=K, n_groups=heads,
            conv_kernel=4, use_conv_bias=False, use_bias=False, chunk_size=16, num_hidden_layers=1,
            layer_norm_epsilon=ours.norm_eps, time_step_limit=(0.0, float("inf")),
        ),
        layer_idx=0,
    ).eval()  # fmt: skip
    if heads > 1 and not hasattr(theirs.norm, "group_size"):
        pytest.skip("this release of transformers norms over all heads at once")
    # In transformers' order: gate, x, B, C, step.
    projections = (ours.g_proj, ours.v_proj, ours.k_proj, ours.q_proj, ours.dt_proj)
    filters = (ours.v_conv1d, ours.k_conv1d, ours.q_conv1d)
    theirs.in_proj.weight.copy_(torch.cat([projection.weight for projection in projections]))
    theirs.conv1d.weight.copy_(torch.cat([stream.weight for stream in filters]))
    theirs.out_proj.weight.copy_(ours.o_proj.weight)
    theirs.norm.weight.copy_(ours.o_norm.weight.repeat(heads))
    for name in ("A_log", "dt_bias", "D"):
        getattr(theirs, name).copy_(getattr(ours, name))
    x = tokens(2, T)
    assert_same(ours(x)[0], theirs(x), 2e-5)


# --- registry ---------------------------------------------------------------------------------------------------------


def test_aliases_are_other_names_of_mixers() -> None:
    assert not set(ALIASES) & set(MIXERS)
    for alias, name in ALIASES.items():
        assert get_mixer(alias) is get_mixer(name)
        assert get_mixer(alias.upper()) is get_mixer(name)


@pytest.mark.parametrize(
    ("wrong", "nearest"), [("glaa", "gla"), ("gated_delta_net", "gated_deltanet"), ("mamba3", "mamba")]
)
def test_unknown_mixers_answer_with_the_nearest(wrong: str, nearest: str) -> None:
    with pytest.raises(UserError, match=f"did you mean .*{nearest}") as caught:
        get_mixer(wrong)
    assert caught.value.exit_code == 2


@pytest.fixture
def entry_points(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[dict[str, str]]:
    """A place to install mixers of other packages: name → "module:Class", from a module that lies on the path."""
    (tmp_path / "their_mixers.py").write_text(
        "from infinitevl_bench.models.mixers.gla import GatedLinearAttention\n"
        "class Theirs(GatedLinearAttention):\n    '''Theirs.'''\n"
        "class NoMixer:\n    '''Something else.'''\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    found: dict[str, str] = {}
    caches = [f for f in vars(registry).values() if hasattr(f, "cache_clear")]

    def lookup(group: str) -> list[EntryPoint]:
        return [EntryPoint(name, value, group) for name, value in found.items()]

    monkeypatch.setattr(registry, "entry_points", lookup)
    for function in caches:
        function.cache_clear()
    yield found
    monkeypatch.undo()
    for function in caches:
        function.cache_clear()


def test_an_entry_point_adds_a_mixer(entry_points: dict[str, str], make_config: Callable[..., Any]) -> None:
    entry_points["theirs"] = "their_mixers:Theirs"
    assert mixer_names() == [*MIXERS, "theirs"]
    theirs = get_mixer("theirs")
    assert theirs.__name__ == "Theirs"
    torch.manual_seed(0)
    y, _ = theirs(make_config(mixer="theirs").text_config, 0)(tokens(1, 5))
    assert y.shape == (1, 5, 32)


def test_an_entry_point_with_capitals_is_found(entry_points: dict[str, str]) -> None:
    entry_points["Theirs"] = "their_mixers:Theirs"
    assert get_mixer(mixer_names()[-1]).__name__ == "Theirs"


def test_an_entry_point_that_is_no_mixer_is_refused(entry_points: dict[str, str]) -> None:
    entry_points["theirs"] = "their_mixers:NoMixer"
    with pytest.raises(UserError, match="not a subclass of TokenMixer"):
        get_mixer("theirs")


@pytest.mark.parametrize("taken", ["gla", "mamba"])
def test_an_entry_point_cannot_take_a_name_that_exists(entry_points: dict[str, str], taken: str) -> None:
    entry_points[taken] = "their_mixers:Theirs"
    with pytest.raises(UserError, match="exists"):
        mixer_names()


@pytest.mark.parametrize("value", ["no_such_module:Theirs", "their_mixers:Missing"])
def test_a_broken_entry_point_says_so(entry_points: dict[str, str], value: str) -> None:
    entry_points["theirs"] = value
    with pytest.raises(UserError, match="theirs"):
        get_mixer("theirs")
