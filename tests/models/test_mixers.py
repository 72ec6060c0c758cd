"""Every token mixer as a layer: against its equations, and against the layers of other libraries."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from infinitevl_bench.models.registry import get_mixer
from torch import Tensor, nn

from .mixing import Make, assert_same, every_variant, tokens

# --- oracles: the layers written again from their papers, token by token, one head at a time --------------------------


def convolved(x: Tensor, weight: Tensor) -> Tensor:
    """``[T, C]``: torch's own grouped convolution, padded on the left; then SiLU."""
    return F.silu(convolved_bare(x, weight))


def convolved_bare(x: Tensor, weight: Tensor) -> Tensor:
    W = weight.shape[-1]
    return F.conv1d(F.pad(x.T[None], (W - 1, 0)), weight, groups=x.shape[1])[0].T


def layer_oracle(mixer: Any, x: Tensor) -> Tensor:
    """A mixer of ours on one sequence ``[T, D]``, in float64, from its equations."""
    w = {name: value.detach().double() for name, value in mixer.state_dict().items()}
    x = x.double()
    kind = type(mixer).__name__
    if kind in LAYERS:
        return LAYERS[kind](mixer, w, x)
    q, k, v = (x @ w[f"{s}_proj.weight"].T for s in "qkv")
    if "q_conv1d.weight" in w:
        convolve = convolved_bare if kind == "HGRN2" else convolved
        q, k, v = (convolve(y, w[f"{s}_conv1d.weight"]) for s, y in zip("qkv", (q, k, v), strict=True))
    heads = []
    for h in range(mixer.H):
        keys, values = slice(h * mixer.K, (h + 1) * mixer.K), slice(h * mixer.V, (h + 1) * mixer.V)
        heads.append(HEADS[kind](mixer, w, x, q[:, keys], k[:, keys], v[:, values], h))
    o = torch.stack(heads, dim=1)
    gate = F.silu(x @ w["g_proj.weight"].T).view_as(o) if "g_proj.weight" in w else torch.ones_like(o)
    o = normed(mixer, w, o * gate) if kind == "Mamba2" else normed(mixer, w, o) * gate
    return o.flatten(1) @ w["o_proj.weight"].T


def normed(mixer: Any, w: dict[str, Tensor], y: Tensor) -> Tensor:
    if "o_norm.weight" not in w:
        return y
    return y / (y.pow(2).mean(-1, keepdim=True) + mixer.norm_eps).sqrt() * w["o_norm.weight"]


def scan(q: Tensor, transitions: list[Tensor], writes: list[Tensor]) -> Tensor:
    """o_t = S_tᵀ q_t with S_t = A_t S_{t-1} + W_t, both matrices."""
    S, outputs = torch.zeros_like(writes[0]), []
    for t, (A, write) in enumerate(zip(transitions, writes, strict=True)):
        S = A @ S + write
        outputs.append(S.T @ q[t])
    return torch.stack(outputs)


def gated_deltanet_head(mixer: Any, w: dict[str, Tensor], x: Tensor, q: Tensor, k: Tensor, v: Tensor, h: int) -> Tensor:
    q, k = q / q.norm(dim=-1, keepdim=True) * mixer.K**-0.5, k / k.norm(dim=-1, keepdim=True)
    alpha = torch.exp(-w["A_log"][h].exp() * torch.log1p(torch.exp(x @ w["a_proj.weight"][h] + w["dt_bias"][h])))
    beta = 1 / (1 + torch.exp(-(x @ w["b_proj.weight"][h])))
    one = torch.eye(mixer.K, dtype=x.dtype)
    T = range(len(x))
    return scan(q, [alpha[t] * (one - beta[t] * k[t].outer(k[t])) for t in T], [beta[t] * k[t].outer(v[t]) for t in T])


def mamba2_head(mixer: Any, w: dict[str, Tensor], x: Tensor, q: Tensor, k: Tensor, v: Tensor, h: int) -> Tensor:
    step = torch.log1p(torch.exp(x @ w["dt_proj.weight"][h] + w["dt_bias"][h]))
    decay = torch.exp(-w["A_log"][h].exp() * step)
    T = range(len(x))
    one = torch.eye(mixer.K, dtype=x.dtype)
    return scan(q, [decay[t] * one for t in T], [step[t] * k[t].outer(v[t]) for t in T]) + w["D"][h] * v


