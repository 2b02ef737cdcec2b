"""Vision labels in the batches of any trainer: a collator around the trainer's own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dvsft.visionloss.loss import IGNORE

LABELS, IMAGES = "vision_labels", "vision_images"
"""What `Collator` adds to a batch: Shape (B, T, K), the labels of each position, IGNORE where there are none, and Shape
(B, T), the number of the image that a labeled position belongs to. Positions are those of `input_ids`, not shifted."""

COLUMNS = ("patch_index", "token_id", "visual_tokens", "rows", "cols")
"""The columns of label shards that a data set needs. Shards of version 1 have rows and cols for visual_tokens."""

EXTRA = "_extra_kwargs"
"""Where ms-swift keeps the columns that it does not know."""


class Marks(NamedTuple):
    """The labels of one image. patch_index: numbers of its visual tokens, in prompt order; one that repeats has several
    labels, each as good as the others. token_id: parallel to it. visual_tokens: how many the image has."""

    patch_index: Sequence[int] = ()
    token_id: Sequence[int] = ()
    visual_tokens: int | None = None


Find = Callable[[Mapping[str, Any]], Sequence[Marks]]
"""From an example of the trainer's data set to the labels of its images, in prompt order. Marks() stands for an image
of unknown size without labels."""

RESIZED = (
    "the trainer resizes by another rule than the labels were made by; set processor.image_processor.size to the pixel "
    "limits of the labels"
)


def read_columns(example: Mapping[str, Any]) -> list[Marks]:
    """The labels of an example of one image that has the columns of label shards."""
    if example.get("patch_index") is None:
        return [Marks()]
    count = example.get("visual_tokens")
    if count is None and example.get("rows") is not None:
        count = example["rows"] * example["cols"]
    return [Marks(example["patch_index"], example["token_id"], count)]


class Collator:
    """Batches of `collate`, with the labels of their images: `LABELS` and `IMAGES`."""

    def __init__(
        self,
        collate: Callable[..., Any],
        image_token_id: int,
        find: Find = read_columns,
        cure: str = RESIZED,
    ):
        """collate: the trainer's collator; it gets the examples without COLUMNS, as most turn what they are given into
        tensors. cure: what to do where an image has other visual tokens than its labels were made on."""
        self.collate, self.image_token_id, self.find, self.cure = collate, image_token_id, find, cure

    def __call__(self, examples: Sequence[Any], *args: Any, **kwargs: Any) -> Any:
        """Raises ValueError for labels that do not fit the visual tokens of the batch."""
        packs = [example if isinstance(example, list) else [example] for example in examples]
        # before the trainer's collator, which may pop what it uses
        marks = [[mark for example in pack for mark in self._sized(example)] for pack in packs]
        stripped = [[_without_columns(example) for example in pack] for pack in packs]
        given = [pack if isinstance(one, list) else pack[0] for one, pack in zip(examples, stripped, strict=True)]
        batch = self.collate(given, *args, **kwargs)
        batch[LABELS], batch[IMAGES] = self.place(batch["input_ids"], marks, batch.get("attention_mask"))
        return batch

    def _sized(self, example: Mapping[str, Any]) -> Sequence[Marks]:
        """The labels of an example; an image without any has a size where the example is tokenized already."""
        marks = self.find({**example, **(example.get(EXTRA) or {})})
        unsized = len(marks) == 1 and marks[0].visual_tokens is None and not len(marks[0].patch_index)
        if not unsized or "input_ids" not in example:
            return marks
        visual = torch.as_tensor(example["input_ids"]) == self.image_token_id
        return [marks[0]._replace(visual_tokens=int(visual.sum()))]

    def place(
        self, input_ids: Tensor, marks: Sequence[Sequence[Marks]], mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """LABELS and IMAGES. input_ids: Shape (B, T), padded on either side, or (1, T), all examples in one row. marks:
        for each example its images."""
        if len(input_ids) == 1:
            marks = [[mark for images in marks for mark in images]]
        if len(marks) != len(input_ids):
            raise ValueError(
                f"found {len(input_ids)} rows of input_ids for {len(marks)} examples, expected as many, or one"
            )
        counts = (Counter(mark.patch_index).values() for images in marks for mark in images)  # labels per patch
        most = max((count for patches in counts for count in patches), default=1)
        labels = torch.full((*input_ids.shape, most), IGNORE)
        numbers = torch.full(input_ids.shape, -1)
        first = 0  # number of the row's first image
        for row, images in enumerate(marks):
            visual = (input_ids[row] == self.image_token_id).nonzero()[:, 0].cpu()
            if any(len(mark.patch_index) for mark in images):
                self._check(visual, images, input_ids[row] if mask is None else input_ids[row][mask[row].bool()])
                _fill(labels[row], numbers[row], visual, images, first)
            first += len(images)
        return labels.to(input_ids.device), numbers.to(input_ids.device)

    def _check(self, visual: Tensor, images: Sequence[Marks], ids: Tensor) -> None:
        """ids: Shape (T,), the row without its padding."""
        counts = [mark.visual_tokens for mark in images]
        if len(images) > 1 and None in counts:
            raise ValueError(
                "found an image without visual_tokens before or behind a labeled one, expected how many every image "
                "of the row has: labels could not be placed"
            )
        for mark in images:
            if len(mark.patch_index) != len(mark.token_id):
                raise ValueError(
                    f"found {len(mark.patch_index)} patch_index for {len(mark.token_id)} token_id, expected as many"
                )
            last = max(mark.patch_index, default=-1)
            if mark.visual_tokens is None or last >= mark.visual_tokens or min(mark.patch_index, default=0) < 0:
                raise ValueError(
                    f"found patch_index {last} in an image of {mark.visual_tokens} visual tokens, expected less"
                )
        expected = sum(filter(None, counts))
        if len(visual) == expected:
            return
        found = f"found {len(visual)} visual tokens where the labels were made on {expected}: "
        if len(visual) < expected and len(ids) and int(ids[-1]) == self.image_token_id:
            raise ValueError(
                found + "the sequence ends within an image; raise the trainer's max_length, or set it to None"
            )
        raise ValueError(found + self.cure)


def _fill(labels: Tensor, numbers: Tensor, visual: Tensor, images: Sequence[Marks], first: int) -> None:
    """One row. labels: Shape (T, K). numbers: Shape (T,). visual: positions of its visual tokens, image by image."""
    start, places = 0, visual.tolist()
    for number, mark in enumerate(images, first):
        used: dict[int, int] = {}
        for patch, token in zip(mark.patch_index, mark.token_id, strict=True):
            position = places[start + patch]
            column = used[patch] = used.get(patch, -1) + 1
            labels[position, column], numbers[position] = token, number
        start += mark.visual_tokens or 0


def _without_columns(example: Any) -> Any:
    kept = {key: value for key, value in example.items() if key not in COLUMNS}
    return kept | ({EXTRA: _without_columns(kept[EXTRA])} if kept.get(EXTRA) else {})
