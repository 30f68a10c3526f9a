"""Checkpoints that bring code, lack weights or are damaged: no code runs, and nobody is asked.

Each is loaded by a process whose stdin says yes to everything.
"""

import json
import pickle
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from tiny_families import make_idefics3

CODE = """
from pathlib import Path
Path({canary!r}).touch()
from transformers import *
class Evil(PreTrainedTokenizerFast): pass
"""
LOAD = """
import sys
from medeyes_monai.errors import ConfigError
from medeyes_monai.experts.pretrained import Pretrained
from medeyes_monai.policy import HuggingFacePolicy
for path in sys.argv[1:]:
    try:
        if path.endswith("adapter"):
            HuggingFacePolicy(sys.argv[1], adapter=path)
        elif path.endswith("expert"):
            from transformers import AutoModelForMaskGeneration, AutoProcessor
            loader = Pretrained(path)
            loader.part(AutoProcessor), loader.model(AutoModelForMaskGeneration)
        else:
            HuggingFacePolicy(path).conversation.prompt("Is it?", ())
        print(path, "loaded")
    except ConfigError as error:
        print(path, "refused", " ".join(str(error).split()))
    except BaseException as error:
        print(path, "raised", type(error).__name__, " ".join(str(error).split()))
"""


class Evil:
    """Makes a file where it is unpickled."""

    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return Path.touch, (self.canary,)


def change(folder, name, **values):
    file = folder / name
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def auto_map(name, kind, value="evil.Evil", **more):
    return lambda folder, _: change(folder, name, auto_map={kind: value}, **more)


def pickled(name, keep=False):
    def make(folder, canary):
        if not keep:
            (folder / "model.safetensors").unlink()
        (folder / name).write_bytes(pickle.dumps(Evil(canary)))

    return make


def template(text):
    return lambda folder, _: (folder / "chat_template.jinja").write_text(text)


def without(name, key=None):
    def make(folder, _):
        file = folder / name
        if key is None:
            file.unlink()
        else:
            content = json.loads(file.read_text())
            content.pop(key, None)
            file.write_text(json.dumps(content))

    return make


def no_template(folder, _):
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    without("tokenizer_config.json", "chat_template")(folder, _)


def truncated(folder, _):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:5000])


def huge_header(folder, _):
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 2**62) + b"{}")


def one_weight_less(folder, _):
    weights = load_file(folder / "model.safetensors")
    weights.pop(next(name for name in weights if "mlp" in name))
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def another_shape(folder, _):
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if "mlp" in name)
    weights[name] = weights[name][:1].clone()
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def another_dtype(kind):
    def make(folder, _):
        import torch

        weights = load_file(folder / "model.safetensors")
        weights = {name: value.to(getattr(torch, kind)) for name, value in weights.items()}
        save_file(weights, folder / "model.safetensors", {"format": "pt"})

    return make


def shards_elsewhere(folder, canary):
    (folder / "model.safetensors").rename(folder.parent / "outside.safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys(["lm_head.weight"], "../outside.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "other.safetensors").write_bytes(b"")


def adapter(**values):
    def make(folder, _):
        for file in folder.iterdir():
            file.unlink()
        settings = {
            "peft_type": "LORA",
            "base_model_name_or_path": "x",
            "target_modules": ["q_proj"],
            **values,
        }
        (folder / "adapter_config.json").write_text(json.dumps(settings))
        (folder / "adapter_model.safetensors").write_bytes(b"")

    return make


def with_lora(folder, _):
    settings = {"peft_type": "LORA", "base_model_name_or_path": str(folder), "target_modules": ["q_proj"]}
    settings |= {"megatron_config": {"a": 1}, "megatron_core": "evil"}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    (folder / "adapter_model.safetensors").write_bytes(b"")


