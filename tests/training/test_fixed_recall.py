"""Recall models: every mixer trains, attention learns, and what is asked is what the sequences say."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from infinitevl_bench.data.mqar import RecallSpec, draw_sequences
from infinitevl_bench.models.mixers.base import TokenMixer
from infinitevl_bench.models.recall import new_recall_model, recall_config, trained_parameters
from infinitevl_bench.models.registry import mixer_names
from infinitevl_bench.records import RunFolder, RunSpec
from infinitevl_bench.training.fixed import FixedTraining, answer_logits, side_by_side
from infinitevl_bench.training.fixed_recall import FixedSequences, right_queries
from infinitevl_bench.training.loop import TrainArguments

SPEC = RecallSpec(length=32, pairs=4, examples=64, vocabulary=64)
CONTROLS = [("gated_deltanet", "S"), ("gated_deltanet", "F")]


def train(model: object, sequences: FixedSequences, runs: Path, **training: float) -> float:
    """The loss of the last step."""
    arguments = TrainArguments.model_validate({"log_every": 1, "checkpoint_every_seconds": None} | training)
    with RunFolder(runs, RunSpec(kind="ablate", arguments={})) as folder:
        (result,) = side_by_side([FixedTraining(model, sequences, arguments, folder, sequences.key).run()])
    assert result.status == "ok"
    return result.loss


@pytest.mark.parametrize(("mixer", "pattern"), [*((name, "L") for name in mixer_names()), *CONTROLS])
def test_every_mixer_takes_a_step_that_moves_all_it_has(mixer: str, pattern: str, tmp_path: Path) -> None:
    config = recall_config(mixer, pattern, {}, width=32, vocabulary=SPEC.vocabulary, window=8)
    model = new_recall_model(config, 0)
    before = {name: p.clone() for name, p in model.named_parameters() if p.requires_grad}
    assert trained_parameters(model) == sum(p.numel() for p in before.values())
    assert all(
        isinstance(layer.self_attn, TokenMixer) is (pattern == "L") for layer in model.model.language_model.layers
    )
    loss = train(model, FixedSequences(SPEC, "cpu"), tmp_path, steps=1, batch_size=16)
    # At weights near zero every token is about as likely.
    assert loss == pytest.approx(torch.tensor(SPEC.vocabulary).log().item(), rel=0.05)
    still = {name for name, p in model.named_parameters() if p.requires_grad and torch.equal(p, before[name])}
    assert all(torch.isfinite(p).all() for p in model.parameters())
    assert not still


def test_a_batch_asks_at_the_query_for_its_value_and_takes_text_alone() -> None:
    sequences = FixedSequences(SPEC, "cpu")
    model = new_recall_model(recall_config("gated_deltanet", "F", {}, width=32, vocabulary=64, window=8), 0).eval()
    batch = sequences.batch(torch.tensor([5, 2]))
    tokens, queries, values = draw_sequences(SPEC)
    assert batch.targets.tolist() == values[[5, 2]].tolist()
    assert batch.tokens == 2 * SPEC.length
    with torch.no_grad():
        # transformers' own way through the same model.
        logits = model(input_ids=torch.from_numpy(tokens[[5, 2]]).long()).logits
        places = torch.from_numpy(queries[[5, 2]]).long().unsqueeze(-1).expand(-1, -1, SPEC.vocabulary)
        torch.testing.assert_close(answer_logits(model, batch), logits.gather(1, places))


def test_right_queries_are_those_whose_value_is_likeliest() -> None:
    sequences = FixedSequences(SPEC, "cpu")
    tokens, queries, values = draw_sequences(SPEC)
    known = [dict(zip(row[0:8:2], row[1:8:2], strict=True)) for row in tokens.tolist()]

    class Lookup(torch.nn.Module):
        """Says the value of the key that it reads, but for sequences whose first key is even."""

        def __init__(self) -> None:
            super().__init__()
            self.model = SimpleNamespace(language_model=self.read)
            self.lm_head = torch.nn.Identity()
            self.seen = 0

        def get_input_embeddings(self) -> object:
            return lambda ids: torch.nn.functional.one_hot(ids, SPEC.vocabulary).float()

        def read(self, inputs_embeds: torch.Tensor, **_: object) -> tuple[torch.Tensor]:
            said = torch.zeros_like(inputs_embeds)
            for row, ids in zip(said, inputs_embeds.argmax(-1).tolist(), strict=True):
                answers = known[self.seen]
                self.seen += 1
                if ids[0] % 2:
                    for place, token in enumerate(ids):
                        row[place, answers.get(token, 0)] = 1.0
            return (said,)

    found = right_queries(Lookup(), sequences, batch_size=24)
    assert found.shape == queries.shape == values.shape
    assert found.all(dim=1).tolist() == (tokens[:, 0] % 2 == 1).tolist()
    assert found.any(dim=1).tolist() == found.all(dim=1).tolist()


@pytest.mark.slow
def test_full_attention_learns_a_small_instance_and_a_mixer_without_memory_does_not(tmp_path: Path) -> None:
    spec = RecallSpec(length=8, pairs=2, examples=8192, vocabulary=16)
    shown = FixedSequences(spec, "cpu")
    asked = FixedSequences(spec.model_copy(update={"split": "test", "examples": 500}), "cpu")
    found = {}
    for mixer, pattern in (("gated_deltanet", "F"), ("identity", "L")):
        model = new_recall_model(recall_config(mixer, pattern, {}, width=32, vocabulary=16, window=8), 0)
        train(model, shown, tmp_path, steps=1200, batch_size=256, learning_rate=3e-3)
        found[pattern] = right_queries(model, asked).double().mean().item()
    assert found["F"] > 0.95
    # It knows the key alone, which says nothing of the value: one of the eight.
    assert found["L"] < 0.2


def test_a_mixer_with_a_state_learns_a_small_instance(tmp_path: Path) -> None:
    spec = RecallSpec(length=16, pairs=2, examples=4096, vocabulary=16)
    model = new_recall_model(recall_config("gated_deltanet", "L", {}, width=32, vocabulary=16, window=8), 0)
    train(model, FixedSequences(spec, "cpu"), tmp_path, steps=200, batch_size=32, learning_rate=4e-3)
    asked = FixedSequences(spec.model_copy(update={"split": "test", "examples": 500}), "cpu")
    assert right_queries(model, asked).double().mean() > 0.95
