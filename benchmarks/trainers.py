"""Vision labels in TRL, ms-swift and LLaMA-Factory: each in an environment of its own, on the bundled labels.

    make check-trainers                         all of them: 12 GB of packages, in out/trainers; no network but PyPI
    make check-trainers ARGS="ms-swift"         one
    make check-trainers ARGS=--publish          and write docs/results/trainers.md

A tiny random Qwen3-VL takes one optimizer step over the eight pages, in one pass and in four. The vision loss that each
trainer logs is compared with the equation on the pages one by one. TRL also runs examples/trl_sft.py, from the wheel.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

from dvsft.patchlabels import rows

ROOT = Path(__file__).parents[1]
UV = shutil.which("uv") or str(ROOT / ".uv/bin/uv")
PINS = {
    "TRL": ["trl==1.16.0", "torchvision"],
    "ms-swift": ["ms-swift==4.6.0", "torchvision", "qwen_vl_utils"],
    "LLaMA-Factory": ["llamafactory==0.9.5", "torch==2.11.*", "torchvision", "torchaudio"],
}
EQUAL = 1e-4
"""Relative: their logs round."""
SHOWN = ("torch", "transformers", "trl", "ms-swift", "llamafactory", "peft", "dvsft-visionloss")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("trainers", nargs="*", help=f"of {', '.join(PINS)}; all by default")
    parser.add_argument("--publish", action="store_true", help="write docs/results/trainers.md")
    parser.add_argument("--envs", type=Path, default=ROOT / "out/trainers/envs", help="where environments are, or come")
    options = parser.parse_args()
    folder = ROOT / "out/trainers"
    folder.mkdir(parents=True, exist_ok=True)
    pages = write_data(folder)
    expected = reference(folder, pages)
    print(f"equation: vision loss {expected['vision_loss']:.6f}, {expected['labels']} labels", flush=True)
    store = folder / "found.json"  # also of trainers that were run before
    found: dict[str, Any] = json.loads(store.read_text()) if store.exists() else {}
    for name in options.trainers or PINS:
        python = install(name, folder, options.envs)
        runs = {str(passes): RUNS[name](python, folder, passes) for passes in (1, 4)}
        found[name] = {"versions": versions(python), "runs": runs}
        store.write_text(json.dumps(found, indent=1))
        for passes, run in runs.items():
            print(f"{name}, {passes} passes: vision loss {run['vision_loss']:.6f}, loss {run['loss']:.6f}", flush=True)
    if options.publish:
        (ROOT / "docs/results/trainers.md").write_text(report(expected, found))
    wrong = [
        name
        for name, one in found.items()
        for run in one["runs"].values()
        if abs(run["vision_loss"] / expected["vision_loss"] - 1) > EQUAL
    ]
    if wrong:
        print(f"error: the vision loss of {', '.join(sorted(set(wrong)))} is not that of the equation", file=sys.stderr)
    return 1 if wrong else 0


def write_data(folder: Path) -> list[dict[str, Any]]:
    """The bundled labels as ms-swift and LLaMA-Factory read a data set, and a tiny model."""
    from dvsft.trainer.tiny import write_tiny

    pages = [row for path in sorted((ROOT / "samples/labels").glob("*.parquet")) for row in rows.read(path)]
    (folder / "pages").mkdir(exist_ok=True)
    data = []
    for number, page in enumerate(pages):
        path = folder / f"pages/{number}.png"
        path.write_bytes(page["image"]["bytes"])
        question, answer = page["qa"][0]["question"], page["qa"][0]["answers"][0]
        messages = [{"role": "user", "content": f"<image>{question}"}, {"role": "assistant", "content": answer}]
        labels = {name: page[name] for name in ("patch_index", "token_id")}
        visual_tokens = page["rows"] * page["cols"]
        data.append({"messages": messages, "images": [str(path)], **labels, "visual_tokens": visual_tokens})
    (folder / "swift.jsonl").write_text("".join(json.dumps(row) + "\n" for row in data))
    plain = [{name: row[name] for name in ("messages", "images")} for row in data]
    (folder / "factory.json").write_text(json.dumps(plain))
    roles = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
    columns = {"messages": "messages", "images": "images"}
    entry = {"file_name": "factory.json", "formatting": "sharegpt", "columns": columns, "tags": roles}
    (folder / "dataset_info.json").write_text(json.dumps({"pages": entry}))
    if not (folder / "tiny/config.json").exists():
        write_tiny(ROOT / "samples/processor", folder / "tiny")
    return pages


def reference(folder: Path, pages: list[dict[str, Any]]) -> dict[str, Any]:
    """The mean over all labels of the vision loss, a page at a time."""
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor

    from dvsft.patchlabels import image
    from dvsft.visionloss.loss import visual_token_loss

    processor = AutoProcessor.from_pretrained(folder / "tiny")
    model = AutoModelForImageTextToText.from_pretrained(folder / "tiny", dtype=torch.float32).eval()
    total, count = 0.0, 0
    for page in pages:
        text = "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>"  # no visual token sees what follows
        inputs = processor(text=[text], images=[image.decode(page["image"]["bytes"])], return_tensors="pt")
        with torch.no_grad():
            hidden = model.base_model(**inputs).last_hidden_state[0]
            visual = (inputs["input_ids"][0] == model.config.image_token_id).nonzero()[:, 0]
            at, labels = visual[torch.tensor(page["patch_index"])], torch.tensor(page["token_id"])
            total += float(visual_token_loss(hidden[at], model.lm_head, labels, torch.zeros_like(labels)))
        count += len(labels)
    return {"vision_loss": total / count, "labels": count}


def install(name: str, folder: Path, envs: Path) -> Path:
    """The Python of an environment with the trainer and our wheels."""
    env, wheels = envs / name, folder / "wheels"
    python = env / "bin/python"
    packages = [argument for member in ("patchlabels", "visionloss") for argument in ("--package", f"dvsft-{member}")]
    for package in packages[1::2]:
        command = [UV, "build", "-q", "--wheel", "--package", package, "--out-dir", str(wheels)]
        subprocess.run(command, cwd=ROOT, check=True)
    if not python.exists():
        subprocess.run([UV, "venv", "-q", "--python", "3.11", str(env)], check=True)
    ours = [str(path) for path in wheels.glob("*.whl")]
    again = ["--reinstall-package", "dvsft-visionloss", "--reinstall-package", "dvsft-patchlabels"]
    subprocess.run([UV, "pip", "install", "-q", "--python", str(python), *again, *PINS[name], *ours], check=True)
    return python


def versions(python: Path) -> dict[str, str]:
    code = "import importlib.metadata as m; print({d.name.lower(): d.version for d in m.distributions()})"
    found = json.loads(run_in(python, "-c", code).replace("'", '"').replace("ms_swift", "ms-swift"))
    return {name: found[name] for name in SHOWN if name in found}


def run_in(python: Path, *arguments: str, cwd: Path | None = None, **variables: str) -> str:
    """What a command of an environment prints."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    offline = {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "USE_HF": "1"}
    path = f"{python.parent}:{clean['PATH']}"
    done = subprocess.run(
        ["nice", "-n", "10", str(python), *arguments],
        cwd=cwd or ROOT / "out/trainers",
        env=clean | offline | {"PATH": path} | variables,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"error: {' '.join(arguments[:3])} failed:\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}")
    return done.stdout