def gla_head(mixer: Any, w: dict[str, Tensor], x: Tensor, q: Tensor, k: Tensor, v: Tensor, h: int) -> Tensor:
    logit = x @ w["gk_proj.0.weight"].T @ w["gk_proj.1.weight"].T + w["gk_proj.1.bias"]
    alpha = (1 / (1 + torch.exp(-logit))) ** (1 / 16)
    alpha = alpha[:, h * mixer.K : (h + 1) * mixer.K]
    T = range(len(x))
    return scan(q * mixer.K**-0.5, [alpha[t].diag() for t in T], [k[t].outer(v[t]) for t in T])


def linear_attention_head(
    mixer: Any, w: dict[str, Tensor], x: Tensor, q: Tensor, k: Tensor, v: Tensor, h: int
) -> Tensor:
    q, k = (torch.where(y > 0, y + 1, y.exp()) for y in (q, k))
    weight = (q @ k.T).tril()
    return (weight if "o_norm.weight" in w else weight / weight.sum(-1, keepdim=True)) @ v


def deltanet_head(mixer: Any, w: dict[str, Tensor], x: Tensor, q: Tensor, k: Tensor, v: Tensor, h: int) -> Tensor:
    q, k = q / q.norm(dim=-1, keepdim=True) * mixer.K**-0.5, k / k.norm(dim=-1, keepdim=True)
    beta = 1 / (1 + torch.exp(-(x @ w["b_proj.weight"][h])))
    one = torch.eye(mixer.K, dtype=x.dtype)
    T = range(len(x))
    return scan(q, [one - beta[t] * k[t].outer(k[t]) for t in T], [beta[t] * k[t].outer(v[t]) for t in T])


def kimi_head(mixer: Any, w: dict[str, Tensor], x: Tensor, q: Tensor, k: Tensor, v: Tensor, h: int) -> Tensor:
    keys = slice(h * mixer.K, (h + 1) * mixer.K)
    q, k = q / q.norm(dim=-1, keepdim=True) * mixer.K**-0.5, k / k.norm(dim=-1, keepdim=True)
    rate = (x @ w["f_proj.0.weight"].T @ w["f_proj.1.weight"].T + w["dt_bias"])[:, keys]
    alpha = torch.exp(-w["A_log"][h].exp() * torch.log1p(torch.exp(rate)))
    beta = 1 / (1 + torch.exp(-(x @ w["b_proj.weight"][h])))
    one = torch.eye(mixer.K, dtype=x.dtype)
    T = range(len(x))
    moves = [(one - beta[t] * k[t].outer(k[t])) @ alpha[t].diag() for t in T]
    return scan(q, moves, [beta[t] * k[t].outer(v[t]) for t in T])


def retnet_head(mixer: Any, w: dict[str, Tensor], x: Tensor, q: Tensor, k: Tensor, v: Tensor, h: int) -> Tensor:
    distance = torch.arange(len(x))[:, None] - torch.arange(len(x))
    weight = (1 - 2.0 ** (-5 - h)) ** distance.clamp(min=0) * (distance >= 0)
    return (q @ k.T * weight * mixer.K**-0.5) @ v


def hgrn2_head(mixer: Any, w: dict[str, Tensor], x: Tensor, q: Tensor, k: Tensor, v: Tensor, h: int) -> Tensor:
    low = 1 / (1 + torch.exp(-w["lower_bound_logit"])).view(mixer.H, mixer.K)[h] if "lower_bound_logit" in w else 0.0
    forget = low + (1 - low) / (1 + torch.exp(-k))
    T = range(len(x))
    return scan(F.silu(q) * mixer.K**-0.5, [forget[t].diag() for t in T], [(1 - forget[t]).outer(v[t]) for t in T])


