"""vLLM in this process in place of the local model: the same prompts and predictions, its own scheduler.

vLLM pins torch, so it lives in an environment of its own (docs/how-to/evaluate.md).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from dvsft.evaluator.endpoint import fit
from dvsft.evaluator.predict import Answer, Engine, PredictError
from dvsft.patchlabels.layout import LayoutSpec

BATCH = 512
"""Questions that are handed over at a time; vLLM itself decides how many it answers at once."""


@dataclass(frozen=True)
class Parallel:
    """How GPUs are used."""

    tensor: int = 1
    """GPUs per copy of the model."""
    data: int = 1
    """Copies of the model, each in a process of its own with its share of the pages."""

    def gpus(self, copy: int, visible: str | None) -> str:
        """CUDA_VISIBLE_DEVICES of one copy. visible: the variable as it is, None if it is not set."""
        names = visible.split(",") if visible else [str(i) for i in range(self.tensor * self.data)]
        if len(names) < self.tensor * self.data:
            raise PredictError(
                f"found CUDA_VISIBLE_DEVICES={visible}, expected {self.tensor * self.data} GPUs for --tensor-parallel "
                f"{self.tensor} and --data-parallel {self.data}; make more of them visible"
            )
        return ",".join(names[copy * self.tensor : (copy + 1) * self.tensor])


@dataclass(frozen=True)
class Vllm:
    """A model in vLLM."""

    vllm: Any
    """The module."""
    llm: Any
    processor: Any
    layout: LayoutSpec

    def engine(self) -> Engine:
        """Its greedy answers. Pages come at the size that the encoder sees, so that vLLM's limits do not matter."""
        return Engine(self.answer, self.encode, self.batch, batch_size=BATCH)

    def encode(self, image: Image.Image) -> Image.Image:
        return fit(image, self.layout)

    def batch(self, prompts: Sequence[str], images: Sequence[Image.Image]) -> list[dict[str, Any]]:
        """vLLM's requests: token ids before the image's token becomes many."""
        from dvsft.evaluator.generate import prompt_ids

        return [
            {"prompt_token_ids": prompt_ids(self.processor, prompt), "multi_modal_data": {"image": image}}
            for prompt, image in zip(prompts, images, strict=True)
        ]

    def answer(self, requests: list[dict[str, Any]], max_new_tokens: int) -> list[Answer]:
        """Greedy answers. A request that vLLM refuses becomes that sample's error."""
        return [found[0] for found in self.sample(requests, temperature=0.0, max_tokens=max_new_tokens)]

    def sample(self, requests: list[dict[str, Any]], **settings: Any) -> list[list[Answer]]:
        """The answers to each request, under vLLM's SamplingParams of these settings."""
        try:
            outputs = self.llm.generate(requests, self.vllm.SamplingParams(**settings), use_tqdm=False)
        except ValueError as error:
            if len(requests) == 1:
                return [[Answer(None, f"vllm_refuses: {' '.join(str(error).split())[:200]}")] * settings.get("n", 1)]
            half = len(requests) // 2
            return [*self.sample(requests[:half], **settings), *self.sample(requests[half:], **settings)]
        return [[answer_of(said, output) for said in output.outputs] for output in outputs]


def answer_of(said: Any, output: Any) -> Answer:
    """One of the outputs of a vLLM request."""
    return Answer(said.text.strip(), "", said.finish_reason or "", len(output.prompt_token_ids), len(said.token_ids))


def answers(
    model: Vllm,
    prompts: Sequence[str],
    images: Sequence[Image.Image],
    n: int,
    temperature: float,
    top_p: float,
    seed: int,
    max_new_tokens: int = 128,
) -> list[list[Answer]]:
    """n sampled answers per prompt and RGB image, as `generate.answers` gives them of a local model."""
    requests = model.batch(prompts, [model.encode(image) for image in images])
    return model.sample(requests, n=n, temperature=temperature, top_p=top_p, seed=seed, max_tokens=max_new_tokens)


def load(folder: str, patches: tuple[int, int], parallel: Parallel, copy: int = 0, max_model_len: int = 8192) -> Vllm:
    """A copy of a model folder on its GPUs. max_model_len: most tokens of prompt, image and answer together.

    Raises PredictError if vLLM is missing or makes other prompts than the local model gets.
    """
    os.environ["CUDA_VISIBLE_DEVICES"] = parallel.gpus(copy, os.environ.get("CUDA_VISIBLE_DEVICES"))
    try:
        import vllm
    except ImportError as error:
        raise PredictError(
            f"--engine vllm found no vLLM ({error}); install it into an environment of its own, see "
            "docs/how-to/evaluate.md"
        ) from error
    from dvsft.evaluator.generate import open_processor

    processor, layout = open_processor(folder, patches)
    llm = vllm.LLM(
        model=folder,
        tensor_parallel_size=parallel.tensor,
        limit_mm_per_prompt={"image": 1},
        max_model_len=max_model_len,
    )
    loaded = Vllm(vllm, llm, processor, layout)
    check_prompts(loaded)
    return loaded


def check_prompts(model: Vllm) -> None:
    """Raise PredictError if vLLM's prompt for a probe is not the local model's, token by token."""
    from dvsft.evaluator.generate import inputs

    probe = model.encode(Image.new("RGB", (256, 256), "white"))
    (output,) = model.llm.generate(
        model.batch(["a probe"], [probe]), model.vllm.SamplingParams(temperature=0.0, max_tokens=1), use_tqdm=False
    )
    found, expected = list(output.prompt_token_ids), inputs(model.processor, ["a probe"], [probe])["input_ids"][0]
    if found != expected.tolist():
        raise PredictError(
            f"vLLM makes {len(found)} tokens of a probe prompt that differ from the local model's {len(expected)}; use "
            "another version of vLLM, or --engine local"
        )


def open_engine(folder: str, patches: tuple[int, int], parallel: Parallel, copy: int, max_model_len: int) -> Engine:
    return load(folder, patches, parallel, copy, max_model_len).engine()