def logged(lines: list[dict[str, Any]]) -> dict[str, float]:
    line = next(line for line in lines if "vision_loss" in line)
    return {name: float(line[name]) for name in ("vision_loss", "patch_accuracy", "loss", "grad_norm")}


def run_trl(python: Path, folder: Path, passes: int) -> dict[str, float]:
    """The example, copied to where no checkout is near; then one step of it as the others take."""
    away = folder / "trl"
    shutil.rmtree(away, ignore_errors=True)
    shutil.copytree(ROOT / "samples/labels", away / "samples/labels")
    shutil.copytree(ROOT / "samples/processor", away / "samples/processor")
    (away / "examples").mkdir()
    shutil.copy(ROOT / "examples/trl_sft.py", away / "examples")
    if passes == 1:
        said = run_in(python, "examples/trl_sft.py", cwd=away)
        losses = [float(loss) for loss in re.findall(r"'vision_loss': '?([\d.]+)", said)]
        print(
            f"examples/trl_sft.py: vision loss {losses[0]:.3f} -> {losses[-1]:.3f} in {len(losses)} steps", flush=True
        )
        if not losses[-1] < losses[0] - 0.1:
            raise SystemExit("error: the vision loss of examples/trl_sft.py does not fall")
    code = (
        "import json, runpy, torch; from transformers import AutoModelForImageTextToText as M, AutoProcessor as P\n"
        f"model = M.from_pretrained('{folder}/tiny', dtype=torch.float32)\n"
        f"settings = dict(use_cpu=True, bf16=False, learning_rate=0.0, max_steps=1, save_strategy='no', output_dir='o',"
        f" per_device_train_batch_size={8 // passes}, gradient_accumulation_steps={passes})\n"
        f"train = runpy.run_path('examples/trl_sft.py')['train']\n"
        f"done = train(model, P.from_pretrained('{folder}/tiny'), 'samples/labels', **settings)\n"
        "json.dump(done.state.log_history, open('log.json', 'w'))"
    )
    run_in(python, "-c", code, cwd=away)
    return logged(json.loads((away / "log.json").read_text()))


SWIFT_PLUGIN = """
from dvsft.visionloss import ms_swift

ms_swift.register(weight=2e-3, beta=0.3)

# Only for the tiny model: ms-swift knows image tokens by Qwen's numbers, and its vocabulary is another.
from swift.template.templates.qwen import Qwen3VLTemplate

theirs = Qwen3VLTemplate.init_processor


def init_processor(self, processor):
    theirs(self, processor)
    if processor is not None:
        names = ("<|image_pad|>", "<|video_pad|>")
        self.image_token_id, self.video_token_id = map(self.tokenizer.convert_tokens_to_ids, names)
        self.placeholder_tokens = [self.image_token_id, self.video_token_id]


Qwen3VLTemplate.init_processor = init_processor
"""


