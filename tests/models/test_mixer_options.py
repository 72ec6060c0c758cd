"""Every token mixer: parameter names, options, variants, initialisation, and how it starts from a teacher."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from infinitevl_bench.errors import UserError
from infinitevl_bench.models.registry import get_mixer, mixer_names
from torch import nn

from .mixing import Make, every_mixer, tokens


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


WRONG: dict[str, list[Any]] = {
    "expand_v": [0, -1, 0.01, float("nan"), float("inf"), "2", True, None],
    "conv_size": [-1, 2.5, "4", True, None],
    "state_size": [0, -2, 2.5, "16"],
    "norm": ["no", 1, None],
    "gate": ["no", 0],
    "backend": [None, 3],
}


@every_mixer
def test_a_value_that_an_option_cannot_have_is_named(name: str, make_mixer: Make) -> None:
    for option in WRONG.keys() & get_mixer(name).options.keys():
        for value in WRONG[option]:
            with pytest.raises(UserError, match=f"{option} .*(is|leaves)"):
                make_mixer(name, **{option: value})


@every_mixer
def test_an_unknown_backend_answers_with_the_nearest(name: str, make_mixer: Make) -> None:
    mixer = make_mixer(name, backend="torhc")
    if mixer.recurrence is None:
        # Nothing runs on a backend.
        mixer(tokens(1, 3))
        return
    with pytest.raises(UserError, match="did you mean torch"):
        mixer(tokens(1, 3))


@every_mixer
def test_variants_name_what_differs(name: str, make_config: Callable[..., Any]) -> None:
    mixer = get_mixer(name)

    def variant(**options: Any) -> str:
        return mixer.variant(make_config(mixer=name, **options).text_config)

    default = variant()
    assert variant(**mixer.options) == default
    # The backend changes how a number is computed, not which.
    assert variant(backend="reference") == default
    for option in mixer.options.keys() & {"conv_size", "norm", "gate"}:
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


@pytest.mark.parametrize("name", [name for name in mixer_names() if get_mixer(name).recurrence is not None])
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


# What of attention a mixer has no place for.
NOTHING_TAKEN = {"hgrn2": "k", "mamba1": "qk", "identity": "qk"}


@every_mixer
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("expand_v", [1, 2, 3])
def test_initialisation_from_attention(name: str, groups: int, expand_v: int, make_mixer: Make) -> None:
    torch.manual_seed(1)
    mixer, teacher = make_mixer(name, expand_v=expand_v), Attention(groups=groups)
    before = {key: value.clone() for key, value in mixer.state_dict().items()}
    taught = {key: value.clone() for key, value in teacher.state_dict().items()}
    mixer.init_from_attention(teacher)
    taken = set("qkvo") - set(NOTHING_TAKEN.get(name, ""))
    if "q" in taken:
        assert torch.equal(mixer.q_proj.weight, teacher.q_proj.weight)
    V = 8 * expand_v
    for h in range(4):
        group = h * groups // 4
        rows, shared = slice(h * 8, h * 8 + 8), slice(group * 8, group * 8 + 8)
        if "k" in taken:
            assert torch.equal(mixer.k_proj.weight[rows], teacher.k_proj.weight[shared])
        # A token that a head looks at alone reaches the output as it does in the teacher.
        wide = slice(h * V, (h + 1) * V)
        ours = mixer.o_proj.weight[:, wide] @ mixer.v_proj.weight[wide]
        theirs = teacher.o_proj.weight[:, rows] @ teacher.v_proj.weight[shared]
        torch.testing.assert_close(ours, theirs)
    for key, value in mixer.state_dict().items():
        if "conv1d" in key:
            # Attention has no convolution, so every token passes as it is.
            assert torch.equal(value, torch.tensor([0.0, 0.0, 0.0, 1.0]).expand_as(value))
        elif key not in {f"{stream}_proj.weight" for stream in taken}:
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
