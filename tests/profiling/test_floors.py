"""Floors: counted work against figures that were measured or counted elsewhere, and against transformers' own sizes."""

import pytest
import torch
from infinitevl_bench.models.accounting import cache_elements, count_parameters
from infinitevl_bench.models.presets import get_preset
from infinitevl_bench.profiling.ceilings import Ceilings, measure_ceilings
from infinitevl_bench.profiling.floors import ModelWork, Work, state_flops, sum_of_visible

H200 = Ceilings(copy_gb_per_s=4259, matmul_tflops=795, dtype="bfloat16")


@pytest.fixture(scope="module")
def hybrid() -> ModelWork:
    return ModelWork(get_preset("infinitevl-4b"))


@pytest.fixture(scope="module")
def transformer() -> ModelWork:
    return ModelWork(get_preset("qwen2.5-vl-3b"))


def test_weights_read_per_token(hybrid: ModelWork, transformer: ModelWork) -> None:
    assert hybrid.decoder_weight_bytes / 1e9 == pytest.approx(7.48, abs=0.005)
    assert transformer.decoder_weight_bytes / 1e9 == pytest.approx(6.17, abs=0.005)


def test_the_parts_are_all_parameters(hybrid: ModelWork) -> None:
    norm = hybrid.text.hidden_size
    parts = hybrid.vision_parameters + hybrid.layer_parameters + hybrid.head_parameters + norm
    assert parts == count_parameters(hybrid.config) == 4_408_381_536


def test_cache_bytes(hybrid: ModelWork, transformer: ModelWork) -> None:
    assert transformer.bytes_per_token == 36_864
    assert transformer.cache_bytes(32768) == 2 * cache_elements(transformer.config, 32768) == 2 * 603_979_776
    assert hybrid.bytes_per_token == 0
    assert hybrid.cache_bytes(8192) == hybrid.cache_bytes(1_000_000)
    # The released code keeps states in 16 bit, one token less of the window, and one more input of the convolutions.
    released = ModelWork(hybrid.config, state_bytes=2).cache_bytes(1_000_000)
    assert released - 9 * 1024 + 27 * 8192 * 2 == pytest.approx(105_569_280, rel=5e-3)
    convolutions = 27 * 8192 * 3 * 2
    assert released == 2 * cache_elements(hybrid.config, 1_000_000) + convolutions


@pytest.mark.parametrize(("context", "of_hybrid", "of_transformer"), [(8192, 1.79, 1.52), (262144, 1.79, 3.72)])
def test_the_floor_of_a_decode_step(
    hybrid: ModelWork, transformer: ModelWork, context: int, of_hybrid: float, of_transformer: float
) -> None:
    # Ours keeps its states in float32, which is 1 % of the bytes.
    assert hybrid.decode(context).floor_ms(H200) == pytest.approx(of_hybrid, rel=0.015)
    assert transformer.decode(context).floor_ms(H200) == pytest.approx(of_transformer, rel=0.01)


def test_operations_of_a_frame(hybrid: ModelWork) -> None:
    assert hybrid.vision(448, 448).flops / 1e12 == pytest.approx(1.343, abs=0.002)
    assert 2 * 256 * hybrid.layer_parameters / 1e12 == pytest.approx(1.755, abs=0.001)
    assert hybrid.attention_flops(256, 100_000) / 1e12 == pytest.approx(0.155, abs=0.001)
    assert hybrid.mixer_flops(256) / 1e12 == pytest.approx(0.022, abs=0.0005)
    frame = hybrid.prefill(256, 100_000)
    assert frame.flops / 1e12 == pytest.approx(1.755 + 0.155 + 0.022, abs=0.002)
    assert frame.floor_ms(H200) == pytest.approx(frame.flops / 795e9)


def test_training_is_three_forward_passes_without_the_head_s_own_gradient(transformer: ModelWork) -> None:
    T = 8192
    whole = transformer.prefill(T).flops - 2 * transformer.head_parameters
    assert transformer.training(T).flops == 3 * whole + 4 * T * transformer.head_parameters
    with_images = transformer.training(T, images=2).flops - transformer.training(T).flops
    assert with_images == pytest.approx(2 * transformer.vision(448, 448).flops)


@pytest.mark.parametrize(("tokens", "past", "reach"), [(5, 0, 100), (5, 3, 6), (7, 20, 4), (1, 0, 1), (9, 0, 4)])
def test_visible_pairs_are_counted_one_by_one(tokens: int, past: int, reach: int) -> None:
    assert sum_of_visible(tokens, past, reach) == sum(min(past + t, reach) for t in range(1, tokens + 1))


def test_parameters_of_a_model_on_a_device_are_those_counted() -> None:
    from infinitevl_bench.models.checkpoints import new_model

    config = get_preset("tiny")
    work, model = ModelWork(config, weight_bytes=4), new_model(config, 0)
    assert work.layer_parameters == sum(p.numel() for p in model.model.language_model.layers.parameters())
    cache = model(input_ids=torch.zeros(1, 40, dtype=torch.long), use_cache=True).past_key_values
    kept = 0
    for layer in cache.layers:
        for name in ("keys", "values"):
            x = getattr(layer, name, None)
            # transformers keeps one token less than the window, since the next one fills it.
            kept += 0 if x is None else x[:, :, :1].numel() * 4 * 16
        for states in (getattr(layer, "conv_states", None), getattr(layer, "recurrent_states", None)):
            kept += 0 if states is None else sum(x.numel() * x.element_size() for x in _values(states) if x is not None)
    assert work.cache_bytes(40) == kept


def _values(states: object) -> list[torch.Tensor]:
    return list(states.values()) if isinstance(states, dict) else list(states)  # type: ignore[call-overload]


def test_a_floor_is_the_larger_bound_and_shares_are_of_it() -> None:
    ceilings = Ceilings(copy_gb_per_s=100, matmul_tflops=1, dtype="float32")
    work = Work(bytes=2e9, flops=5e9)
    assert work.floor_ms(ceilings) == pytest.approx(20)
    assert work.mbu(40, ceilings) == pytest.approx(0.5)
    assert work.mfu(10, ceilings) == pytest.approx(0.5)
    assert (work + work).floor_ms(ceilings) == pytest.approx(40)
    assert state_flops("gated_delta_rule", 8, 4) == 6 * 32
    assert state_flops("state_space_dual", 8, 4) == 4 * 32


def test_ceilings_are_measured_and_plausible() -> None:
    found = measure_ceilings("cpu")
    assert 0.1 < found.copy_gb_per_s < 2000
    assert 0.001 < found.matmul_tflops < 20
    assert found.dtype == "float32"