MAP = {"AutoConfig": "evil.Evil", "AutoModelForImageTextToText": "evil.Evil"}
CHECKPOINTS = {
    "unknown_family": (
        "qwen3_vl",
        lambda f, _: change(f, "config.json", model_type="evil", auto_map=MAP),
        "refused",
    ),
    "known_family_with_code": ("qwen3_vl", lambda f, _: change(f, "config.json", auto_map=MAP), "loaded"),
    "code_of_the_hub": (
        "qwen3_vl",
        auto_map("config.json", "AutoConfig", "a/b--evil.Evil", model_type="e"),
        "refused",
    ),
    "tokenizer_with_code": (
        "qwen3_vl",
        auto_map("tokenizer_config.json", "AutoTokenizer", ["evil.Evil"] * 2),
        None,
    ),
    "unknown_tokenizer": (
        "qwen3_vl",
        auto_map("tokenizer_config.json", "AutoTokenizer", ["evil.Evil", None], tokenizer_class="Evil"),
        None,
    ),
    "image_processor_with_code": (
        "qwen3_vl",
        auto_map("preprocessor_config.json", "AutoImageProcessor"),
        "loaded",
    ),
    "processor_with_code": ("idefics3", auto_map("processor_config.json", "AutoProcessor"), None),
    "unknown_processor": (
        "idefics3",
        auto_map("processor_config.json", "AutoProcessor", processor_class="EvilProcessor"),
        "refused",
    ),
    "pickled_weights_alone": ("qwen3_vl", pickled("pytorch_model.bin"), "refused"),
    "pickled_weights_beside": ("qwen3_vl", pickled("pytorch_model.bin", keep=True), "loaded"),
    "pickle_called_safetensors": ("qwen3_vl", pickled("model.safetensors"), "refused"),
    "truncated": ("qwen3_vl", truncated, "refused"),
    "huge_header": ("qwen3_vl", huge_header, "refused"),
    "one_weight_less": ("qwen3_vl", one_weight_less, "refused"),
    "another_shape": ("qwen3_vl", another_shape, "refused"),
    "bfloat16": ("qwen3_vl", another_dtype("bfloat16"), "loaded"),
    "integers": ("qwen3_vl", another_dtype("int8"), "refused"),
    "eight_bits": ("qwen3_vl", another_dtype("float8_e4m3fn"), "refused"),
    "shards_elsewhere": ("qwen3_vl", shards_elsewhere, None),
    "gguf_weights": (
        "qwen3_vl",
        lambda f, _: change(f, "config.json", quantization_config={"quant_method": "gguf"}),
        "refused",
    ),
    "awq_weights": (
        "qwen3_vl",
        lambda f, _: change(f, "config.json", quantization_config={"quant_method": "awq", "bits": 4}),
        "refused",
    ),
    "template_that_breaks_out": (
        "qwen3_vl",
        template("{{ cycler.__init__.__globals__.os.system('touch canary') }}"),
        "refused",
    ),
    "template_of_attributes": (
        "qwen3_vl",
        template("{{ ''.__class__.__mro__[1].__subclasses__() }}{{ messages.append(1) }}"),
        "refused",
    ),
    "template_without_end": ("qwen3_vl", template("{% for a in"), "refused"),
    "no_template": ("qwen3_vl", no_template, "refused"),
    "no_json": ("qwen3_vl", lambda f, _: (f / "config.json").write_text("{"), "refused"),
    "tokenizer_of_another": ("qwen3_vl", lambda f, _: (f / "tokenizer.json").write_text("{}"), "refused"),
    "expert": (
        "qwen3_vl",
        auto_map("config.json", "AutoModelForMaskGeneration", model_type="evil"),
        "refused",
    ),
    "kernel_as_attention": (
        "qwen3_vl",
        lambda f, _: change(
            f, "config.json", _attn_implementation="evil/kernel", attn_implementation="evil/kernel"
        ),
        "refused",
    ),
    "megatron_adapter": ("qwen3_vl", adapter(megatron_config={"a": 1}, megatron_core="evil"), "refused"),
    "megatron_by_prefix_adapter": (
        "qwen3_vl",
        adapter(megatron_config={"a": 1}, megatron_core="megatron_evil"),
        "refused",
    ),
    "checkpoint_with_lora": ("qwen3_vl", with_lora, "refused"),
    "adapter_with_code": (
        "qwen3_vl",
        adapter(auto_mapping={"base_model_class": "Evil", "parent_library": "evil"}),
        "refused",
    ),
}
"""By name: the family that it is made of, what is changed, and what becomes of it; None for either."""


@pytest.fixture(scope="module")
def outcomes(checkpoints, tmp_path_factory):
    """Load all in one process, in whose folder the code lies, and return what became of each."""
    folder = tmp_path_factory.mktemp("hostile")
    canary = folder / "canary"
    code = CODE.format(canary=str(canary))
    for name in ("evil", "megatron_evil"):
        (folder / f"{name}.py").write_text(code)
    make_idefics3(folder / "idefics3")
    sources = checkpoints | {"idefics3": folder / "idefics3"}
    paths = [sources["qwen3_vl"]]
    for name, (family, spoil, _) in CHECKPOINTS.items():
        path = folder / name if "adapter" not in name else folder / name / "adapter"
        shutil.copytree(sources[family], path)
        spoil(path, canary)
        (path / "evil.py").write_text(code)
        paths.append(path)
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", LOAD, *map(str, paths)],
        cwd=folder,
        input="yes\n" * 100,
        capture_output=True,
        text=True,
        timeout=300,
        env={"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
        | {
            "HF_HOME": str(folder / "hub"),
            "HF_MODULES_CACHE": str(folder / "modules"),
            "PATH": "/usr/bin:/bin",
        },
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith(str(folder))]
    assert done.returncode == 0, done.stderr
    return {Path(line.split()[0]): line.split(maxsplit=2)[1:] for line in lines}, folder, done


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_checkpoint_is_loaded_without_its_code_or_refused_in_a_line(name, outcomes):
    became, folder, _ = outcomes
    path = folder / name if "adapter" not in name else folder / name / "adapter"
    wanted = CHECKPOINTS[name][2]
    assert became[path][0] in (("loaded", "refused") if wanted is None else (wanted,)), became[path]


def test_no_code_of_any_of_them_has_run_and_nobody_was_asked(outcomes):
    became, folder, done = outcomes
    assert len(became) == len(CHECKPOINTS)
    assert not (folder / "canary").exists()
    assert not (folder / "modules").exists()
    assert "[y/N]" not in done.stdout + done.stderr