def run_swift(python: Path, folder: Path, passes: int) -> dict[str, float]:
    output = folder / f"swift-{passes}"
    shutil.rmtree(output, ignore_errors=True)
    (folder / "plugin.py").write_text(SWIFT_PLUGIN)
    options = {
        "model": folder / "tiny", "model_type": "qwen3_vl", "template": "qwen3_vl", "dataset": folder / "swift.jsonl",
        "external_plugins": folder / "plugin.py", "callbacks": "vision_labels", "remove_unused_columns": "false",
        "tuner_type": "full", "torch_dtype": "float32", "bf16": "false", "fp16": "false", "attn_impl": "sdpa",
        "per_device_train_batch_size": 8 // passes, "gradient_accumulation_steps": passes, "learning_rate": 0,
        "max_steps": 1, "logging_steps": 1, "save_strategy": "no", "eval_strategy": "no", "split_dataset_ratio": 0,
        "dataset_num_proc": 1, "dataloader_num_workers": 0, "output_dir": output, "report_to": "none",
        "use_cpu": "true", "check_model": "false", "max_length": 8192, "gradient_checkpointing": "false",
    }  # fmt: skip
    arguments = [str(part) for name, value in options.items() for part in (f"--{name}", value)]
    limits = {
        "IMAGE_MIN_TOKEN_NUM": "64",
        "IMAGE_MAX_TOKEN_NUM": "2048",
        "MODELSCOPE_CACHE": str(folder / "modelscope"),
    }
    run_in(python, str(python.with_name("swift")), "sft", *arguments, **limits)
    log = next(output.rglob("logging.jsonl"))
    return logged([json.loads(line) for line in log.read_text().splitlines()])


def run_factory(python: Path, folder: Path, passes: int) -> dict[str, float]:
    output = folder / f"factory-{passes}"
    shutil.rmtree(output, ignore_errors=True)
    settings = {
        "model_name_or_path": str(folder / "tiny"), "stage": "sft", "do_train": True, "finetuning_type": "full",
        "freeze_vision_tower": False, "freeze_multi_modal_projector": False, "template": "qwen3_vl_nothink",
        "dataset_dir": str(folder), "dataset": "pages", "cutoff_len": 8192, "overwrite_cache": True,
        "image_max_pixels": 1000000000, "image_min_pixels": 1, "output_dir": str(output), "overwrite_output_dir": True,
        "per_device_train_batch_size": 8 // passes, "gradient_accumulation_steps": passes, "learning_rate": 0.0,
        "max_steps": 1, "logging_steps": 1, "save_strategy": "no", "report_to": "none", "use_cpu": True, "bf16": False,
        "disable_gradient_checkpointing": True, "preprocessing_num_workers": 1, "dataloader_num_workers": 0,
    }  # fmt: skip
    (folder / "factory.yaml").write_text(json.dumps(settings))  # JSON is YAML
    labels = str(ROOT / "samples/labels")
    run_in(python, "-m", "dvsft.visionloss.llamafactory", str(folder / "factory.yaml"), "--labels", labels)
    return logged(json.loads((output / "trainer_state.json").read_text())["log_history"])


RUNS = {"TRL": run_trl, "ms-swift": run_swift, "LLaMA-Factory": run_factory}


def report(expected: dict[str, Any], found: dict[str, Any]) -> str:
    """docs/results/trainers.md."""
    method = (
        "`make check-trainers ARGS=--publish` writes this page. Each trainer has an environment of its own, with "
        "`dvsft-visionloss`. A tiny random Qwen3-VL takes one optimizer step over the eight bundled pages, in one pass "
        "of eight pages and in four of two. The equation, page by page, gives a vision loss of "
        f"{expected['vision_loss']:.6f} over {expected['labels']} labels."
    )
    outcome = (
        "The vision loss does not depend on the passes. The loss does where a trainer averages the text losses of "
        "passes, so that an answer counts more in a pass of short ones. ms-swift freezes the vision encoder and the "
        "merger by default, hence its smaller gradients."
    )
    figures = ("vision_loss", "loss", "grad_norm")
    lines = ["| trainer | versions | passes | vision loss | loss | gradient norm |", "|---|---|---|---|---|---|"]
    for name, one in sorted(found.items()):
        shown = ", ".join(f"{package} {version}" for package, version in one["versions"].items())
        for passes, run in one["runs"].items():
            cells = " | ".join(f"{run[figure]:.6f}" for figure in figures)
            lines.append(f"| {name} | {shown} | {passes} | {cells} |")
    paragraphs = [
        "# Other trainers",
        textwrap.fill(method, 118, break_on_hyphens=False),
        "\n".join(lines),
        textwrap.fill(outcome, 118, break_on_hyphens=False),
    ]
    return "\n\n".join(paragraphs) + "\n"


if __name__ == "__main__":
    sys.exit(main())
