"""The DeepSpeed engine: processes, its configuration, its start."""

from __future__ import annotations

import math
import os
import socket
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn

from dvsft.patchlabels.errors import DvsftError
from dvsft.trainer.config import Config

T = TypeVar("T")


def start_processes() -> tuple[int, int, torch.device]:
    """Join the launcher's processes, or be the only one. Returns rank, world size and this rank's
    device."""
    if "RANK" not in os.environ:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    on_gpu = torch.cuda.is_available()
    if not on_gpu:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # read when deepspeed is imported
        os.environ.setdefault("LOCAL_SIZE", os.environ["WORLD_SIZE"])
    import deepspeed

    if not on_gpu:
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # else it compiles for minutes
    deepspeed.init_distributed("nccl" if on_gpu else "gloo", verbose=False)
    local_rank = int(os.environ["LOCAL_RANK"])
    device = torch.device("cuda", local_rank) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(device)
    return torch.distributed.get_rank(), torch.distributed.get_world_size(), device


def deepspeed_config(config: Config, accumulation: int) -> dict[str, Any]:
    """What DeepSpeed is told; everything else is its default. accumulation: passes per rank and step."""
    optimizer, offload = config.optimizer, config.deepspeed.offload
    zero: dict[str, Any] = {"stage": config.deepspeed.zero_stage}
    if offload != "none":
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    if offload == "all":
        zero["offload_param"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    settings: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": optimizer.micro_batch,
        "gradient_accumulation_steps": accumulation,
        "gradient_clipping": optimizer.max_grad_norm,
        "bf16": {"enabled": config.model.dtype == "bfloat16"},
        "zero_optimization": zero,
        "zero_force_ds_cpu_optimizer": False,
        "optimizer": {
            "type": "AdamW",
            "params": {
                "lr": optimizer.learning_rate,
                "weight_decay": optimizer.weight_decay,
                **_adam(offload != "none"),
            },
        },
        "steps_per_print": 10**9,
    }
    if zero["stage"]:  # dozens of passes add up to a step: in bfloat16 the last ones would be lost
        settings["data_types"] = {"grad_accum_dtype": "fp32"}
    return settings


def _adam(offloaded: bool) -> dict[str, bool]:
    """Which AdamW: torch's, on a GPU fused; for states in main memory beside a GPU DeepSpeed's, compiled at the
    first start. The latter two have not been run."""
    if not torch.cuda.is_available():
        return {"torch_adam": True}
    return {"torch_adam": False} if offloaded else {"torch_adam": True, "fused": True}


def start_engine(model: nn.Module, config: Config, accumulation: int, steps: int) -> Any:
    """The engine over the model's trainable parameters, with warm-up and a cosine to zero over `steps`
    steps."""
    import deepspeed
    from transformers import get_cosine_schedule_with_warmup

    warmup = math.ceil(steps * config.optimizer.warmup_ratio)
    engine, *_ = deepspeed.initialize(
        model=model,
        model_parameters=[parameter for parameter in model.parameters() if parameter.requires_grad],
        config=deepspeed_config(config, accumulation),
        lr_scheduler=lambda optimizer: get_cosine_schedule_with_warmup(optimizer, warmup, steps),
    )
    return engine


def as_rank_0(decide: Callable[[], T]) -> T:
    """What `decide` returns on rank 0, on every rank; its DvsftError is raised on every rank. Nodes may see different
    disks: what depends on files is decided once."""
    box: list[Any] = [None, None]
    if distributed.get_rank() == 0:
        try:
            box[0] = decide()
        except DvsftError as error:
            box[1] = error
    distributed.broadcast_object_list(box)
    if box[1]:
        raise box[1]
    decided: T = box[0]
    return decided


def raise_on_all(errors: Sequence[DvsftError], device: torch.device) -> None:
    """Raise the first error that some rank has, on every rank: only rank 0 tells the user."""
    found = torch.tensor(float(len(errors)), device=device)
    distributed.all_reduce(found)
    if not found:
        return
    everywhere: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(everywhere, errors[0] if errors else None)
    raise next(error for error in everywhere if error)


def backward_and_step(engine: Any, loss: Tensor) -> float | None:
    """The second half of a pass. Returns the norm of the step's gradient before it was clipped, from the last pass of a
    step alone; a norm that is not finite may be inf, nan or -1, DeepSpeed's sign of either."""
    engine.backward(loss)
    last = engine.is_gradient_accumulation_boundary()
    # with ZeRO 1 in bfloat16 the name is there from the first step on, and parameters hold the last pass's gradient
    told = hasattr(engine.optimizer, "_global_grad_norm") or bool(engine.zero_optimization_stage())
    norm = None
    if last and not told:  # float32 without ZeRO: DeepSpeed clips in step() and keeps the norm to itself
        grads = [parameter.grad for parameter in engine.module.parameters() if parameter.grad is not None]
        norm = float(torch.nn.utils.get_total_norm(grads))
    engine.step()
    return float(engine.get_global_grad_norm()) if last and told else norm
