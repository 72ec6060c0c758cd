"""Batches of instruction samples packed to the context; attention, states and positions begin anew with each."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ..data.conversations import BrokenSampleError
from ..data.encode import Limits, encode
from ..data.inspection import Inspection
from ..data.mixture import mixed
from ..data.packing import Place, Plan, packed
from ..data.sources import Source
from ..errors import UserError
from .batch import FIRST, IGNORED, TEXT, VISION, Batch

CONCATENATED = (
    "pixel_values", "image_grid_thw", "pixel_values_videos", "video_grid_thw",
)  # fmt: skip


class PackedData:
    """The batches of every step: ``batch_size`` packs a step, each a batch of one row.

    Args:
        sources: where samples are read.
        inspections: what was found in each.
        weights: of each source.
        model: whose positions the samples get.
        processor: what encodes them.
        limits: what they were inspected with.
        batch_size: packs of a step, over all processes.
        seed: of the order.
        most_broken: samples that may turn out to be broken when they are decoded; they are passed over.
        pack: False gives every sample a row of its own.

    Attributes:
        broken: why samples were passed over, of those that this process has read.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        inspections: Sequence[Inspection],
        weights: Sequence[float],
        model: Any,
        processor: Any,
        limits: Limits,
        *,
        batch_size: int,
        seed: int,
        most_broken: int = 100,
        pack: bool = True,
    ) -> None:
        self.sources, self.inspections, self.weights = sources, inspections, weights
        self.positions_of, self.processor, self.limits = model.model.get_rope_index, processor, limits
        self.seed, self.pack, self.most_broken = seed, pack, most_broken
        self.broken: list[str] = []
        self._blank: Batch | None = None
        self.plan = Plan(self.packs(), batch_size)

    def packs(self) -> Iterator[list[Place]]:
        """All packs from the first, without end."""
        stream = mixed([found.whole for found in self.inspections], self.weights, self.seed)
        if not self.pack:
            return ([place] for place in stream)
        return packed(stream, self._length, self.limits.context)

    def _length(self, place: Place) -> int:
        source, number = place
        return int(self.inspections[source].lengths[number])

    def batches(self, step: int) -> Sequence[Batch]:
        """The batches of a step, each made when it is asked for."""
        return _Lazy(self, self.plan.of_step(step))

    def batch(self, pack: Sequence[Place]) -> Batch:
        """Put the samples of a pack one behind the other; what only now shows itself to be broken is passed over.

        Raises:
            UserError: if that is more than may be, or leaves nothing.
        """
        samples = []
        for source, number in pack:
            try:
                samples.append(encode(self.sources[source][number], self.processor, self.limits))
            except BrokenSampleError as error:
                self.broken.append(str(error))
        if len(self.broken) > self.most_broken or (not samples and self._blank is None):
            raise UserError(f"{self.broken[-1]}; mend or remove it, then call the same command again to go on", 1)
        if not samples and self._blank is not None:
            return self._blank
        batch = pack_samples(samples, self.positions_of)
        self._blank = self._blank or batch.blank()
        return batch


class _Lazy(Sequence[Batch]):
    def __init__(self, data: PackedData, packs: Sequence[list[Place]]) -> None:
        self.data, self.packs = data, packs

    def __len__(self) -> int:
        return len(self.packs)

    def __getitem__(self, number: Any) -> Any:
        return self.data.batch(self.packs[number])


def pack_samples(samples: Sequence[dict[str, Tensor]], positions_of: Any) -> Batch:
    """One row of all samples, as if each were alone.

    Args:
        samples: as `data.encode.encode` gives them.
        positions_of: the model's ``get_rope_index``.
    """
    ids, labels, kinds, positions = [], [], [], []
    for sample in samples:
        row = sample["input_ids"].unsqueeze(0)
        found, _ = positions_of(
            row,
            mm_token_type_ids=sample["mm_token_type_ids"].unsqueeze(0),
            image_grid_thw=sample.get("image_grid_thw"),
            video_grid_thw=sample.get("video_grid_thw"),
            second_per_grid_ts=sample.get("second_per_grid_ts"),
            attention_mask=torch.ones_like(row),
        )
        kind = torch.where(sample["mm_token_type_ids"] == 0, TEXT, VISION)
        kind[0] = FIRST
        label = sample["labels"].clone()
        # Nothing predicts a sample's first token: what stands before it belongs to another.
        label[0] = IGNORED
        ids.append(sample["input_ids"])
        labels.append(label)
        kinds.append(kind)
        positions.append(found[:, 0])
    inputs = {"input_ids": torch.cat(ids).unsqueeze(0), "position_ids": torch.cat(positions, dim=-1).unsqueeze(1)}
    for name in CONCATENATED:
        parts = [sample[name] for sample in samples if name in sample]
        if parts:
            inputs[name] = torch.cat(parts)
    if len(samples) > 1:
        lengths = torch.tensor([0, *(len(one) for one in ids)])
        inputs["cu_seq_lens_q"] = lengths.cumsum(0).to(torch.int32)
    return Batch(inputs, torch.cat(labels).unsqueeze(0), torch.cat(kinds).unsqueeze(0))