def mamba1_layer(mixer: Any, w: dict[str, Tensor], x: Tensor) -> Tensor:
    u = x @ w["v_proj.weight"].T
    if "v_conv1d.weight" in w:
        u = convolved(u, w["v_conv1d.weight"])
    r, B, C = (u @ w["x_proj.weight"].T).split([mixer.rank, mixer.K, mixer.K], dim=-1)
    step = torch.log1p(torch.exp(r @ w["dt_proj.weight"].T + w["dt_proj.bias"]))
    S, outputs = torch.zeros_like(w["A_log"]), []
    for t in range(len(x)):
        S = torch.exp(-w["A_log"].exp() * step[t][:, None]) * S + (step[t] * u[t]).outer(B[t])
        outputs.append(S @ C[t] + w["D"] * u[t])
    return (torch.stack(outputs) * F.silu(x @ w["g_proj.weight"].T)) @ w["o_proj.weight"].T


def identity_layer(mixer: Any, w: dict[str, Tensor], x: Tensor) -> Tensor:
    o = normed(mixer, w, (x @ w["v_proj.weight"].T).view(-1, mixer.H, mixer.V)).flatten(1)
    return (o * F.silu(x @ w["g_proj.weight"].T) if "g_proj.weight" in w else o) @ w["o_proj.weight"].T


HEADS: dict[str, Callable[..., Tensor]] = {
    "GatedDeltaNet": gated_deltanet_head,
    "Mamba2": mamba2_head,
    "GatedLinearAttention": gla_head,
    "LinearAttention": linear_attention_head,
    "DeltaNet": deltanet_head,
    "KimiDeltaAttention": kimi_head,
    "RetNet": retnet_head,
    "HGRN2": hgrn2_head,
}
LAYERS: dict[str, Callable[..., Tensor]] = {"Mamba1": mamba1_layer, "Identity": identity_layer}


@every_variant
@pytest.mark.parametrize("T", [1, 3, 66], ids="T{}".format)
def test_a_mixer_is_its_equations(name: str, options: dict[str, Any], T: int, make_mixer: Make) -> None:
    mixer = make_mixer(name, **options)
    x = tokens(2, T)
    with torch.no_grad():
        y, nothing = mixer(x)
    assert nothing is None
    assert_same(y, torch.stack([layer_oracle(mixer, sequence) for sequence in x]), 1e-4)


@torch.no_grad()
def test_the_first_layer_of_hgrn2_has_no_lower_bound(make_mixer: Make) -> None:
    first, x = make_mixer("hgrn2", layer_idx=0), tokens(1, 20)
    assert "lower_bound_logit" not in first.state_dict()
    assert_same(first(x)[0][0], layer_oracle(first, x[0]), 1e-4)


@torch.no_grad()
def test_identity_passes_nothing_between_tokens(make_mixer: Make) -> None:
    mixer, x = make_mixer("identity"), tokens(1, 20)
    y, _ = mixer(x)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    assert_same(mixer(x[:, order])[0], y[:, order], 1e-6)


# --- against transformers' own layers --------------------------------------------------------------------------------


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


@pytest.mark.parametrize("T", [1, 7, 64, 100], ids="T{}".format)
@torch.no_grad()
def test_mamba1_is_transformers(T: int, make_mixer: Make) -> None:
    modeling = pytest.importorskip("transformers.models.mamba.modeling_mamba")
    ours = make_mixer("mamba1")
    nn.init.uniform_(ours.D, 0.5, 1.5)
    config = modeling.MambaConfig(
        hidden_size=32, intermediate_size=64, expand=2, state_size=16, conv_kernel=4, time_step_rank=ours.rank,
        use_conv_bias=False, use_bias=False, num_hidden_layers=1, use_mambapy=False,
    )  # fmt: skip
    theirs = modeling.MambaMixer(config, layer_idx=0).eval()
    theirs.in_proj.weight.copy_(torch.cat([ours.v_proj.weight, ours.g_proj.weight]))
    theirs.conv1d.weight.copy_(ours.v_conv1d.weight)
    theirs.x_proj.weight.copy_(ours.x_proj.weight)
    theirs.dt_proj.load_state_dict(ours.dt_proj.state_dict())
    theirs.out_proj.weight.copy_(ours.o_proj.weight)
    for name in ("A_log", "D"):
        getattr(theirs, name).copy_(getattr(ours, name))
    x = tokens(2, T)
    assert_same(ours(x)[0], theirs(x), 2e-5)
